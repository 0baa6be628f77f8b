"""The request units of one resource group: a token bucket that lends, shared out among the clients of the group.

A client asks for what it needs for the next period (5 s as a rule). What the bucket holds is granted at once. Beyond
that it *lends*: the more a client owes, the slower. Debts up to twice what the fill rate yields in a period are lent at
twice the rate, the next such amount at the rate itself, and beyond, half of a period's yield is the least that anyone
gets. A grant comes with the time over which the client is to spend it (`trickle_ms`). A bucket that cannot gather more
than its rate lends at the rate only.

*Modes*, by the burst limit: above 0 the bucket gathers up to it; 0, the rate alone counts; -1, everything is granted;
-2, the group may go 10 000 units over its rate.

*Slots*: each client has one. One client has the whole bucket. Of several, those that use less than an equal share keep
what they use, and the others share the rest by their demand, which is a moving average with a half-life of 5 s. A slot
ends when its client asks for nothing, or after 10 minutes. What a slot cannot hold goes back to all.

A changed setting forgives debts. Pure: `now_s` comes in. Not safe for threads.

Sources: PD pkg/mcs/resourcemanager/server/{token_buckets,keyspace_manager}.go.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from typing import Final

__all__ = ["Grant", "GroupBucket", "Limits"]

_FILL_RATE: Final = 10_000
_FIRST_TOKENS: Final = 100_000.0
_OVER_RATE: Final = 10_000
_MAX_RATE: Final = 2**31 - 1
_LEAST_SHARE: Final = 0.5
_LOAN_LEVELS: Final = 2
_SLOT_S: Final = 600.0
_HALF_LIFE_S: Final = 5.0
_LEAST_DEMAND: Final = 1.0


class _Mode(enum.Enum):
    GATHERS = "gathers"
    RATE_ONLY = "rate only"
    UNLIMITED = "unlimited"
    MODERATED = "moderated"


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """The settings of a bucket. `fill_rate`: request units a second; `burst_limit`: see the module's docstring."""

    fill_rate: int
    burst_limit: int

    @property
    def mode(self) -> _Mode:
        """What the burst limit means."""
        modes = {0: _Mode.RATE_ONLY, -1: _Mode.UNLIMITED, -2: _Mode.MODERATED}
        return modes.get(self.burst_limit, _Mode.GATHERS)

    @property
    def shared(self) -> tuple[int, int]:
        """Rate and burst limit as they are shared out among the clients."""
        if self.mode is _Mode.MODERATED:
            rate = min(self.fill_rate + _OVER_RATE, _MAX_RATE)
            return rate, rate
        return self.fill_rate, self.burst_limit


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """What a client gets: tokens, to be spent over `trickle_ms` (0: at will), and the burst limit that it may have."""

    tokens: float
    burst_limit: int
    trickle_ms: int = 0


@dataclasses.dataclass(slots=True)
class _Slot:
    seen_s: float
    rate: int = 0
    burst_limit: int = 0
    tokens: float = 0.0
    """Below 0: what the client owes."""
    demand: float | None = None
    """Request units a second that the client asks for; None: not known yet."""
    sampled_s: float | None = None

    def sample(self, now_s: float, units: float) -> None:
        """Take in what the client asks for."""
        elapsed_s = 0.0 if self.sampled_s is None else now_s - self.sampled_s
        self.sampled_s = now_s
        if elapsed_s <= 0:
            return
        rate = max(0.0, units) / elapsed_s
        if self.demand is None:
            self.demand = rate
            return
        kept = 0.5 ** (elapsed_s / _HALF_LIFE_S)
        demand = kept * self.demand + (1 - kept) * rate
        self.demand = demand if demand >= _LEAST_DEMAND else 0.0

    def take(self, wanted: float, period_s: float) -> Grant:
        """Grant what there is, and lend the rest."""
        if self.burst_limit == -1:
            return Grant(wanted, self.burst_limit)
        if wanted <= 0:
            return Grant(0.0, self.burst_limit)
        if self.rate == 0:
            self.tokens = 0.0
            return Grant(0.0, self.burst_limit, int(period_s * 1000))
        if self.tokens >= wanted:
            self.tokens -= wanted
            return Grant(wanted, self.burst_limit)
        held = max(0.0, self.tokens)
        self.tokens -= held
        lent, over_s = self._lend(held, wanted - held, period_s)
        trickle_s = min(over_s, period_s) if held else period_s
        return Grant(held + lent, self.burst_limit, int(trickle_s * 1000))

    def _lend(self, held: float, wanted: float, period_s: float) -> tuple[float, float]:
        """Return what is lent beside the tokens held, and over how many seconds both are to be spent."""
        levels = 1 if 0 < self.burst_limit <= self.rate else _LOAN_LEVELS
        lent = over_s = ceiling = 0.0
        for level in range(levels, 0, -1):
            rate = float(level * self.rate)
            ceiling += rate * period_s
            room = ceiling + self.tokens
            if wanted <= lent or over_s >= period_s or room <= 0:
                continue
            missing = wanted - lent
            if room > missing:
                amount = missing
                over_s += (held + lent + amount) / rate
            else:
                amount = min(room, rate * (period_s - over_s))
                over_s += amount / rate
            lent += amount
            self.tokens -= amount
        least = _LEAST_SHARE * self.rate * period_s
        if wanted > lent and held + lent < least:
            more = min(held + wanted, least) - held - lent
            lent += more
            self.tokens -= more
        return lent, over_s


