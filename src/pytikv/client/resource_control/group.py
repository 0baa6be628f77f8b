"""One resource group as this client sees it: its bucket, its account, and its talk with PD.

The talk has one question, "so much was consumed, so much will be wanted", and one answer, a grant: tokens at once, or
spread over `trickle_ms` where the group has used up its share, so that clients take turns instead of bursts. Asked is

* when the group is new, so that PD knows of the client;
* when tokens run low, but not while a trickle flows, and not again within `_LOW_PAUSE_S`;
* every `REPORT_S` where at least `REPORT_RU` were consumed, every `4 * REPORT_S` in any case.

What will be wanted is estimated from the moving average of the consumption. An answer that does not come changes
nothing: the group goes on with what it has, refilled at its own fill rate (`degrade`), so that a PD that is away slows
nobody to a halt.

Pure: `now` comes in, messages go out. Source: pd client/resource_group/controller/group_controller.go, config.go.
"""

from __future__ import annotations

import copy
from typing import Final

from pytikv.client.resource_control.bucket import Bucket
from pytikv.client.resource_control.costs import Consumption
from pytikv.proto import resource_manager_pb2 as rmpb

__all__ = ["REPORT_S", "Group"]

REPORT_S: Final = 5.0
REPORT_RU: Final = 100.0
_RESERVE: Final = 0.8  # of the first tokens: asks for more as soon as the group is used
_NOTIFY: Final = 0.1
_MEMORY: Final = 0.5
_AMPLIFY: Final = 1.1
_TRICKLE_RESERVE_S: Final = 1.25
_CLOCK_S: Final = 1.0
_LOW_PAUSE_S: Final = 0.25


class Group:
    """See the module's docstring. Its owner locks."""

    def __init__(self, meta: rmpb.ResourceGroup, now: float) -> None:
        self.meta = meta
        settings = meta.r_u_settings.r_u.settings
        first = float(settings.fill_rate)
        burst = -1 if settings.burst_limit < 0 else 0
        self.bucket = Bucket(now, first, burst=burst, notify_below=max(first * _RESERVE, 1.0))
        self.consumed = Consumption()
        self._reported = Consumption()
        self._is_known = False
        self._asked: Consumption | None = None  # while an answer is awaited: what had been reported before
        self._reported_at = now
        self._rate = 0.0
        self._rate_at, self._rate_ru = now, 0.0
        self._trickle: tuple[float, float] | None = None

    @property
    def is_unlimited(self) -> bool:
        """Whether the group may use whatever the cluster has."""
        return self.bucket.burst < 0

    # --- the question -------------------------------------------------------------------------------------------------

    def wants_to_ask(self, now: float) -> bool:
        """Tell whether PD should be asked now. False while an answer is awaited."""
        if self._asked is not None:
            return False
        if not self._is_known:
            return True
        since = now - self._reported_at
        # While a grant flows in, PD has given what it can: more questions would only bring more of the least it gives.
        flows_on = self._trickle is not None and now < self._trickle[0] - _TRICKLE_RESERVE_S
        is_low = not flows_on and (self.bucket.is_low or (self._trickle is not None and self.bucket.tokens(now) < 1.0))
        if is_low and not self.is_unlimited and since >= _LOW_PAUSE_S:
            return True
        used = self.consumed.total - self._reported.total
        return since >= 4 * REPORT_S or (since >= REPORT_S and used >= REPORT_RU)

    def ask(self, now: float) -> rmpb.TokenBucketRequest:
        """Return the question. `grant` or `unanswered` must follow."""
        self._measure(now)
        self._reported_at = now
        delta, self._asked = self.consumed.minus(self._reported), self._reported
        self._reported = copy.copy(self.consumed)
        wanted = max(0.0, self._rate * REPORT_S * _AMPLIFY - self.bucket.tokens(now))
        request = rmpb.TokenBucketRequest(
            resource_group_name=self.meta.name, consumption_since_last_request=delta.message()
        )
        request.ru_items.request_r_u.add(type=rmpb.RU, value=wanted)
        if self.meta.HasField("keyspace_id"):
            request.keyspace_id.CopyFrom(self.meta.keyspace_id)
        return request

    def _measure(self, now: float) -> None:
        """Keep the moving average of request units a second."""
        elapsed = now - self._rate_at
        if elapsed < _CLOCK_S and self._is_known:
            return
        if elapsed > 0:
            rate = (self.consumed.total - self._rate_ru) / elapsed
            self._rate = _MEMORY * self._rate + (1 - _MEMORY) * rate if self._is_known else rate
            self._rate_at, self._rate_ru = now, self.consumed.total

    # --- the answer ---------------------------------------------------------------------------------------------------

    def grant(self, answer: rmpb.TokenBucketResponse, now: float) -> None:
        """Take over what PD granted."""
        self._asked = None
        self._is_known = True
        for granted in answer.granted_r_u_tokens:
            self._take(granted, now)

    def _take(self, granted: rmpb.GrantedRUTokenBucket, now: float) -> None:
        tokens = granted.granted_tokens.tokens
        settings = granted.granted_tokens.settings
        if self._trickle is not None and self._trickle[0] > now:
            tokens += self._trickle[1] * (self._trickle[0] - now)  # what was still to flow in
        if granted.trickle_time_ms <= 0:
            self._trickle = None
            below = min(tokens + self.bucket.tokens(now), self._rate * REPORT_S) * _NOTIFY
            self.bucket.configure(
                now, tokens, fill_rate=float(settings.fill_rate), burst=settings.burst_limit, notify_below=below
            )
            return
        over_s = granted.trickle_time_ms / 1000
        rate = settings.fill_rate + tokens / over_s
        self._trickle = (now + over_s, tokens / over_s)
        self.bucket.configure(now, 0.0, fill_rate=rate, burst=settings.burst_limit, notify_below=0.0)

    def unanswered(self, now: float) -> None:
        """PD did not answer: what was to be reported is reported with the next question; go on at the group's rate."""
        if self._asked is not None:
            self._reported, self._asked = self._asked, None
        rate = float(self.meta.r_u_settings.r_u.settings.fill_rate)
        if self.bucket.is_low and not self.is_unlimited:
            self.bucket.configure(now, 0.0, fill_rate=rate, burst=int(rate) or 1, notify_below=0.0)
