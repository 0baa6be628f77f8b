"""What came out: one result a program and mode, and the table of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass
class Result:
    """What one program's run came to."""

    peer: str
    mode: str
    passed: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    skipped: str = ""


def show(results: Sequence[Result]) -> None:
    """Print what came out, by rich where it is installed."""
    rows = []
    for r in results:
        state = f"skipped: {r.skipped}" if r.skipped else f"{len(r.failures)} failed" if r.failures else "passed"
        rows.append(
            [r.peer, r.mode, state, "" if r.skipped else str(r.passed), f"{r.seconds:.1f} s" if r.seconds else ""]
        )
    headings = ["peer", "mode", "result", "checks passed", "time"]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for row in [headings, *rows]:
            print("  ".join(f"{cell:<24}" for cell in row))
    else:
        table = Table(*headings)
        for row in rows:
            table.add_row(*row, style="yellow" if "skipped" in row[2] else "red" if "failed" in row[2] else "")
        Console(width=None if Console().is_terminal else 140).print(table)
    for r in results:
        for failure in r.failures:
            print(f"FAIL {r.peer}, {r.mode}: {failure}")
