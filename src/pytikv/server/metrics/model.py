"""Counters and histograms as plain Python, and the families of samples in which they are shown.

A server counts on its hot path, where a metrics library costs more than the work: so what is counted are numbers in
slots, and everything else (names, labels, units, text) comes when somebody asks for the page. A `Family` is what the
page is made of; `exposition` gives it to prometheus_client.

Whoever counts is one thread, the loop's. Reading may be done by any: a reader may see an observation half, its sum
without its bucket, never a wrong number.

Source of the shapes: Prometheus' text format; `exponential` makes the buckets of TiKV's and PD's histograms.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

__all__ = ["Family", "Histogram", "Sample", "counter", "exponential", "gauge", "histogram"]

Kind = Literal["counter", "gauge", "histogram"]
Labels = Mapping[str, str]
NO_LABELS: Final[Labels] = {}


def exponential(start: float, factor: float, count: int) -> tuple[float, ...]:
    """Return `count` upper bounds, the first at `start`, each `factor` times the one before."""
    return tuple(start * factor**i for i in range(count))


class Histogram:
    """How many values lay below which bound. `counts` has one entry more than `bounds`: what lay above them all."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, or as many equal ones."""
        bounds = self.bounds
        self.counts[bisect_left(bounds, value) if value > bounds[0] else 0] += times  # often the lowest
        self.sum += value * times

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)


class Sample(NamedTuple):
    """One line of a page. `suffix` is what the line's name has behind the family's."""

    suffix: str
    labels: Labels
    value: float


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """All samples of one name."""

    name: str
    help: str
    kind: Kind
    samples: tuple[Sample, ...]


def counter(name: str, help: str, values: Iterable[tuple[Labels, float]]) -> Family:
    """Return a family of numbers that only grow."""
    return Family(name, help, "counter", tuple(Sample("", labels, value) for labels, value in values))


def gauge(name: str, help: str, values: Iterable[tuple[Labels, float]]) -> Family:
    """Return a family of numbers as they are now."""
    return Family(name, help, "gauge", tuple(Sample("", labels, value) for labels, value in values))


def histogram(name: str, help: str, values: Iterable[tuple[Labels, Histogram]]) -> Family:
    """Return a family of histograms, with cumulative buckets."""
    samples: list[Sample] = []
    for labels, each in values:
        below = 0
        for bound, count in zip((*map(_shown, each.bounds), "+Inf"), each.counts, strict=True):
            below += count
            samples.append(Sample("_bucket", {**labels, "le": bound}, below))
        samples.append(Sample("_sum", labels, each.sum))
        samples.append(Sample("_count", labels, below))
    return Family(name, help, "histogram", tuple(samples))


def _shown(bound: float) -> str:
    return f"{bound:.10g}"
