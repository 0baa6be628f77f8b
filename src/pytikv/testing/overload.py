"""Goodput under overload, with and without guards: the same stores, the same calls, load from a quarter to three times.

A `Point` is one experiment at one load, a `Curve` one setting at many loads. Load 1 is what all stores together can
carry out. Without guards, every call waits in a store's queue; as soon as that is longer than a call's deadline, the
stores answer nothing but calls that have been given up, and goodput falls to nothing though the stores work without
pause. With guards, a client sends as much as is answered in time and refuses the rest at once.

Clients do not know of each other: what each has learnt is its own, and each may always have one request under way at a
store. So there is a number of clients above which nothing but a bounded queue at the store helps (`queue_limit`):
roughly deadline times capacity. Clients that begin in the midst of overload need some seconds to learn it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pytikv.testing.capacity import Capacity
from pytikv.testing.load import LoadRun, between, errors_of, goodput, percentile

__all__ = ["GUARDS", "LOADS", "Curve", "OverloadOptions", "Point", "run_curve", "run_point"]

LOADS: Final = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)

GUARDS: Final[Mapping[str, Any]] = {"adaptive_limit": True, "bulkhead": True, "breaker": True, "retry_budget": True}
"""The options of a client that is guarded in every way, each by its defaults."""


@dataclasses.dataclass(frozen=True, slots=True)
class OverloadOptions:
    """What is loaded, by whom and for how long. Figures are of the time after `warm_seconds`."""

    clients: int = 4
    seconds: float = 8.0
    warm_seconds: float = 3.0
    deadline_seconds: float = 0.5
    stores: int = 3
    capacity: Capacity = dataclasses.field(default_factory=Capacity)

    @property
    def per_second(self) -> float:
        """What all stores together can carry out in a second."""
        return self.stores * self.capacity.per_second


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """One load. `load`: in multiples of the capacity; `offered`, `goodput`, `sent`: a second; seconds elsewhere.

    `sent`: commands that reached a store; `errors`: how calls failed; `p99_good`: of the calls that were answered.
    """

    load: float
    offered: float
    goodput: float
    sent: float
    p99_good: float
    errors: dict[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Curve:
    """One setting at many loads."""

    name: str
    points: tuple[Point, ...]

    @property
    def peak(self) -> float:
        """The highest goodput."""
        return max(point.goodput for point in self.points)

    def at(self, load: float) -> Point:
        """Return the point of a load."""
        return next(point for point in self.points if point.load == load)


def run_point(
    seed: int, load: float, guards: Mapping[str, Any] | None = None, options: OverloadOptions | None = None
) -> Point:
    """Run one experiment. `guards`: options of the clients."""
    options = options or OverloadOptions()
    begin, end = options.warm_seconds, options.seconds
    run = LoadRun(
        seed,
        clients=options.clients,
        per_second=load * options.per_second,
        seconds=end,
        options={"timeout": options.deadline_seconds, "rpc_timeout": options.deadline_seconds, **(guards or {})},
        capacity=options.capacity,
    ).play()
    answers = between(run.answers, begin, end)
    arrivals = [at for number in run.fleet.numbers for at in run.arrivals(number) if begin <= at < end]
    return Point(
        load=load,
        offered=len(answers) / (end - begin),
        goodput=goodput(answers, begin, end),
        sent=len(arrivals) / (end - begin),
        p99_good=percentile([answer for answer in answers if answer.is_good], 0.99),
        errors=errors_of(answers),
    )


def run_curve(
    name: str,
    seed: int,
    guards: Mapping[str, Any] | None = None,
    *,
    loads: Sequence[float] = LOADS,
    options: OverloadOptions | None = None,
    on_point: Callable[[Point], None] | None = None,
) -> Curve:
    """Run one setting at many loads. `on_point` is told each as it is done."""
    points = []
    for load in loads:
        point = run_point(seed, load, guards, options)
        points.append(point)
        if on_point is not None:
            on_point(point)
    return Curve(name, tuple(points))
