"""Tables as text: columns as wide as their cells, numbers to the right, what does not fit cut at the right margin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Column", "render"]


class Column(NamedTuple):
    """One column; texts stand left, numbers right."""

    title: str
    is_text: bool = False


def render(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table, head first."""
    head = [column.title for column in columns]
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(columns))]
    lines = []
    for row in (head, ["-" * size for size in widths], *rows):
        cells = [
            cell.ljust(size) if column.is_text else cell.rjust(size)
            for cell, size, column in zip(row, widths, columns, strict=True)
        ]
        lines.append("  ".join(cells)[:width].rstrip())
    return lines
