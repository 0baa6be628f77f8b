"""A comparison over the network: contenders in processes of their own against one server, and lines of the table."""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Sequence

import harness
from harness import Entry, Unavailable, Worker, interleave
from report import Line


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    round_seconds: float
    largest_store: int
    largest_region_cache: int
    import_rows: int


QUICK = Effort(rounds=3, round_seconds=0.25, largest_store=10**5, largest_region_cache=10**6, import_rows=50_000)
FULL = Effort(rounds=9, round_seconds=0.7, largest_store=10**6, largest_region_cache=10**6, import_rows=300_000)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A worker to start. Those `of_peers` run in the peers' environment and take PD's address where ours take a URL."""

    name: str
    script: str
    arguments: tuple[str, ...] = ()
    of_peers: bool = False

    def start(self, url: str, arrangement: str) -> Worker:
        """Start it against a server. Raises Unavailable."""
        python = harness.peers_python() if self.of_peers else sys.executable
        target = url.removeprefix("tikv://") if self.of_peers or self.script == "floor.py" else url
        return Worker(self.name, self.script, target, *self.arguments, python=python, arrangement=arrangement)


class Network:
    """The workers of one arrangement, all against one server; those that cannot run leave their reason."""

    def __init__(
        self, server: harness.Server, contenders: Sequence[Contender], effort: Effort, arrangement: str
    ) -> None:
        self.server, self.effort, self.arrangement = server, effort, arrangement
        self.workers: dict[str, Worker] = {}
        self.missing: dict[str, str] = {}
        for contender in contenders:
            try:
                self.workers[contender.name] = contender.start(server.url, arrangement)
            except Unavailable as error:
                self.missing[contender.name] = str(error)

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers.values():
            worker.close()

    def compare(self, *wanted: tuple[str, str], probe: int = 100) -> dict[str, Entry]:
        """Run (worker, case) pairs in rounds; those that are missing or fail are left out, and leave their reason."""
        entries = {}
        for name, case in wanted:
            if name in self.workers:
                label = name if case.startswith("get") else f"{name} {case}"
                entry = Entry(label, self.workers[name], case, probe)
                try:
                    entry.prepare(self.effort.round_seconds)
                except Unavailable as error:
                    self.missing[f"{name}/{case}"] = str(error)
                else:
                    entries[f"{name}/{case}"] = entry
        interleave(list(entries.values()), rounds=self.effort.rounds, round_seconds=self.effort.round_seconds)
        return entries

    def against(
        self,
        entries: dict[str, Entry],
        name: str,
        above: str,
        below: str,
        *,
        unit: str = "x",
        goal: float | None = None,
        lower: bool = False,
        divisor: float = 1.0,
    ) -> Line:
        """A line from two compared entries (see `ratio_line`), or one that says which is missing."""
        for key in (above, below):
            if key not in entries:
                reason = self.missing.get(key) or self.missing.get(key.partition("/")[0], "not offered")
                return Line(name, skipped=reason, goal=goal, lower_is_better=lower, arrangement=self.arrangement)
        return ratio_line(
            name,
            entries[above],
            entries[below],
            goal=goal,
            unit=unit,
            lower=lower,
            arrangement=self.arrangement,
            divisor=divisor,
        )


def ratio_line(
    name: str,
    above: Entry,
    below: Entry,
    *,
    goal: float | None,
    unit: str = "x",
    lower: bool = True,
    arrangement: str = "",
    divisor: float = 1.0,
) -> Line:
    """A line whose value is how many times longer `above` takes than `below`, divided by `divisor`."""
    ratios = [ratio / divisor for ratio in harness.ratios(above, below)]
    return Line(
        name=name,
        unit=unit,
        value=statistics.median(ratios),
        spread=harness.quartiles(ratios),
        goal=goal,
        lower_is_better=lower,
        detail=f"{above.label} {above.median_us:.1f} us, {below.label} {below.median_us:.1f} us",
        arrangement=arrangement,
        load=harness.load(),
        rounds={entry.label: entry.seconds for entry in (above, below)},
    )
