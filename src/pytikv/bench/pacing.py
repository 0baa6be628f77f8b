"""When operations begin: in a closed loop at once after the last one, at a rate (open loop) at their intended times.

Pure: `take` is told how long the run has lasted, in seconds. In a closed loop a worker asks for the next ticket when it
is free. In an open loop ticket n is intended for n / rate, whoever takes it; a worker that takes it early waits, one
that takes it late does not, and the latency counted from the intended time holds what a user would have waited. So a
store that stalls is not spared the operations that ought to have come meanwhile (coordinated omission). What timers
wake too late is in that latency as well: some 0.1 ms of a thread, up to 1 ms of an asyncio loop.

The run is a warm-up, whose tickets are not measured, and then `duration_s`, or `operations` tickets, whichever is
reached first. In an open loop that falls behind, tickets that were intended before the end but not taken by then are
given up; `missed` counts them.

`take` may be called from many threads: the counters are `itertools.count`, whose `next` is one step.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

from pytikv.errors import ConfigError

__all__ = ["Pace", "Pacer", "Ticket"]


@dataclasses.dataclass(frozen=True, slots=True)
class Pace:
    """How a run is paced; at least one of `duration_s` and `operations`. `rate`: operations a second, all workers'."""

    duration_s: float | None = None
    operations: int | None = None
    warmup_s: float = 0.0
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.duration_s is None and self.operations is None:
            raise ConfigError("a run needs an end: give it a duration or a number of operations")
        for name in ("duration_s", "operations", "rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} of a run must be positive")
        if not 0 <= self.warmup_s < math.inf:
            raise ConfigError("warmup_s of a run must not be negative")

    @property
    def end_s(self) -> float:
        """When the run ends at the latest, in seconds from its beginning."""
        return math.inf if self.duration_s is None else self.warmup_s + self.duration_s

    @property
    def warmup_tickets(self) -> int:
        """How many tickets of an open loop are intended before the measurement."""
        return math.ceil(self.warmup_s * self.rate) if self.rate is not None else 0


@dataclasses.dataclass(frozen=True, slots=True)
class Ticket:
    """Leave for one operation. `intended_s`: when it is to begin, from the beginning of the run; None: now."""

    intended_s: float | None
    is_measured: bool


_NOW: Ticket = Ticket(None, True)
_WARM: Ticket = Ticket(None, False)


class Pacer:
    """Gives out the tickets of one run."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._numbers = itertools.count()

    def take(self, elapsed_s: float) -> Ticket | None:
        """Return the next ticket; None: the run is over for who asks."""
        return self._take_closed(elapsed_s) if self.pace.rate is None else self._take_open(elapsed_s, self.pace.rate)

    def _take_closed(self, elapsed_s: float) -> Ticket | None:
        pace = self.pace
        if elapsed_s < pace.warmup_s:
            return _WARM
        if elapsed_s >= pace.end_s or (pace.operations is not None and next(self._numbers) >= pace.operations):
            return None
        return _NOW

    def _take_open(self, elapsed_s: float, rate: float) -> Ticket | None:
        if elapsed_s >= self.pace.end_s:
            return None
        number = next(self._numbers)
        intended_s = number / rate
        if intended_s >= self.pace.end_s or number >= self._last:
            return None
        return Ticket(intended_s, number >= self.pace.warmup_tickets)

    @property
    def _last(self) -> float:
        operations = self.pace.operations
        return math.inf if operations is None else self.pace.warmup_tickets + operations

    def missed(self, begun: int) -> int:
        """Return how many operations were to be measured and were not begun, when `begun` were; 0 in a closed loop."""
        if self.pace.rate is None:
            return 0
        intended = (
            min(math.ceil(self.pace.end_s * self.pace.rate), self._last) if self.pace.end_s < math.inf else self._last
        )
        return max(0, int(intended) - self.pace.warmup_tickets - begun)
