"""A circuit breaker: closed, open, half-open. A pure machine: the time comes in, nothing is waited for.

    closed --(too many failed or slow calls in the window)--> open --(a wait)--> half-open
    half-open --(`probes` good answers)--> closed        half-open --(one bad answer)--> open, for longer

Rules:

* The window is a ring of `_BUCKETS` counts, each a part of `window_s` wide. Rates are looked at when a call ends badly,
  once `min_calls` calls are in the window. A slow call counts as slow, a failed one as failed *and* slow.
* A store that has stopped must not be covered by what it did before: where all requests of the last fifth of the
  window, and of `_RECENT_S` at least, were slow or failed, and were a quarter of `min_calls` (at least
  `_LEAST_RECENT`), it opens too.
* The wait doubles with each opening that follows within a window of the last closing, up to `open_cap_s`, and is spread
  by a fifth either way, so that many clients do not come back at once.
* Half-open lets `probes` calls through at once, no more. A slow probe is a bad one.
* Every call let through has a *ticket*. What comes back with a ticket of another time is not counted: an answer to a
  call begun before the opening neither closes nor opens anything. A probe whose caller never reports is lost after
  `_PROBE_LOST_S`, and one that was given up reports `on_unknown`: both free its place and say nothing of the address.
* Times need not go forward: a jump forward empties the window or ends a wait, a jump back of more than a window empties
  it, and no wait is ever longer than it was drawn.

Not safe by itself for many threads; `guard` holds a lock around all but the counting of good answers in the closed
state, where a lost count is of no matter.

Sources of the idea: Nygard, Release It!; resilience4j's CircuitBreaker for counting slow calls.
"""

from __future__ import annotations

import math
import random
from typing import Final, Literal

from pytikv.policies import BreakerPolicy

__all__ = ["REFUSED", "Breaker", "BreakerState"]

BreakerState = Literal["closed", "half_open", "open"]

REFUSED: Final = -1
"""In place of a ticket: the call may not be sent."""

_BUCKETS: Final = 10
_RECENT_S: Final = 1.0
_LEAST_RECENT: Final = 4
_SPREAD: Final = 0.2
_PROBE_LOST_S: Final = 30.0
_FIRST_PROBE: Final = 1 << 32  # tickets below are epochs
_DOUBLINGS: Final = 16