class GroupBucket:
    """The bucket of one group."""

    def __init__(self, limits: Limits, tokens: float = 0.0) -> None:
        self.limits = limits
        self.tokens = tokens
        self._updated_s: float | None = None
        self._is_changed = False
        self._slots: dict[int, _Slot] = {}
        self._returned = 0.0

    def change(self, limits: Limits, tokens: float) -> None:
        """Set new limits; `tokens` are given on top of what is there."""
        self.limits = limits
        self.tokens += tokens
        self._is_changed = True

    def request(self, now_s: float, wanted: float, period_s: float, client: int) -> Grant:
        """Grant tokens to a client that wants so many for the coming period."""
        fresh = self._refill(now_s)
        if self._is_changed and self.tokens <= 0:
            self._is_changed = False
            fresh = self.tokens = 0.0
            for slot in self._slots.values():
                slot.tokens = 0.0
        self._keep_slots(now_s, wanted, client)
        self._share(fresh)
        own = self._slots.get(client)
        if own is None:
            return Grant(0.0, self.limits.burst_limit)
        before = own.tokens
        grant = own.take(wanted, period_s)
        self.tokens -= before - own.tokens
        return grant

    def _refill(self, now_s: float) -> float:
        """Add what has come in since the last request; return it, less what did not fit."""
        limits, before_s = self.limits, self._updated_s
        self._updated_s = now_s
        if before_s is None:
            if not limits.fill_rate:
                self.limits = dataclasses.replace(limits, fill_rate=_FILL_RATE)
            if limits.burst_limit > 0:
                self.tokens = max(self.tokens, _FIRST_TOKENS)
            return 0.0
        if limits.burst_limit <= 0:
            return 0.0
        fresh = 0.0
        if now_s > before_s:
            fresh = limits.fill_rate * (now_s - before_s) + self._returned
            self._returned = 0.0
        self.tokens += fresh
        excess = max(0.0, self.tokens - limits.burst_limit)
        self.tokens -= excess
        return fresh - excess

    def _keep_slots(self, now_s: float, wanted: float, client: int) -> None:
        if wanted:
            slot = self._slots.setdefault(client, _Slot(now_s))
            slot.seen_s = now_s
            slot.sample(now_s, wanted)
        else:
            self._slots.pop(client, None)
        for old in [key for key, slot in self._slots.items() if now_s - slot.seen_s >= _SLOT_S]:
            del self._slots[old]

    def _share(self, fresh: float) -> None:
        """Share rate, burst limit and fresh tokens out among the slots."""
        slots = list(self._slots.values())
        rate, burst_limit = self.limits.shared
        if self.limits.mode in (_Mode.RATE_ONLY, _Mode.UNLIMITED):
            for slot in slots:
                slot.rate, slot.burst_limit = int(rate / len(slots)), burst_limit
        elif len(slots) == 1:
            slots[0].rate, slots[0].burst_limit = rate, burst_limit
            slots[0].tokens = self.tokens if rate else 0.0
        elif slots:
            for slot, own in zip(slots, _rates(slots, rate), strict=True):
                share = own / rate if rate else 0.0
                self._give(slot, own, burst_limit * share, fresh * share)

    def _give(self, slot: _Slot, rate: float, burst_limit: float, tokens: float) -> None:
        over = max(0.0, slot.tokens - burst_limit) if burst_limit > 0 else 0.0
        self._returned += over
        self.tokens -= over
        slot.tokens += tokens - over
        slot.rate, slot.burst_limit = int(rate), int(burst_limit)


def _rates(slots: list[_Slot], total: int) -> list[float]:
    """Return the rate of each slot: what it uses, up to an equal share; the rest goes where more is wanted."""
    equal = total / len(slots)
    rates = [equal if slot.demand is None else min(slot.demand, equal) for slot in slots]
    beyond = [max(0.0, (slot.demand or 0.0) - equal) for slot in slots]
    rest, wanted = total - math.fsum(rates), math.fsum(beyond)
    if rest <= 0:
        return rates
    if not wanted:
        return [rate + rest / len(slots) for rate in rates]
    return [rate + rest * more / wanted for rate, more in zip(rates, beyond, strict=True)]
