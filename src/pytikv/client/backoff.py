"""How long to wait before trying again, by kind of trouble, and what to say when the time is up.

One table for the whole client: each kind has a base, a cap, a jitter and the error that it ends in. A `Backoffer`
serves one call. Each kind counts its own uses, the n-th sleep is `min(cap, base * 2**n)` before jitter, and all kinds
share one budget: the call's deadline. Decided here:

* A sleep never passes the deadline. One that would is cut to half of what is left, so that there is time for another
  try; once less than the kind's base is left, the call ends.
* The call then ends with the error of the kind that slept longest in sum, not of the last one: a busy store that was
  found by way of two cache misses is `Overloaded`. Where no wait fitted in, the time was too short for anything, which
  is `DeadlineExceeded`. The last three causes are in its text.
* A store may say how long to wait (`at_least_s`); that counts as the sleep's lower bound. Whoever waits for something
  that ends by itself says when (`at_most_s`).
* `backoff` never returns without having slept: a retry loop cannot spin.

A client may be told otherwise (`RetryRules`, from the options `retry` and `retry_budget`): other bases, caps and jitter
by kind, at most so many tries or so much waiting a call, and a budget for all retries of the client together. Who meets
such a bound ends with the cause of that moment, `retryable` as ever, and the text says which bound it was. Waiting for
other transactions (`_FOR_OTHERS`) is no retry and counts for none of the bounds.

Kinds, bases and caps are client-go's (config/retry/config.go), but two that are made for interactive use: a busy store
is asked again after 100 ms instead of 2 s, and PD after 50 ms instead of 500 ms; their caps bring back the calm. Sleeps
for a busy store count against the budget like all others (client-go lets them run on for ten minutes).

Errors name kinds of trouble, never keys or values.
"""

from __future__ import annotations

import dataclasses
import enum
import random
from typing import Final

from pytikv.client.resilience.retry_budget import RetryBudget
from pytikv.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    KeyLocked,
    Outcome,
    Overloaded,
    RegionUnavailable,
    ServerError,
    TikvError,
)
from pytikv.observe.telemetry import as_step
from pytikv.policies import RetryPolicy
from pytikv.rt.interface import Runtime

__all__ = ["KINDS", "BackoffKind", "Backoffer", "Jitter", "RetryRules"]

_KEPT_CAUSES: Final = 3


class Jitter(enum.Enum):
    """How a planned sleep is spread: as it is, half of it plus a random half, or a random part of it."""

    NONE = "none"
    EQUAL = "equal"
    FULL = "full"


@dataclasses.dataclass(frozen=True, slots=True)
class BackoffKind:
    """One row of the table; `error` and `text` are what a call ends in when this kind used up its budget."""

    name: str
    base_ms: float
    cap_ms: float
    jitter: Jitter
    error: type[TikvError]
    text: str

    def sleep_ms(self, used: int, rng: random.Random) -> float:
        """Return the sleep of the use number `used` (from 0)."""
        planned = min(self.cap_ms, self.base_ms * 2.0 ** min(used, 32))
        if self.jitter is Jitter.EQUAL:
            return planned / 2 + rng.random() * planned / 2
        return rng.random() * planned if self.jitter is Jitter.FULL else planned


_NO, _EQUAL = Jitter.NONE, Jitter.EQUAL

TIKV_RPC: Final = BackoffKind("tikvRPC", 100, 2000, _EQUAL, ConnectionFailed, "the store could not be reached")
PD_RPC: Final = BackoffKind("pdRPC", 50, 3000, _EQUAL, ConnectionFailed, "PD could not be reached")
PD_NOT_READY: Final = BackoffKind("pdNotReady", 50, 1000, _EQUAL, RegionUnavailable, "the cluster is not bootstrapped")
REGION_MISS: Final = BackoffKind("regionMiss", 2, 500, _NO, RegionUnavailable, "the region could not be found")
REGION_SCHEDULING: Final = BackoffKind("regionScheduling", 2, 500, _NO, RegionUnavailable, "the region has no leader")
SERVER_BUSY: Final = BackoffKind("tikvServerBusy", 100, 10_000, _EQUAL, Overloaded, "the store is busy")
DISK_FULL: Final = BackoffKind("tikvDiskFull", 500, 5000, _NO, Overloaded, "the store's disk is full")
RECOVERY_IN_PROGRESS: Final = BackoffKind(
    "regionRecoveryInProgress", 100, 10_000, _EQUAL, RegionUnavailable, "the region is being recovered"
)
IS_WITNESS: Final = BackoffKind("isWitness", 1000, 10_000, _EQUAL, RegionUnavailable, "the peer is a witness")
STALE_COMMAND: Final = BackoffKind("staleCommand", 2, 1000, _NO, RegionUnavailable, "the command was stale")
MAX_TS_NOT_SYNCED: Final = BackoffKind(
    "maxTsNotSynced", 2, 500, _NO, RegionUnavailable, "the region has not synced its max_ts"
)
REGION_NOT_INITIALIZED: Final = BackoffKind(
    "regionNotInitialized", 2, 1000, _NO, RegionUnavailable, "the region is not initialised"
)
TXN_LOCK: Final = BackoffKind("txnLock", 100, 3000, _EQUAL, KeyLocked, "a lock could not be resolved")
TXN_LOCK_FAST: Final = BackoffKind("txnLockFast", 10, 3000, _EQUAL, KeyLocked, "a lock could not be resolved")
TXN_NOT_FOUND: Final = BackoffKind("txnNotFound", 2, 500, _NO, KeyLocked, "a lock's transaction was not found")
COMMIT_TS_LAG: Final = BackoffKind("commitTSLag", 2, 500, _NO, ServerError, "the commit timestamp lags")

