"""Histograms for what is counted with every call: prometheus_client's figures at a fifth of the time.

A series is a `Cell`: a list of values that were observed and not counted yet. Observing is `append`, one step for any
number of threads; every `FULL` values, and at a scrape, they are sorted and counted into the buckets all at once. The
figures are exact, and what they cost is paid where nobody waits.

Several processes count into files, where a value that waits in a list would be missing: there a cell is
prometheus_client's own series (`SharedCell`).
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, Final

from prometheus_client import Histogram
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from pytikv.observe.metrics.buckets import IS_MULTIPROCESS

__all__ = ["FULL", "Cell", "CellHistogram", "SharedCell"]

FULL: Final = 512
"""Values that wait in a cell at most, about."""


class Cell(list[float]):
    """One series: the values that are not counted yet, and the counts of the others."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__()
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}
        self._lock = threading.Lock()

    def mark(self, value: float, trace_id: str) -> None:
        """Let `trace_id` be the example of the bucket that a value falls into."""
        self._exemplars[bisect_left(self._bounds, value)] = Exemplar({"trace_id": trace_id}, value, time.time())

    def settle(self) -> None:
        """Count what waits."""
        with self._lock:
            size = len(self)
            values = self[:size]
            del self[:size]  # values that came meanwhile stand behind
            values.sort()
            below = 0
            for place, bound in enumerate(self._bounds):
                upto = bisect_right(values, bound)
                self._counts[place] += upto - below
                below = upto
            self._counts[-1] += size - below
            self._sum += sum(values)

    def total(self) -> int:
        """How many values were observed."""
        self.settle()
        return sum(self._counts)

    def buckets(self) -> tuple[list[Any], float]:
        """Return the buckets as prometheus_client wants them, and the sum."""
        self.settle()
        with self._lock:
            found: list[Any] = []
            total = 0
            for place, bound in enumerate((*self._bounds, float("inf"))):
                total += self._counts[place]
                found.append((_text_of(bound), total, self._exemplars.get(place)))
            return found, self._sum


def _text_of(bound: float) -> str:
    text: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
    return text


class SharedCell:
    """A series of prometheus_client's, with the methods of a `Cell`."""

    __slots__ = ("append",)

    def __init__(self, series: Histogram) -> None:
        self.append = series.observe

    def __len__(self) -> int:
        return 0

    def mark(self, value: float, trace_id: str) -> None:
        """Do nothing: files have no place for exemplars."""

    def settle(self) -> None:
        """Do nothing: nothing waits."""


class CellHistogram:
    """A histogram whose series are cells. Keep what `cell` returns: asking for it is the slow part."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self._bounds = tuple(bounds)
        self._shared = Histogram(name, text, labels, buckets=bounds, registry=None) if IS_MULTIPROCESS else None
        self.cells: dict[tuple[str, ...], Cell | SharedCell] = {}
        """The series there are, by the values of their labels."""

    def cell(self, *values: str) -> Cell | SharedCell:
        """Return the series of these values of the labels, made at need."""
        found = self.cells.get(values)
        if found is None:
            made = (
                Cell(self._bounds)
                if self._shared is None
                else SharedCell(self._shared.labels(*values) if values else self._shared)
            )
            found = self.cells.setdefault(values, made)  # one step: two threads get the same one
        return found

    def collect(self) -> Iterator[Metric]:
        """Return the figures."""
        if self._shared is not None:
            yield from self._shared.collect()
            return
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, cell in list(self.cells.items()):
            assert isinstance(cell, Cell)
            family.add_metric(values, *cell.buckets())
        yield family

    def describe(self) -> Iterator[Metric]:
        """Return the name."""
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)