class Breaker:
    """The breaker of one address."""

    __slots__ = (
        "_closed_at",
        "_index",
        "_next_probe",
        "_open_until",
        "_opened_at",
        "_policy",
        "_probes",
        "_probes_good",
        "_recent",
        "_ring",
        "_rng",
        "_trips",
        "_width",
        "bucket",
        "epoch",
        "reason",
        "since",
        "state",
        "transitions",
        "until",
    )

    def __init__(self, policy: BreakerPolicy, rng: random.Random) -> None:
        self.state: BreakerState = "closed"
        self.epoch = 0
        """Counts the openings; the ticket of calls in the closed state."""
        self.reason = ""
        """Why it opened last."""
        self.transitions: dict[str, int] = {"closed": 0, "half_open": 0, "open": 0}
        self._policy = policy
        self._rng = rng
        self._width = policy.window_s / _BUCKETS
        self._recent = min(_BUCKETS, max(_BUCKETS // 5, math.ceil(_RECENT_S / self._width)))
        self._ring = [[0, 0, 0] for _ in range(_BUCKETS)]  # calls, failed, slow
        self.bucket = self._ring[0]
        """Calls, failed, slow ones from `since` to `until`. A good answer to a call of this epoch that comes in between
        while closed adds one call: the guard does so by itself, since that is all that `on_success` does then."""
        self._index = 0
        self.since = self.until = 0.0
        self._trips = 0
        self._closed_at = float("-inf")
        self._opened_at = self._open_until = float("-inf")
        self._probes: dict[int, float] = {}
        self._probes_good = 0
        self._next_probe = _FIRST_PROBE

    # --- asking -------------------------------------------------------------------------------------------------------

    def admit(self, now: float) -> int:
        """Return the ticket of a call that may be sent, or `REFUSED`."""
        if self.state == "closed":
            return self.epoch
        if self.state == "open":
            if not self.is_due(now):
                return REFUSED
            self._turn("half_open")
            self._probes.clear()
            self._probes_good = 0
        for ticket in [one for one, began in self._probes.items() if not 0 <= now - began < _PROBE_LOST_S]:
            del self._probes[ticket]
        if len(self._probes) + self._probes_good >= self._policy.probes:
            return REFUSED
        ticket, self._next_probe = self._next_probe, self._next_probe + 1
        self._probes[ticket] = now
        return ticket

    def is_due(self, now: float) -> bool:
        """Tell whether the wait of an open breaker is over."""
        if now < self._opened_at:  # the clock went back: the wait is as long as it was, from now on
            self._open_until += now - self._opened_at
            self._opened_at = now
        return now >= self._open_until

    def is_refusing(self, now: float) -> bool:
        """Tell whether a call would be refused, without asking for a ticket."""
        if self.state == "closed":
            return False
        if self.state == "open":
            return not self.is_due(now)
        return len(self._probes) + self._probes_good >= self._policy.probes

    def retry_in_s(self, now: float) -> float:
        """Return the seconds until probes are let through; 0 where they are."""
        return max(0.0, self._open_until - now) if self.state == "open" else 0.0

    # --- what came of it ----------------------------------------------------------------------------------------------

    def on_success(self, ticket: int, now: float, took_s: float) -> None:
        """A call was answered in `took_s`."""
        if took_s >= self._policy.slow_s:
            self._on_bad(ticket, now, failed=0)
        elif ticket == self.epoch and self.state == "closed":
            if not self.since <= now < self.until:
                self._roll(now)
            self.bucket[0] += 1
        elif self._probes.pop(ticket, None) is not None and self.state == "half_open":
            self._probes_good += 1
            if self._probes_good >= self._policy.probes:
                self._close(now)

    def on_failure(self, ticket: int, now: float) -> None:
        """A call failed in a way that speaks against the address."""
        self._on_bad(ticket, now, failed=1)

    def on_unknown(self, ticket: int) -> None:
        """A call ended in a way that says nothing of the address."""
        self._probes.pop(ticket, None)

    def _on_bad(self, ticket: int, now: float, failed: int) -> None:
        if ticket == self.epoch and self.state == "closed":
            if not self.since <= now < self.until:
                self._roll(now)
            bucket = self.bucket
            bucket[0] += 1
            bucket[1] += failed
            bucket[2] += 1
            self._judge(now)
        elif self._probes.pop(ticket, None) is not None and self.state == "half_open":
            self._open(now, "a probe failed" if failed else "a probe was slow", is_soon=True)

    def _judge(self, now: float) -> None:
        policy = self._policy
        calls = failed = slow = 0
        for bucket in self._ring:
            calls += bucket[0]
            failed += bucket[1]
            slow += bucket[2]
        if calls < policy.min_calls:
            return
        if failed >= policy.error_rate * calls:
            why = f"{failed} of {calls} requests failed in {policy.window_s:g} s"
        elif slow >= policy.slow_rate * calls:
            why = f"{slow} of {calls} requests took {policy.slow_s:g} s or failed in {policy.window_s:g} s"
        elif self._has_stopped():
            why = f"all requests of the last {self._recent * self._width:g} s took {policy.slow_s:g} s or failed"
        else:
            return
        self._open(now, why, is_soon=0 <= now - self._closed_at < policy.window_s)

    def _has_stopped(self) -> bool:
        """Tell whether nothing good came of late. `_roll` has made the present bucket that of now."""
        recent = [self._ring[(self._index - back) % _BUCKETS] for back in range(self._recent)]
        calls, bad = sum(bucket[0] for bucket in recent), sum(bucket[2] for bucket in recent)
        return calls == bad >= max(_LEAST_RECENT, self._policy.min_calls // 4)

    # --- states -------------------------------------------------------------------------------------------------------

    def _open(self, now: float, why: str, *, is_soon: bool) -> None:
        policy = self._policy
        self._trips = self._trips + 1 if is_soon else 0
        wait_s = min(policy.open_cap_s, policy.open_s * 2.0 ** min(self._trips, _DOUBLINGS))
        self._opened_at = now
        self._open_until = now + wait_s * (1 + _SPREAD * (2 * self._rng.random() - 1))
        self._probes.clear()
        self.epoch += 1
        self.reason = why
        self._turn("open")

    def _close(self, now: float) -> None:
        self._closed_at = now
        self._probes.clear()
        for bucket in self._ring:
            bucket[:] = (0, 0, 0)
        self._turn("closed")

    def _turn(self, state: BreakerState) -> None:
        self.state = state
        self.transitions[state] += 1

    def _roll(self, now: float) -> None:
        """Make the bucket of `now` the present one. What lies a little back counts there too."""
        index = int(now // self._width)
        steps = index - self._index
        if -_BUCKETS < steps <= 0 and self.until:
            return
        for step in range(1, min(steps, _BUCKETS) + 1) if steps > 0 else range(_BUCKETS):
            self._ring[(self._index + step) % _BUCKETS][:] = (0, 0, 0)
        self._index = index
        self.bucket = self._ring[index % _BUCKETS]
        self.since, self.until = index * self._width, (index + 1) * self._width
