"""Rendering: what goes to standard output and how. Standard output holds results only, everything else is on stderr.

Tables and colours are for terminals; into a pipe go plain lines (tab-separated) or, with `--json`, one object a line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytikv.transfer.escape import escape

if TYPE_CHECKING:
    from rich.progress import Progress

    from pytikv import Timestamp

__all__ = [
    "line",
    "note",
    "pair_record",
    "print_json",
    "progress",
    "styled",
    "table",
    "time_text",
    "value_text",
    "write_raw",
]


def line(text: str) -> None:
    """Print a line of result."""
    sys.stdout.write(text + "\n")


def styled(text: str, style: str) -> None:
    """Print a line of result; on a terminal in a style of rich's, such as `bold` or `green`."""
    if not sys.stdout.isatty():
        line(text)
        return
    from rich.console import Console
    from rich.text import Text

    Console().print(Text(text, style=style), soft_wrap=True)


def note(text: str) -> None:
    """Print a line for people, on standard error."""
    sys.stderr.write(text + "\n")


def write_raw(data: bytes) -> None:
    """Write bytes as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def print_json(record: Any) -> None:
    """Print one JSON value on a line of its own."""
    line(json.dumps(record, ensure_ascii=False))


def pair_record(key: bytes, value: bytes | None) -> dict[str, Any]:
    """Return a pair as JSON shows it: escaped, so that any bytes come back exactly."""
    return {"key": escape(key), "value": None if value is None else escape(value)}


def value_text(value: bytes, *, raw: bool) -> str:
    """Return a value as a line shows it."""
    return value.decode("utf-8", "backslashreplace") if raw else escape(value)


def time_text(ts: Timestamp) -> str:
    """Return the moment of a timestamp, in UTC, to the millisecond."""
    return ts.datetime.isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    right: int = 99,
    always: bool = False,
) -> None:
    """Print a table on a terminal, elsewhere (unless `always`) lines with tabs. `right`: first column of numbers."""
    if not sys.stdout.isatty() and not always:
        for row in rows:
            line("\t".join(str(cell) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=title or None, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="right" if index >= right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(str(cell) for cell in row))
    Console().print(grid)


def progress(*, known: bool) -> Progress:
    """Return a progress bar on standard error, silent where that is no terminal; `known`: its end is known."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    parts: list[Any] = [SpinnerColumn(), TextColumn("{task.description}")]
    if known:
        parts += [BarColumn(), TextColumn("{task.percentage:>3.0f}%")]
    parts += [TextColumn("{task.fields[detail]}"), TimeElapsedColumn()]
    return Progress(*parts, console=console, transient=True, disable=not console.is_terminal)