KINDS: Final[tuple[BackoffKind, ...]] = (
    TIKV_RPC,
    PD_RPC,
    PD_NOT_READY,
    REGION_MISS,
    REGION_SCHEDULING,
    SERVER_BUSY,
    DISK_FULL,
    RECOVERY_IN_PROGRESS,
    IS_WITNESS,
    STALE_COMMAND,
    MAX_TS_NOT_SYNCED,
    REGION_NOT_INITIALIZED,
    TXN_LOCK,
    TXN_LOCK_FAST,
    TXN_NOT_FOUND,
    COMMIT_TS_LAG,
)
"""The whole table."""


_FOR_OTHERS: Final = frozenset((TXN_LOCK, TXN_LOCK_FAST, TXN_NOT_FOUND, COMMIT_TS_LAG))


class RetryRules:
    """What a policy makes of the table, and the bounds that it sets. Immutable but for the budget; for many threads."""

    __slots__ = ("_max_attempts", "_rows", "_total_ms", "budget")

    def __init__(self, policy: RetryPolicy, budget: RetryBudget | None = None) -> None:
        self.budget = budget
        self._max_attempts = policy.max_attempts
        self._total_ms = policy.total_ms
        self._rows: dict[BackoffKind, BackoffKind] = {}
        for kind in KINDS:
            other = policy.kinds.get(kind.name)
            if other is not None:
                base_ms = kind.base_ms if other.base_ms is None else other.base_ms
                cap_ms = max(base_ms, kind.cap_ms) if other.cap_ms is None else other.cap_ms
                jitter = kind.jitter if other.jitter is None else Jitter(other.jitter)
                self._rows[kind] = dataclasses.replace(kind, base_ms=base_ms, cap_ms=cap_ms, jitter=jitter)

    @classmethod
    def of(cls, policy: RetryPolicy | None, budget: RetryBudget | None) -> RetryRules | None:
        """Return the rules of a client; None where the table alone counts."""
        return None if policy is None and budget is None else cls(policy or RetryPolicy(), budget)

    def row(self, kind: BackoffKind) -> BackoffKind:
        """Return the row to wait by."""
        return self._rows.get(kind, kind)

    def refuses(self, kind: BackoffKind, tries: int, slept_ms: float, now: float) -> str:
        """Pay for one more try of a call that was tried `tries` times. Returns why it may not be made, else nothing."""
        if kind in _FOR_OTHERS:
            return ""
        if self._max_attempts is not None and tries >= self._max_attempts:
            return f"all {self._max_attempts} attempts (retry.max_attempts) were made"
        if self._total_ms is not None and slept_ms >= self._total_ms:
            return f"{self._total_ms:g} ms (retry.total_ms) were waited"
        if self.budget is not None and not self.budget.withdraw(now):
            return "the retry budget is spent"
        return ""

    def cut(self, kind: BackoffKind, seconds: float, slept_ms: float) -> float:
        """Return a wait no longer than the total allows."""
        if self._total_ms is None or kind in _FOR_OTHERS:
            return seconds
        return min(seconds, max(0.001, (self._total_ms - slept_ms) / 1000))


