"""How a value prints itself: a table and some facts, as text and as HTML."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Sheet", "format_bytes"]


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


@dataclass(frozen=True)
class Sheet:
    """What there is to say of a value.

    Attributes
    ----------
    kind, name : str
        Such as ``"xspinn.Plan"``, and what tells it from others.
    columns : sequence of str
        Heads of the table.
    rows : sequence of sequence of str
    facts : sequence of tuple of str
        Below the table: names and what they are.
    left : collection of str
        Columns of words, which begin at the left; numbers end at the right.

    Examples
    --------
    >>> print(Sheet("Plan", "ab12", ["dim", "size"], [["y", "100"]], [("batch", "4")], ["dim"]))
    <Plan ab12>
      dim  size
      y     100
    batch:      4
    """

    kind: str
    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    facts: Sequence[tuple[str, str]]
    left: Collection[str] = ()

    def __str__(self) -> str:
        table = [self.columns, *self.rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(self.columns))]
        lines = [f"<{self.kind} {self.name}>"]
        for row in table:
            cells = [
                cell.ljust(width) if column in self.left else cell.rjust(width)
                for column, cell, width in zip(self.columns, row, widths, strict=True)
            ]
            lines.append("  " + "  ".join(cells).rstrip())
        lines += [f"{name + ':':<12}{value}" for name, value in self.facts]
        return "\n".join(lines)

    def html(self) -> str:
        """Return the sheet as an HTML fragment."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows
        )
        facts = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(value)}</td></tr>"
            for name, value in self.facts
        )
        return (
            f"<div><strong>{escape(self.kind)}</strong> <code>{escape(self.name)}</code>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"<table><tbody>{facts}</tbody></table></div>"
        )
