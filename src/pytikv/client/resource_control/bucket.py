"""The tokens (request units) that this client holds of one group.

Tokens flow in at `fill_rate` a second and are spent by requests. They may go below zero: a request that is answered
has cost what it has cost, and whoever comes next waits longer for it. What a burst means is PD's word for it:

* `burst` < 0: no limit, nothing is counted;
* 0: tokens gather without a bound;
* > 0: at most so many gather.

`reserve` takes tokens that are to come, and says how long to wait for them; where that is longer than the caller can
wait, nothing is taken. Below `notify_below` tokens the bucket `is_low`: more should be asked of PD. Times are values of
a monotonic clock and come in; a clock that stands still or goes back adds nothing.

Source: pd client/resource_group/controller/limiter.go.
"""

from __future__ import annotations

import math

__all__ = ["Bucket"]


class Bucket:
    """See the module's docstring. Not safe across threads: its owner locks."""

    __slots__ = ("_last", "_tokens", "burst", "fill_rate", "is_low", "notify_below")

    def __init__(self, now: float, tokens: float, *, fill_rate: float = 0.0, burst: int = 0, notify_below: float = 0.0):
        self._last = now
        self._tokens = tokens
        self.fill_rate = fill_rate
        self.burst = burst
        self.notify_below = notify_below
        self.is_low = False

    def tokens(self, now: float) -> float:
        """Return how many tokens are there."""
        if self.burst < 0:
            return self._tokens
        tokens = self._tokens + self.fill_rate * max(0.0, now - self._last)
        return min(tokens, self.burst) if self.burst > 0 else tokens

    def reserve(self, now: float, amount: float, wait_at_most_s: float) -> float | None:
        """Take `amount` and return the seconds until it may be used; None, taking nothing, where that is too long."""
        if self.burst < 0:
            return 0.0
        left = self.tokens(now) - amount
        wait_s = 0.0
        if left < 0:
            wait_s = -left / self.fill_rate if self.fill_rate > 0 else math.inf
        if wait_s > wait_at_most_s:
            self.is_low = True
            return None
        self._set(now, left)
        return wait_s

    def spend(self, now: float, amount: float) -> None:
        """Take `amount`, whether there or not; a negative one is given back."""
        if self.burst >= 0:
            self._set(now, self.tokens(now) - amount)

    def configure(self, now: float, more: float, *, fill_rate: float, burst: int, notify_below: float) -> None:
        """Take over PD's word: `more` tokens at once, and how they flow from here on."""
        tokens = more if burst < 0 else self.tokens(now) + more
        self.fill_rate, self.burst, self.notify_below = fill_rate, burst, notify_below
        self.is_low = False
        self._set(now, tokens)

    def _set(self, now: float, tokens: float) -> None:
        self._last = max(self._last, now)
        self._tokens = tokens
        if self.burst >= 0 and self.notify_below > 0 and tokens < self.notify_below:
            self.is_low = True
