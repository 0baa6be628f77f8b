"""Two reports side by side: what changed, and whether that is more than the noise of either run. Pure.

A figure's noise is seen in the run's own intervals: where the middle halves (first to third quartile) of the intervals'
values do not overlap, the change is *significant*. With fewer than 4 intervals in a run nothing is. The figures are
operations a second and P99 (of an interval, service or response as the run was paced), operation by operation; beside
them P50, P99 and P99.9 of the whole run are shown, which have no intervals to judge by.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Final

from pytikv.bench.report import Report

__all__ = ["Delta", "compared", "differences", "regressions"]

_INTERVALS_MIN: Final = 4
_WHOLE_RUN: Final = ("p50_us", "p99_us", "p99.9_us")


@dataclasses.dataclass(frozen=True, slots=True)
class Delta:
    """One figure of both runs. `change`: relative, 0.1 for 10 % more; None where the first is 0."""

    operation: str
    figure: str
    before: float
    after: float
    more_is_better: bool
    is_significant: bool

    @property
    def change(self) -> float | None:
        """The relative change."""
        return (self.after - self.before) / self.before if self.before else None

    @property
    def loss(self) -> float:
        """How much worse it is, relatively; negative: better."""
        change = self.change or 0.0
        return -change if self.more_is_better else change


def differences(before: Report, after: Report) -> list[str]:
    """Return what makes the two runs hard to compare: each option that is not the same."""
    found = []
    pairs = [("workload", before.workload, after.workload), ("api", before.api, after.api)]
    for part in ("load", "options", "machine"):
        one, other = getattr(before, part), getattr(after, part)
        pairs += [(name, one.get(name), other.get(name)) for name in dict.fromkeys([*one, *other])]
    for name, old, new in pairs:
        if old != new:
            found.append(f"{name}: {old} and {new}")
    return found


def compared(before: Report, after: Report) -> list[Delta]:
    """Return the figures of the operations that both runs have."""
    found = []
    for name, old in before.operations.items():
        new = after.operations.get(name)
        if new is None:
            continue
        found.append(_by_interval(name, "per_second", before, after, old.per_second, new.per_second))
        which = "response" if old.response and new.response else "service"
        one, other = getattr(old, which), getattr(new, which)
        for figure in _WHOLE_RUN:
            if figure not in one or figure not in other:
                continue
            if figure == "p99_us":
                found.append(_by_interval(name, figure, before, after, one[figure], other[figure]))
            else:
                found.append(Delta(name, figure, one[figure], other[figure], False, False))
    return found


def regressions(deltas: Sequence[Delta], limit: float) -> list[Delta]:
    """Return the significant changes for the worse that are over `limit` (0.1: 10 %)."""
    return [delta for delta in deltas if delta.is_significant and delta.loss > limit]


def _by_interval(name: str, figure: str, before: Report, after: Report, old: float, new: float) -> Delta:
    values = [[getattr(one, figure)[name] for one in report.intervals] for report in (before, after)]
    return Delta(name, figure, old, new, figure == "per_second", _are_apart(*values))


def _are_apart(one: Sequence[float], other: Sequence[float]) -> bool:
    if min(len(one), len(other)) < _INTERVALS_MIN:
        return False
    low, _, high = statistics.quantiles(one, n=4)
    other_low, _, other_high = statistics.quantiles(other, n=4)
    return high < other_low or other_high < low
