"""What was measured, as lines with goals: a table for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


@dataclasses.dataclass
class Line:
    """One measure. `value` is held against `goal`, or `skipped` says why there is none."""

    name: str
    unit: str = ""
    value: float | None = None
    goal: float | None = None
    lower_is_better: bool = True
    detail: str = ""
    arrangement: str = ""
    load: float | None = None  # of the machine, over the minute before the end of the measurement
    spread: tuple[float, float] | None = None  # quartiles of the rounds' values
    skipped: str = ""
    rounds: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    @property
    def missed_by(self) -> float | None:
        """By what part of the goal it was missed; 0 when met, None when there is no goal or no value."""
        if self.goal is None or self.value is None:
            return None
        over = self.value / self.goal - 1 if self.lower_is_better else self.goal / max(self.value, 1e-12) - 1
        return max(0.0, over)

    @property
    def verdict(self) -> str:
        """`met`, `missed by 12%`, why it was not measured, or nothing for a line without a goal.

        `unsure` is added where the goal lies between the quartiles of the rounds: a repetition may say otherwise.
        """
        if self.skipped:
            return f"not measured: {self.skipped}"
        missed = self.missed_by
        if missed is None:
            return ""
        verdict = f"missed by {missed:.0%}" if round(missed, 2) else "met"
        unsure = self.spread is not None and self.goal is not None and self.spread[0] < self.goal < self.spread[1]
        return f"{verdict}, unsure" if unsure else verdict

    def cells(self) -> list[str]:
        """The table's row."""
        value = "" if self.value is None else f"{_number(self.value)} {self.unit}"
        if self.spread is not None:
            value += f" ({_number(self.spread[0])} to {_number(self.spread[1])})"
        sign = "≤" if self.lower_is_better else "≥"
        goal = "" if self.goal is None else f"{sign} {_number(self.goal)}"
        return [
            self.name,
            self.arrangement,
            value,
            goal,
            self.verdict,
            self.detail,
            "" if self.load is None else f"{self.load:.1f}",
        ]


HEADINGS = ["measure", "cores", "value", "goal", "verdict", "detail", "load"]


def _number(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:,.1f}k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show(lines: Sequence[Line]) -> None:
    """Print the table, by rich where it is installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(markdown(lines))
        return
    table = Table(*HEADINGS)
    for line in lines:
        style = "red" if line.missed_by else "yellow" if line.skipped else ""
        table.add_row(*line.cells(), style=style)
    Console(width=None if Console().is_terminal else 200).print(table)


def markdown(lines: Sequence[Line]) -> str:
    """The table in Markdown."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *(line.cells() for line in lines)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def save(directory: Path, stem: str, about: dict[str, Any], lines: Sequence[Line]) -> Path:
    """Write `stem.json` and `stem.md`; answers the path of the table."""
    directory.mkdir(exist_ok=True)
    listed = [{**dataclasses.asdict(line), "missed_by": line.missed_by, "verdict": line.verdict} for line in lines]
    (directory / f"{stem}.json").write_text(json.dumps({**about, "lines": listed}, indent=1) + "\n")
    facts = ", ".join(f"{name} {value}" for name, value in about.items() if not isinstance(value, dict))
    machine = ", ".join(f"{value}" if name != "cores" else f"{value} cores" for name, value in about["machine"].items())
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    page = directory / f"{stem}.md"
    text = (
        f"# Benchmark: {stem}\n\n{facts}\n\n{machine}\n\nCompared with: {versions or 'nothing'}\n\n{markdown(lines)}\n"
    )
    page.write_text(text)
    return page
