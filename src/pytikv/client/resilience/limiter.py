"""How many requests an address can bear: a limit that follows its latency. A pure machine: the time comes in.

Samples are gathered into windows. At the end of each, with m the mean latency in it, f the shortest that was ever
measured in calm, and t the policy's tolerance:

    gradient = t * f / m, but at least 0.5 and at most 1
    limit   -> 0.8 * limit + 0.2 * (limit * gradient + sqrt(limit))

So the limit grows by a part of its square root as long as latency is near f, and stands still where the requests that
wait at the address are about that many. Requests that tell of overload (busy, no answer in time) take away as large a
part of the limit as they are of all in the window, half of it at most. It does not grow while less than half of it is
used.

f must be forgotten some day, or a cluster that became slower for good would be throttled for ever; yet it must not
creep up with the queue that this client makes itself. So it is replaced once in `_CALM_EVERY_S`, by what was measured
in windows that used less than half of the limit, or, where there was none, in one window with no more under way than
the limit's square root, long enough for what had been under way before to be answered.

Bounds: `[min, max]` of the policy. Sources: Netflix, concurrency-limits (Gradient2Limit) for the gradient; TCP BBR's
probing of the round trip for the calm window.
"""

from __future__ import annotations

import math
from typing import Final

from pytikv.policies import LimitPolicy

__all__ = ["Limiter"]

_WINDOW_S: Final = 0.1
_WINDOW_MAX_S: Final = 1.0
_WINDOW_OUTCOMES: Final = 10
_SMOOTHING: Final = 0.2
_AT_LEAST: Final = 0.5
_CALM_EVERY_S: Final = 30.0


class Limiter:
    """The limit of one address. For one thread at a time; a sample lost to a race is of no matter."""

    __slots__ = (
        "_best_s",
        "_calm_s",
        "_calm_since",
        "_calmed",
        "_estimate",
        "_floor_s",
        "_overloads",
        "_policy",
        "_samples",
        "_since",
        "_sum_s",
        "_until",
        "_used",
        "limit",
    )

    def __init__(self, policy: LimitPolicy) -> None:
        self.limit = policy.initial
        """How many requests may be under way."""
        self._policy = policy
        self._estimate = float(policy.initial)
        self._floor_s = math.inf
        self._calm_s = math.inf
        self._calm_since: float | None = None
        self._calmed = False  # this window has next to nothing under way
        self._until = self._since = -math.inf
        self._samples = 0
        self._sum_s = 0.0
        self._best_s = math.inf
        self._used = 0
        self._overloads = 0

    def on_sample(self, now: float, took_s: float, in_flight: int) -> bool:
        """Take in one answered request; True when `limit` has changed."""
        self._samples += 1
        self._sum_s += took_s
        if took_s < self._best_s:
            self._best_s = took_s
        if in_flight > self._used:
            self._used = in_flight
        return not self._since <= now < self._until and self._end_window(now)

    def restart(self) -> None:
        """Begin again at the least limit: what the address can bear is to be found out anew."""
        self._estimate = float(self._policy.min)
        self.limit = self._policy.min

    def on_overload(self, now: float) -> bool:
        """Take in a request that tells of overload; True when `limit` has changed."""
        self._overloads += 1
        return not self._since <= now < self._until and self._end_window(now)

    def _end_window(self, now: float) -> bool:
        """End the window, if it has seen enough or has lasted long; True when `limit` has changed."""
        samples, overloads, before = self._samples, self._overloads, self.limit
        if self._until == -math.inf:  # the very first one begins
            self._since, self._until = now, now + _WINDOW_S
            return False
        if samples + overloads < _WINDOW_OUTCOMES and self._since <= now < self._since + _WINDOW_MAX_S:
            return False
        mean_s = self._sum_s / samples if samples else 0.0
        self._measure(now)
        self._estimate *= max(_AT_LEAST, 1 - overloads / max(samples + overloads, _WINDOW_OUTCOMES))
        if samples and self._floor_s < math.inf:
            gradient = self._policy.tolerance * self._floor_s / max(mean_s, 1e-9)
            gradient = max(_AT_LEAST, min(1.0, gradient))
            if gradient < 1.0 or self._used * 2 >= self.limit:
                target = self._estimate * gradient + math.sqrt(self._estimate)
                self._estimate += _SMOOTHING * (target - self._estimate)
        self._estimate = max(self._policy.min, min(self._policy.max, self._estimate))
        wanted = math.sqrt(self._estimate) if self._calmed else self._estimate
        self.limit = max(self._policy.min, int(wanted))
        self._since, self._until = now, now + max(_WINDOW_S, min(_WINDOW_MAX_S, 2 * mean_s))
        self._samples, self._overloads, self._sum_s, self._best_s, self._used = 0, 0, 0.0, math.inf, 0
        return self.limit != before

    def _measure(self, now: float) -> None:
        """Keep the shortest latency, and replace it from time to time by one measured in calm."""
        best_s = self._best_s
        if best_s < self._floor_s:
            self._floor_s = best_s
        if self._calm_since is None or now < self._calm_since:
            self._calm_since = now
        if self._calmed or self._used * 2 < self.limit:
            self._calm_s = min(self._calm_s, best_s)
        is_over = now - self._calm_since >= _CALM_EVERY_S
        if is_over and self._calm_s < math.inf:
            self._floor_s = self._calm_s
            self._calm_s, self._calm_since = math.inf, now
            self._calmed = False
        else:
            self._calmed = is_over
