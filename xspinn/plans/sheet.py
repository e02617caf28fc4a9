"""How a plan looks: as text in a terminal, as HTML in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xspinn.geometry.axis import Axis
    from xspinn.plans.plan import Output, Plan

__all__ = ["format_bytes", "plan_html", "plan_text"]


def format_bytes(n: float) -> str:
    """Format a number of bytes.

    Examples
    --------
    >>> format_bytes(0), format_bytes(2500), format_bytes(64 * 2**20)
    ('0 B', '2.4 KiB', '64.0 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if n < 1024 or unit == "TiB":
            break
        n /= 1024
    return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"


COLUMNS = ("dim", "size", "patch", "overlap", "patches", "blocks", "block", "boundary", "window")


def _row(axis: Axis) -> tuple[str, ...]:
    window = axis.window if isinstance(axis.window, str) else "custom"
    return (
        axis.dim,
        f"{axis.size:,}",
        str(axis.patch),
        str(axis.overlap),
        f"{len(axis.starts):,}",
        str(axis.n_blocks),
        str(max(axis.chunks)),
        str(axis.boundary),
        window,
    )


def _output(plan: Plan, output: Output) -> str:
    prints = plan.footprints(output)
    sizes = {axis.dim: p.size for axis, p in zip(plan.axes, prints, strict=True)}
    sizes |= {loop.dim: loop.size for loop in plan.loops}
    if output.dim is not None:
        sizes[output.dim] = output.channels or 1
    text = "(" + ", ".join(f"{dim}: {sizes[dim]}" for dim in plan.result_dims(output)) + ")"
    if plan.rule.classes:
        text += f" of {output.channels} classes"
    return f"{output.name + ' ' if output.name else ''}{text} {output.dtype}"


def _facts(plan: Plan) -> list[tuple[str, str]]:
    """What is said of a plan beside its table of dims."""
    facts = [
        ("input", f"{plan.dtype}, {format_bytes(plan.input_bytes)}, fed as {plan.feed}"),
        ("patches", f"{plan.n_patches:,} in batches of {plan.batch}"),
        ("model", str(plan.tuning)),
        ("blocks", f"{plan.n_blocks:,} of up to {format_bytes(plan.block_bytes)}"),
        ("read twice", f"{format_bytes(plan.halo_bytes)} of halo"),
        ("spill", f"{format_bytes(plan.spill_bytes)} to neighbours"),
        ("peak", f"{format_bytes(plan.peak_bytes())} a worker, and the model's own"),
        ("combine", plan.combine + (f" after {plan.activation}" if plan.activation else "")),
    ]
    if plan.channel is not None:
        facts.insert(1, ("channels", f"{plan.channel}: {plan.channels}"))
    if plan.loops:
        facts.insert(1, ("loops", ", ".join(f"{loop.dim}: {loop.size}" for loop in plan.loops)))
    facts += [("output", _output(plan, output)) for output in plan.outputs]
    return facts


def plan_text(plan: Plan) -> str:
    """Return a plan as lines of text."""
    rows = [COLUMNS, *map(_row, plan.axes)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = [f"<xspinn.Plan {plan.fingerprint[:8]}>"]
    for row in rows:
        cells = [
            cell.ljust(width) if i in (0, 7, 8) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    lines += [f"{name + ':':<12}{value}" for name, value in _facts(plan)]
    return "\n".join(lines)


def plan_html(plan: Plan) -> str:
    """Return a plan as an HTML fragment."""
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _row(axis)) + "</tr>"
        for axis in plan.axes
    )
    facts = "".join(
        f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>"
        f"{escape(value)}</td></tr>"
        for name, value in _facts(plan)
    )
    return (
        f"<div><strong>xspinn.Plan</strong> <code>{plan.fingerprint[:8]}</code>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"<table><tbody>{facts}</tbody></table></div>"
    )
