"""What a plan says of itself: its core dims as a table, and what else is settled."""

from __future__ import annotations

from xspinn.geometry.axis import Axis
from xspinn.plans import costs
from xspinn.plans.parts import Output
from xspinn.plans.settled import Settled
from xspinn.plans.sheet import Sheet, format_bytes

__all__ = ["plan_sheet"]

COLUMNS = ("dim", "size", "patch", "overlap", "patches", "blocks", "block", "boundary", "window")


def plan_sheet(plan: Settled, name: str) -> Sheet:
    """Return the sheet of a plan.

    Parameters
    ----------
    plan : Settled
    name : str
        What tells it from other plans.

    Returns
    -------
    Sheet
    """
    rows = list(map(_row, plan.axes))
    return Sheet("xspinn.Plan", name, COLUMNS, rows, _facts(plan), ("dim", "boundary", "window"))


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


def _output(plan: Settled, output: Output) -> str:
    prints = plan.footprints(output)
    sizes = {axis.dim: p.size for axis, p in zip(plan.axes, prints, strict=True)}
    sizes |= {loop.dim: loop.size for loop in plan.loops}
    if output.dim is not None:
        sizes[output.dim] = output.channels or 1
    text = "(" + ", ".join(f"{dim}: {sizes[dim]}" for dim in plan.result_dims(output)) + ")"
    if plan.rule.classes:
        text += f" of {output.channels} classes"
    return f"{output.name + ' ' if output.name else ''}{text} {output.dtype}"


def _facts(plan: Settled) -> list[tuple[str, str]]:
    """What is said of a plan beside its table of dims."""
    facts = [
        ("input", f"{plan.dtype}, {format_bytes(costs.input_bytes(plan))}, fed as {plan.feed}"),
        ("patches", f"{plan.n_patches:,} in batches of {plan.batch}"),
        ("model", str(plan.tuning)),
        ("blocks", f"{plan.n_blocks:,} of up to {format_bytes(costs.block_bytes(plan))}"),
        ("read twice", f"{format_bytes(costs.halo_bytes(plan))} of halo"),
        ("spill", f"{format_bytes(costs.spill_bytes(plan))} to neighbours"),
        ("peak", f"{format_bytes(costs.peak_bytes(plan))} a worker, and the model's own"),
        ("combine", plan.combine + (f" after {plan.activation}" if plan.activation else "")),
    ]
    if plan.channel is not None:
        facts.insert(1, ("channels", f"{plan.channel}: {plan.channels}"))
    if plan.loops:
        facts.insert(1, ("loops", ", ".join(f"{loop.dim}: {loop.size}" for loop in plan.loops)))
    facts += [("output", _output(plan, output)) for output in plan.outputs]
    return facts
