"""Latencies of one kind of operation: percentiles, rate, histogram. All are kept, in nanoseconds, 8 bytes each."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Latencies"]

T = TypeVar("T")


class Latencies:
    """A collection of latencies; `seconds` is the time that they took together unless set (several at once)."""

    def __init__(self) -> None:
        self._nanoseconds = array("q")
        self._sorted = True
        self.elapsed_seconds: float | None = None

    def __len__(self) -> int:
        return len(self._nanoseconds)

    def measure(self, function: Callable[..., T], *args: Any) -> T:
        """Call the function, noting how long it took."""
        start = time.perf_counter_ns()
        result = function(*args)
        self.add(time.perf_counter_ns() - start)
        return result

    def add(self, nanoseconds: int) -> None:
        """Note one latency."""
        self._nanoseconds.append(nanoseconds)
        self._sorted = False

    def extend(self, other: Latencies) -> None:
        """Take over the latencies of another collection."""
        self._nanoseconds.extend(other._nanoseconds)
        self._sorted = False

    def percentile_us(self, percent: float) -> float:
        """Return the smallest latency, in microseconds, that `percent` of all do not exceed; 0.0 when there is none."""
        values = self._in_order()
        if not values:
            return 0.0
        return values[max(0, math.ceil(len(values) * percent / 100) - 1)] / 1000

    @property
    def seconds(self) -> float:
        """The time all operations took."""
        return self.elapsed_seconds if self.elapsed_seconds is not None else sum(self._nanoseconds) / 1e9

    @property
    def per_second(self) -> float:
        """Operations a second."""
        return len(self) / self.seconds if self.seconds else 0.0

    def histogram(self, buckets: int = 12) -> list[tuple[float, float, int]]:
        """Return (from, to, count) of buckets that grow by a constant factor between P1 and P99.9, in microseconds.

        What is below or above is counted in the first or the last bucket.
        """
        values = self._in_order()
        if not values:
            return []
        low, high = max(self.percentile_us(1), 0.1), max(self.percentile_us(99.9), 0.2)
        factor = max((high / low) ** (1 / buckets), 1.0001)
        bounds = [low * factor**index for index in range(buckets + 1)]
        counts = [0] * buckets
        for value in values:
            position = int(math.log(max(value / 1000 / low, 1.0)) / math.log(factor))
            counts[min(position, buckets - 1)] += 1
        return list(zip(bounds, bounds[1:], counts, strict=False))

    def summary(self) -> dict[str, float]:
        """Return the figures that tables and JSON show; latencies in microseconds."""
        return {
            "operations": len(self),
            "per_second": round(self.per_second, 1),
            "p50_us": round(self.percentile_us(50), 1),
            "p95_us": round(self.percentile_us(95), 1),
            "p99_us": round(self.percentile_us(99), 1),
            "max_us": round(self.percentile_us(100), 1),
        }

    def _in_order(self) -> array[int]:
        if not self._sorted:
            self._nanoseconds = array("q", sorted(self._nanoseconds))
            self._sorted = True
        return self._nanoseconds
