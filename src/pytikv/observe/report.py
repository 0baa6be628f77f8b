"""What `pytikv.profile` found, for people and programs: a table, bars, a page, a dictionary.

Numbers are seconds unless a name says otherwise. `str(report)` is the table; a console of rich (`rich.print(report)`)
shows it in rich's own manner. Reading needs no lock: a report is written once, when its block ends.
"""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pytikv.observe import flame as charts
from pytikv.observe.attribution import Part, Shares, Slot
from pytikv.observe.text_table import Column, render

__all__ = ["MethodStats", "Report", "StoreStats"]


@dataclasses.dataclass(slots=True)
class _Stats:
    """How often, how long, how badly."""

    count: int = 0
    failed: int = 0
    seconds: float = 0.0
    max_seconds: float = 0.0

    def add(self, seconds: float, *, is_failed: bool) -> None:
        """Count one."""
        self.count += 1
        self.failed += is_failed
        self.seconds += seconds
        self.max_seconds = max(self.max_seconds, seconds)

    @property
    def mean_seconds(self) -> float:
        """The mean duration; 0 where there was none."""
        return self.seconds / self.count if self.count else 0.0


class MethodStats(_Stats):
    """The calls of one method. `seconds` is the sum of their durations: more than the block's where calls overlap."""


class StoreStats(_Stats):
    """The RPCs to one store or PD."""