class Backoffer:
    """The waits of one call, up to its deadline (a value of `rt.now()`). Cheap to make.

    Belongs to one coroutine. Parallel parts of a call each take a `fork()` and the caller `merge`s the one that
    waited longest.
    """

    __slots__ = ("_causes", "_rt", "_slept_ms", "_used", "deadline", "rules", "total_slept_s")

    def __init__(self, rt: Runtime, deadline: float, rules: RetryRules | None = None) -> None:
        self._rt = rt
        self.rules = rules
        self.deadline = deadline
        self.total_slept_s = 0.0
        self._used: dict[BackoffKind, int] | None = None
        self._slept_ms: dict[BackoffKind, float] = {}
        self._causes: tuple[str, ...] = ()

    @property
    def causes(self) -> tuple[str, ...]:
        """The last causes met, oldest first, at most three."""
        return self._causes

    def uses(self, kind: BackoffKind) -> int:
        """How often `kind` has been waited for."""
        return 0 if self._used is None else self._used.get(kind, 0)

    def note(self, cause: object) -> None:
        """Keep a cause for the message without waiting (a try that goes on at once, at another replica)."""
        text = str(cause) or type(cause).__name__
        if not self._causes or self._causes[-1] != text:
            self._causes = (*self._causes, text)[-_KEPT_CAUSES:]

    async def backoff(
        self, kind: BackoffKind, cause: object, *, at_least_s: float = 0.0, at_most_s: float | None = None
    ) -> None:
        """Sleep for the next time of `kind`. Raises `exhausted()` when the deadline leaves no room for another try.

        `at_most_s`: when what is waited for will be over, as the TTL of a lock; a longer sleep would be in vain.
        """
        self.note(cause)
        if self._used is None:
            self._used = {}
        used = self._used.get(kind, 0)
        self._used[kind] = used + 1
        rt = self._rt
        row = kind if self.rules is None else self._allowed(self.rules, kind)
        seconds = max(row.sleep_ms(used, rt.rng) / 1000, at_least_s)
        if self.rules is not None:
            seconds = self.rules.cut(kind, seconds, self._retrying_ms())
        if at_most_s is not None:
            seconds = min(seconds, max(at_most_s, 0.001))
        slept_ms = self._slept_ms.get(kind, 0.0)  # a kind is named only once it has been waited for
        left = self.deadline - rt.now()
        if seconds >= left:
            if at_least_s >= left > 0:
                self._slept_ms.setdefault(kind, 0.0)  # who names a time that is not there has said why
                raise self.exhausted()
            if left * 1000 <= max(row.base_ms, 1.0):
                raise self.exhausted()
            seconds = left / 2
        self._slept_ms[kind] = slept_ms + seconds * 1000
        self.total_slept_s += seconds
        await as_step(rt.now, "backoff", kind.name, rt.sleep(seconds), detail=self._causes[-1])

    def _allowed(self, rules: RetryRules, kind: BackoffKind) -> BackoffKind:
        """Return the row to wait by. Raises the error that ends the call where the rules allow no further try."""
        tries = sum(count for one, count in (self._used or {}).items() if one not in _FOR_OTHERS)
        why = rules.refuses(kind, tries, self._retrying_ms(), self._rt.now())
        if why:
            raise kind.error(f"{kind.text}, and {why}; last causes: {'; '.join(self._causes)}", retryable=True)
        return rules.row(kind)

    def _retrying_ms(self) -> float:
        return sum(slept_ms for kind, slept_ms in self._slept_ms.items() if kind not in _FOR_OTHERS)

    def exhausted(self, cause: object | None = None, *, outcome: Outcome | None = None) -> TikvError:
        """Return the error to end the call with: of the kind that slept longest, DeadlineExceeded where none did."""
        if cause is not None:
            self.note(cause)
        causes = f"; last causes: {'; '.join(self._causes)}" if self._causes else ""
        if not self._slept_ms:
            return DeadlineExceeded(f"the time for the call ran out{causes}", outcome=outcome)
        kind = max(self._slept_ms, key=self._slept_ms.__getitem__)
        waits = ", ".join(f"{kind.name} {count}x" for kind, count in (self._used or {}).items())
        text = f"{kind.text} in the time given (waited {self.total_slept_s:.3g} s: {waits}){causes}"
        error = kind.error(text)
        error.retryable = True
        if outcome is not None:
            error.outcome = outcome
        return error

    def fork(self) -> Backoffer:
        """Return a backoffer for one parallel part of the call: same deadline, counters as they are now."""
        child = Backoffer(self._rt, self.deadline, self.rules)
        child.total_slept_s = self.total_slept_s
        child._used = dict(self._used) if self._used is not None else None
        child._slept_ms = dict(self._slept_ms)
        child._causes = self._causes
        return child

    def merge(self, child: Backoffer) -> None:
        """Take over the counters of a part that waited longer than this."""
        if child.total_slept_s > self.total_slept_s:
            self.total_slept_s = child.total_slept_s
            self._used, self._slept_ms, self._causes = child._used, child._slept_ms, child._causes
