"""What the optimistic and the pessimistic strategy cost, and which is to be taken: the choice of `Adaptive`. Pure.

For each range of keys there is its *heat*: how often optimistic transactions were repeated there of late.
Ranges of like heat are one class (`Estimate`), which learns for all of them, as no single key is used often enough:

    cold (repeated less than once in 50)    optimistic, nothing is tried
    warm, hot                               the way that costs less; now and then a trial of the other, ever more seldom

A way's cost is the mean time of a success, repetitions and waits included, taken by Little's law: transactions in
flight, on the average, by successes a second. For a fixed number of workers the lower cost is the higher throughput,
and a few that starve in a wait weigh as they should, though they do not end while they are looked at. All of a class
change over together, and what is seen right after that, of both kinds mixed, is left out.

Pessimistic transactions have no conflicts to count: a range cools down with each of them that is alone there, as far as
this program knows, and so comes to be optimistic again.

Limits: a change of the load is noticed after some hundreds of transactions of a class; what else slows the store down
during a trial is blamed on the strategy, until the next trial; several keys are judged by the least alone.
"""

from __future__ import annotations

import bisect
from typing import Final

__all__ = ["CLASSES", "Estimate", "Range"]

_MEMORY: Final = 0.9
CLASSES: Final = (0.02, 0.5)
_TRIAL: Final = 128
_TRIAL_SHARE: Final = 16
_SURE: Final = 40
_HOPELESS: Final = 1.4
_TRIAL_LOSS: Final = 0.03
_MIXED: Final = 24
_SHORTEST: Final = 512
_LONGEST: Final = 16_384
_MARGIN: Final = 1.1
_CHANGE: Final = 2.0


class Range:
    """What is known of one range of keys."""

    __slots__ = ("heat", "running")

    def __init__(self) -> None:
        self.heat = 0.0
        self.running = 0

    @property
    def class_number(self) -> int:
        """The number of its class; 0: cold."""
        return bisect.bisect(CLASSES, self.heat)

    def end(self, is_pessimistic: bool, repeated: int) -> None:
        """Take in that a transaction ended, after how many repetitions."""
        self.running -= 1
        if not is_pessimistic:
            self.heat = _MEMORY * self.heat + (1 - _MEMORY) * min(repeated, 10)
        elif not self.running:
            self.heat *= _MEMORY


class Estimate:
    """What the two strategies cost in one class of ranges, and which is to be taken. Pure: times come in."""

    __slots__ = (
        "_area",
        "_done",
        "_interval",
        "_is_trial",
        "_left",
        "_mixed",
        "_now",
        "_price",
        "_running",
        "_verdict",
        "_way",
    )

    def __init__(self) -> None:
        self._way = False  # the present way: whether pessimistic
        self._is_trial = False
        self._left = _SHORTEST  # transactions to begin until the next trial, or its end
        self._mixed = _MIXED  # those to begin until what is seen is of the present way alone
        self._interval = _SHORTEST
        self._verdict = 0.0  # the cost of the better way, when it was found to be that
        self._price = 0.0  # how much more a transaction of the other way cost then, in shares of the better one's
        self._running = 0
        self._now = 0.0
        self._area = [0.0, 0.0]  # seconds in flight, and successes, of either way
        self._done = [0, 0]

    @property
    def is_pessimistic(self) -> bool:
        """Whether the pessimistic way is the better one, by what is known."""
        return self._way is not self._is_trial

    def begin(self, now: float) -> bool:
        """Return whether the next transaction is pessimistic."""
        self._pass(now)
        if self._left <= 0:
            self._decide()
        self._left -= 1
        self._mixed -= 1
        self._running += 1
        return self._way

    def end(self, now: float) -> None:
        """Take in that a transaction ended."""
        self._pass(now)
        self._running -= 1
        if self._mixed > 0:
            return
        self._done[self._way] += 1
        if self._is_trial and self._way and self._is_hopeless():
            self._left = 0
        if not self._is_trial and self._done[self._way] >= _SHORTEST:  # the past fades
            self._done[self._way] //= 2
            self._area[self._way] /= 2
            self._notice_change()

    def _is_hopeless(self) -> bool:
        """Tell whether a trial of the pessimistic way need not go on. (The optimistic one is better than its beginning:
        waits of those who lose must have grown before the others have peace.)
        """
        return self._done[True] >= _SURE and self._cost(True) > _HOPELESS * self._cost(False)

    def _pass(self, now: float) -> None:
        if self._mixed <= 0:
            self._area[self._way] += self._running * (now - self._now)
        self._now = now

    def _cost(self, way: bool) -> float:
        return self._area[way] / max(1, self._done[way])

    def _notice_change(self) -> None:
        """Have a trial soon where the present way costs much more or less than when it was chosen."""
        cost = self._cost(self._way)
        if self._verdict and not self._verdict / _CHANGE < cost < self._verdict * _CHANGE:
            self._verdict = 0.0
            self._interval = _SHORTEST
            self._left = min(self._left, _SHORTEST)

    def _decide(self) -> None:
        if not self._is_trial:
            self._turn(is_trial=True, left=_MIXED + self._trial_length())
        elif self._done[self._way] < _SURE:
            self._left = _TRIAL // 4  # too few have ended
        else:
            self._end_trial(self._cost(self._way), self._cost(not self._way))

    def _end_trial(self, tried: float, present: float) -> None:
        if tried * _MARGIN < present:
            self._is_trial = False
            self._interval = _SHORTEST  # see soon whether that was so
        else:
            self._turn(is_trial=False, left=0)
            self._interval = min(_LONGEST, (4 if tried > _HOPELESS * present else 2) * self._interval)
        self._left = self._interval
        self._verdict = self._cost(self._way)
        self._price = self._cost(not self._way) / max(self._verdict, 1e-9) - 1

    def _trial_length(self) -> int:
        """Return how many transactions a trial has: the more, the less it costs by what was seen of the way before."""
        affordable = _TRIAL_LOSS * self._interval / self._price if self._price > 0 else self._interval
        return max(_TRIAL, min(self._interval // _TRIAL_SHARE, int(affordable)))

    def _turn(self, *, is_trial: bool, left: int) -> None:
        """Go the other way; what is known of it is forgotten if it is to be tried."""
        self._way, self._is_trial, self._left, self._mixed = not self._way, is_trial, left, _MIXED
        if is_trial:
            self._area[self._way], self._done[self._way] = 0.0, 0