@dataclasses.dataclass(slots=True)
class Report:
    """Where the time of a block went."""

    seconds: float = 0.0
    """Duration of the block; the parts add up to it."""
    thread_cpu_seconds: float = 0.0
    """CPU time of the thread that the block ran in."""
    process_cpu_seconds: float = 0.0
    """CPU time of all threads of the process."""
    shares: Shares = dataclasses.field(default_factory=dict)
    """Seconds by method, part, name and store: the finest division, of which all others are sums."""
    methods: dict[str, MethodStats] = dataclasses.field(default_factory=dict)
    stores: dict[str, StoreStats] = dataclasses.field(default_factory=dict)

    @property
    def parts(self) -> dict[Part, float]:
        """Seconds by part, in the order of `Part`; parts without time are left out."""
        sums = self._sums(lambda slot: slot.part)
        return {part: sums[part] for part in Part if part in sums}

    @property
    def calls(self) -> int:
        """Calls that ended in the block."""
        return sum(stats.count for stats in self.methods.values())

    def table(self, width: int = 100) -> str:
        """Return three tables as text of at most `width` columns: parts, methods, stores."""
        blocks = [self._headline()]
        blocks += ["\n".join(render(columns, rows, width)) for columns, rows in self._tables(width) if rows]
        return "\n\n".join(blocks)

    def flame(self, width: int = 100) -> str:
        """Return bars as text: the block, its methods, what they did, and where that time went, longest first."""
        return "\n".join(charts.bars(self._tree(), width))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a page with the chart and the tables; it needs nothing else. Raises OSError."""
        Path(path).write_text(self.to_html(), encoding="utf-8")

    def to_html(self) -> str:
        """Return the page that `save` writes."""
        tables = [(columns, rows) for columns, rows in self._tables(100) if rows]
        return charts.page(self._tree(), self._headline(), tables)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON: `parts` by their names, `methods`, `stores`, and `shares` as a list."""
        return {
            "seconds": self.seconds,
            "thread_cpu_seconds": self.thread_cpu_seconds,
            "process_cpu_seconds": self.process_cpu_seconds,
            "parts": {part.value: seconds for part, seconds in self.parts.items()},
            "methods": {name: dataclasses.asdict(stats) for name, stats in sorted(self.methods.items())},
            "stores": {name: dataclasses.asdict(stats) for name, stats in sorted(self.stores.items())},
            "shares": [
                {"method": slot.method, "part": slot.part.value, "name": slot.name, "store": slot.store, "seconds": s}
                for slot, s in sorted(self.shares.items(), key=lambda item: -item[1])
            ],
        }

    def __str__(self) -> str:
        return self.table()

    def __rich__(self) -> Any:
        """What a console of rich prints."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        shown: list[Any] = [Text(self._headline(), style="bold")]
        for columns, rows in self._tables(100):
            if rows:
                table = Table(header_style="bold")
                for column in columns:
                    table.add_column(column.title, justify="left" if column.is_text else "right")
                for row in rows:
                    table.add_row(*(Text(cell) for cell in row))
                shown.append(table)
        return Group(*shown)

    # --- what is shown ------------------------------------------------------------------------------------------------

    def _headline(self) -> str:
        failed = sum(stats.failed for stats in self.methods.values())
        calls = f"{self.calls} call{'' if self.calls == 1 else 's'}" + (f", {failed} failed" if failed else "")
        thread, process = charts.duration(self.thread_cpu_seconds), charts.duration(self.process_cpu_seconds)
        return f"{charts.duration(self.seconds)} in {calls}; CPU: {thread} of this thread, {process} of the process"

    def _tables(self, width: int) -> list[tuple[Sequence[Column], list[list[str]]]]:
        return [self._parts_table(width), self._methods_table(), self._stores_table()]

    def _parts_table(self, width: int) -> tuple[Sequence[Column], list[list[str]]]:
        bar = max(10, min(40, width - 46))
        columns = (Column("where the time went", is_text=True), Column("time"), Column("%"), Column("", is_text=True))
        rows = [
            [part.value, charts.duration(seconds), self._percent(seconds), charts.bar(seconds / self.seconds, bar)]
            for part, seconds in sorted(self.parts.items(), key=lambda item: -item[1])
            if self.seconds
        ]
        return columns, rows

    def _methods_table(self) -> tuple[Sequence[Column], list[list[str]]]:
        share = self._sums(lambda slot: slot.method)
        by_part = self._sums(lambda slot: (slot.method, slot.part))
        columns = (Column("method", is_text=True), *map(Column, ("calls", "failed", "share", "%", "mean", "max")))
        rows = []
        for method, stats in sorted(self.methods.items(), key=lambda item: -share[item[0]]):
            mostly = max((part for part in Part), key=lambda part: by_part[method, part])
            figures = [charts.duration(share[method]), self._percent(share[method]), *_times(stats)]
            rows.append([method, str(stats.count), str(stats.failed), *figures, mostly.value])
        return (*columns, Column("mostly", is_text=True)), rows

    def _stores_table(self) -> tuple[Sequence[Column], list[list[str]]]:
        sums = self._sums(lambda slot: (slot.store, slot.part))
        columns = (Column("store", is_text=True), *map(Column, ("RPCs", "failed", "network", "server", "mean", "max")))
        rows = []
        for store, stats in sorted(self.stores.items(), key=lambda item: -item[1].seconds):
            server = sums[store, Part.SERVER] + sums[store, Part.SERVER_QUEUE] + sums[store, Part.LOCK_WAIT]
            figures = [charts.duration(sums[store, Part.NETWORK]), charts.duration(server), *_times(stats)]
            rows.append([store, str(stats.count), str(stats.failed), *figures])
        return columns, rows

    def _percent(self, seconds: float) -> str:
        return f"{100 * seconds / self.seconds:.1f}" if self.seconds else "0.0"

    def _sums(self, key: Callable[[Slot], Any]) -> defaultdict[Any, float]:
        sums: defaultdict[Any, float] = defaultdict(float)
        for slot, seconds in self.shares.items():
            sums[key(slot)] += seconds
        return sums

    def _tree(self) -> charts.Node:
        return charts.grow({_path(slot): seconds for slot, seconds in self.shares.items()}, "all")


def _times(stats: _Stats) -> list[str]:
    return [charts.duration(stats.mean_seconds), charts.duration(stats.max_seconds)]


def _path(slot: Slot) -> tuple[str, ...]:
    """Where a slot stands in the chart: method, then the RPC and its store, then the part."""
    if not slot.method:
        return (slot.part.value,)
    if slot.store and slot.name:
        return (slot.method, f"{slot.name} {slot.store}", slot.part.value)
    return (slot.method, slot.part.value, slot.name) if slot.name else (slot.method, slot.part.value)
