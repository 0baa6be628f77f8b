"""How far garbage collection may go: the transaction safe point, the GC safe point and what holds them back.

* the *txn safe point*: no transaction below it may start or go on. It never falls;
* the *GC safe point*: data below it may be gone. It never falls and never passes the txn safe point;
* a *barrier*: a service (a backup, say) that holds the txn safe point at or below a timestamp, for a time to live.

The service called ``gc_worker`` is the txn safe point itself, seen through the old interface: its safe point advances
up to the lowest barrier. Every answer names ``gc_worker``, except that one which a barrier held back names the barrier.
A barrier below the txn safe point is not taken, silently; so is a GC safe point below the present one. Barriers whose
time is over are dropped whenever they are looked at, so that they cannot come back with a clock that jumps.

The newer interface names the same states: a barrier is what the old one calls a service's safe point. It refuses where
the old one keeps silent: a target below the present one, a barrier below the txn safe point.

Source: PD pkg/gc/gc_state_manager.go, server/gc_service.go. Pure: `now_s` comes in, what must
be persisted is the object's `dump`. Not safe for threads. Limit: MAX_BARRIERS.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Final

from pytikv.server.pd.errors import PdError

__all__ = ["FOREVER_S", "GC_WORKER", "MAX_BARRIERS", "Advance", "Barrier", "GcStates", "ServiceSafePoint"]

GC_WORKER: Final = "gc_worker"
MAX_BARRIERS: Final = 10_000
FOREVER_S: Final = (1 << 63) - 1


@dataclasses.dataclass(frozen=True, slots=True)
class Barrier:
    """A timestamp that GC must not pass before `expires_at_s` (Unix seconds)."""

    service_id: str
    ts: int
    expires_at_s: int


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceSafePoint:
    """Answer of `update_service`: the lowest safe point, who holds it, and for how long yet."""

    service_id: str
    safe_point: int
    ttl_s: int


@dataclasses.dataclass(frozen=True, slots=True)
class Advance:
    """How far a safe point moved; `blocker` is the barrier that held it below its target."""

    old: int
    new: int
    blocker: Barrier | None = None


class GcStates:
    """The safe points of the cluster (one state for all keyspaces, as PD has by default)."""

    def __init__(self) -> None:
        self.txn_safe_point = 0
        self.gc_safe_point = 0
        self._barriers: dict[str, Barrier] = {}

    def barriers(self, now_s: int) -> list[Barrier]:
        """Return the barriers in force, lowest first, dropping those whose time is over."""
        self._barriers = {name: b for name, b in self._barriers.items() if b.expires_at_s > now_s}
        return sorted(self._barriers.values(), key=lambda b: (b.ts, b.service_id))

    def update_service(self, service_id: str, ttl_s: int, safe_point: int, now_s: int) -> ServiceSafePoint:
        """Set or (TTL 0 or less) remove a service's safe point. Raises PdError for what PD refuses."""
        if service_id == GC_WORKER:
            return self._advance_txn_safe_point(ttl_s, safe_point, now_s)
        _check_barrier_id(service_id)
        if ttl_s <= 0:
            self._barriers.pop(service_id, None)
        elif safe_point >= self.txn_safe_point:
            self._put_barrier(Barrier(service_id, safe_point, min(now_s + ttl_s, FOREVER_S)), now_s)
        return ServiceSafePoint(GC_WORKER, self.txn_safe_point, FOREVER_S - now_s)

    def _put_barrier(self, barrier: Barrier, now_s: int) -> None:
        if len(self.barriers(now_s)) >= MAX_BARRIERS and barrier.service_id not in self._barriers:
            raise PdError(f"more than {MAX_BARRIERS} service safe points")
        self._barriers[barrier.service_id] = barrier

    def _advance_txn_safe_point(self, ttl_s: int, target: int, now_s: int) -> ServiceSafePoint:
        if ttl_s != FOREVER_S:
            raise PdError("TTL of gc_worker's service safe point must be infinity")
        advance = self.advance_txn_safe_point(target, now_s)
        holder = GC_WORKER if advance.blocker is None else advance.blocker.service_id
        return ServiceSafePoint(holder, advance.new, FOREVER_S - now_s)

    def advance_txn_safe_point(self, target: int, now_s: int) -> Advance:
        """Raise the txn safe point to `target`, or to the lowest barrier below. Raises PdError for a lower target."""
        old = self.txn_safe_point
        if target < old:
            raise PdError(
                "[PD:gc:ErrDecreasingTxnSafePoint]trying to update txn safe point to a smaller value, "
                f"current value: {old}, given: {target}"
            )
        lowest = next(iter(self.barriers(now_s)), None)
        blocker = lowest if lowest is not None and lowest.ts < target else None
        self.txn_safe_point = target if blocker is None else max(old, blocker.ts)
        return Advance(old, self.txn_safe_point, blocker)

    def advance_gc_safe_point(self, target: int) -> Advance:
        """Raise the GC safe point. Raises PdError for a target that is lower, or above the txn safe point."""
        old = self.gc_safe_point
        if target < old:
            raise PdError(
                "[PD:gc:ErrDecreasingGCSafePoint]trying to update GC safe point to a smaller value, "
                f"current value: {old}, given: {target}"
            )
        return Advance(old, self.update_gc_safe_point(target))

    def set_barrier(self, barrier_id: str, ts: int, ttl_s: int, now_s: int) -> Barrier:
        """Set a barrier, or move it. Raises PdError for a reserved name, no TTL, a time below the txn safe point."""
        if ttl_s <= 0:
            raise PdError(f"[PD:common:ErrInvalidArgument]invalid argument ttl, value {ttl_s}")
        _check_barrier_id(barrier_id)
        if ts < self.txn_safe_point:
            raise PdError(
                f"[PD:gc:ErrGCBarrierTSBehindTxnSafePoint]trying to set a GC barrier on ts {ts} which is already "
                f"behind the txn safe point {self.txn_safe_point}"
            )
        barrier = Barrier(barrier_id, ts, min(now_s + ttl_s, FOREVER_S))
        self._put_barrier(barrier, now_s)
        return barrier

    def delete_barrier(self, barrier_id: str, now_s: int) -> Barrier | None:
        """Remove a barrier and return it; None when there was none. Raises PdError for a reserved name."""
        _check_barrier_id(barrier_id)
        self.barriers(now_s)
        return self._barriers.pop(barrier_id, None)

    def update_gc_safe_point(self, target: int) -> int:
        """Raise the GC safe point to `target` and return the present one. Raises PdError above the txn safe point."""
        if target > self.txn_safe_point:
            raise PdError(
                "[PD:gc:ErrGCSafePointExceedsTxnSafePoint]trying to update GC safe point to a too large value that "
                f"exceeds the txn safe point, current value: {self.gc_safe_point}, given: {target}, "
                f"current txn safe point: {self.txn_safe_point}"
            )
        self.gc_safe_point = max(self.gc_safe_point, target)
        return self.gc_safe_point

    def dump(self) -> bytes:
        """Return the whole state as bytes to persist."""
        barriers = [dataclasses.asdict(barrier) for barrier in self._barriers.values()]
        state = {"txn_safe_point": self.txn_safe_point, "gc_safe_point": self.gc_safe_point, "barriers": barriers}
        return json.dumps(state).encode()

    @classmethod
    def load(cls, data: bytes | None) -> GcStates:
        """Return the state that `dump` wrote; None: a new one."""
        states = cls()
        if data is not None:
            fields = json.loads(data)
            states.txn_safe_point = fields["txn_safe_point"]
            states.gc_safe_point = fields["gc_safe_point"]
            states._barriers = {b["service_id"]: Barrier(**b) for b in fields["barriers"]}
        return states


def _check_barrier_id(barrier_id: str) -> None:
    if barrier_id == GC_WORKER:
        raise PdError(
            f"[PD:gc:ErrReservedGCBarrierID]trying to set a GC barrier with a barrier ID that is reserved, "
            f"id: {barrier_id}"
        )
    if not barrier_id:
        raise PdError("[PD:common:ErrInvalidArgument]invalid argument barrierID, value ")
