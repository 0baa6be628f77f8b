"""Who waits for which lock, and who is woken when it goes.

A pessimistic lock request that meets another transaction's lock becomes a `Waiter` in the queue of its key. What
happens to it comes back as *effects*, for the owner to carry out; nothing is called from here.

* *Release of the lock*: the waiter with the smallest start_ts is woken. In normal mode that is all: it is told of a
  write conflict (PessimisticRetry), never given the lock, and its client asks again with a newer for_update_ts. Those
  behind it are woken after `WAKE_UP_DELAY_S`, counted from the last release, for the first may not ask again; those who
  came since then stay. In force-lock mode the waiter is *resumed*: the owner tries its request again on its behalf,
  and the next one gets its turn when that lock goes. Delayed waking ends at the first waiter to be resumed. Waiters for
  shared locks that stand together are woken together.
* *Another transaction takes the lock*: waiters learn whom they wait for now; in force-lock mode, where they stay, the
  edges of deadlock detection follow.
* *A wait that would close a circle* ends at once as a deadlock. A transaction's first lock cannot close one.
* *Time is over*: the waiter is told the lock that it waited for, with how long ago it changed hands.

States of a waiter: NEW -> WAITING -> ENDED; in force-lock mode also WAITING -> RESUMED -> WAITING or ENDED. One that is
expired while it is resumed ends when it should wait again. Invariants: a waiter is in its key's queue exactly while it
is WAITING; it gets exactly one effect that ends it; there are no empty queues.

The owner pushes a waiter while it holds the latch of the key, under which it has seen the lock, and releases likewise:
so no wake-up falls in between. One mutex guards everything, times come in. Limits: MAX_WAITERS waiters, MAX_WAIT_S for
each wait.

Sources: TiKV src/storage/lock_manager/lock_waiting_queue.rs, src/server/lock_manager/waiter_manager.rs.
"""

from __future__ import annotations

import dataclasses
import enum
from bisect import insort
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from pytikv.codec.farmhash import fingerprint64
from pytikv.proto import deadlock_pb2 as deadlockpb
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.rt.locks import mutex
from pytikv.server.storage.deadlock import Deadlock, Detector

__all__ = [
    "MAX_WAITERS",
    "MAX_WAIT_S",
    "WAKE_UP_DELAY_S",
    "Deadlocked",
    "Delay",
    "Effect",
    "Expired",
    "LockWaitQueues",
    "Resumed",
    "Waiter",
    "WaiterState",
    "Woken",
    "wait_limit_s",
]

MAX_WAIT_S: Final = 1.0
"""What a client that names no time waits, and the most that any waits: TiKV's wait-for-lock-timeout."""

WAKE_UP_DELAY_S: Final = 0.02
MAX_WAITERS: Final = 10_000


def wait_limit_s(wait_timeout_ms: int) -> float | None:
    """Return how long a request with that `wait_timeout` may wait; None: not at all."""
    if wait_timeout_ms < 0:
        return None
    return min(wait_timeout_ms / 1000, MAX_WAIT_S) if wait_timeout_ms else MAX_WAIT_S


class WaiterState(enum.Enum):
    """See the module's docstring."""

    NEW = "new"
    WAITING = "waiting"
    RESUMED = "resumed"
    ENDED = "ended"


@dataclasses.dataclass(slots=True, eq=False)
class Waiter:
    """One request at one key. `owner` is whatever the owner of the queues needs to know it by."""

    key: bytes
    """The encoded key."""
    wire_key: bytes
    start_ts: int
    owner: Any = None
    is_resumable: bool = False
    """Force-lock mode."""
    is_first_lock: bool = False
    wants_shared: bool = False
    resource_group_tag: bytes = b""
    # What follows belongs to the queues.
    state: WaiterState = WaiterState.NEW
    lock: kvrpcpb.LockInfo = dataclasses.field(default_factory=kvrpcpb.LockInfo)
    """The lock waited for, as last seen."""
    holders: tuple[int, ...] = ()
    """The transactions to which the deadlock graph has edges."""
    key_hash: int = 0
    changed_s: float | None = None
    """When the lock changed hands during the wait."""
    wake_number: int = 0
    number: int = 0
    is_expired: bool = False


class Woken(NamedTuple):
    """The waiter ends with a write conflict, PessimisticRetry; both timestamps are those of the lock that went."""

    waiter: Waiter
    conflict_start_ts: int
    conflict_commit_ts: int


class Resumed(NamedTuple):
    """The waiter's request is to be tried again; then comes `push` or `finish`."""

    waiter: Waiter


class Deadlocked(NamedTuple):
    """The waiter ends with a deadlock."""

    waiter: Waiter
    deadlock: Deadlock


class Expired(NamedTuple):
    """The waiter ends with the lock that it waited for."""

    waiter: Waiter
    lock: kvrpcpb.LockInfo


class Delay(NamedTuple):
    """`wake_delayed(key, number)` is to be called after so many seconds."""

    key: bytes
    number: int
    after_s: float


Effect = Woken | Resumed | Deadlocked | Expired | Delay


@dataclasses.dataclass(slots=True)
class _Queue:
    """The waiters of one key, the one to be woken first in front."""

    waiters: list[Waiter] = dataclasses.field(default_factory=list)
    wake_number: int = 0
    """How many releases have woken in normal mode. Waiters that came before have a smaller one."""
    conflict: tuple[int, int] = (0, 0)
    delay_number: int = 0
    """Of the delayed waking that counts; a later release starts another. 0: none is under way."""


def _turn(waiter: Waiter) -> tuple[int, int]:
    return waiter.start_ts, waiter.number


class LockWaitQueues:
    """The queues of one store, with its deadlock detector. `wake_up_delay_s` 0: everybody is woken at once."""

    def __init__(self, wake_up_delay_s: float = WAKE_UP_DELAY_S) -> None:
        self.wake_up_delay_s = wake_up_delay_s
        self._mutex = mutex()
        self._queues: dict[bytes, _Queue] = {}
        self._detector = Detector(MAX_WAIT_S)
        self._count = 0
        self._last_number = 0

    @property
    def keys(self) -> int:
        """How many keys are waited for."""
        return len(self._queues)

    def __len__(self) -> int:
        """The number of waiters. Zero may be relied on by whoever holds the latches of the keys it asks about."""
        return self._count

    def waits(self) -> list[deadlockpb.WaitForEntry]:
        """Return all waits, in the order of their start_ts."""
        with self._mutex:
            waiters = sorted((w for queue in self._queues.values() for w in queue.waiters), key=_turn)
            return [_entry(waiter, holder) for waiter in waiters for holder in _holders(waiter.lock)]

    # --- coming and going ---------------------------------------------------------------------------------------------

    def push(self, waiter: Waiter, lock: kvrpcpb.LockInfo, now_s: float) -> Deadlocked | Expired | None:
        """Let `waiter` wait for `lock`; or return why it must not: a deadlock, its time is over, too many wait."""
        with self._mutex:
            waiter.lock = lock
            if waiter.is_expired or self._count >= MAX_WAITERS:
                return self._expired(waiter, now_s)
            waiter.key_hash = waiter.key_hash or fingerprint64(waiter.wire_key)
            self._forget_edges(waiter)
            deadlock = self._detect(waiter, now_s)
            if deadlock is not None:
                waiter.state = WaiterState.ENDED
                return Deadlocked(waiter, deadlock)
            queue = self._queues.setdefault(waiter.key, _Queue())
            self._last_number += 1
            waiter.number = self._last_number
            waiter.wake_number = queue.wake_number
            waiter.state = WaiterState.WAITING
            insort(queue.waiters, waiter, key=_turn)
            self._count += 1
            return None

    def finish(self, waiter: Waiter) -> None:
        """Note that a resumed waiter has its answer."""
        with self._mutex:
            self._forget_edges(waiter)
            waiter.state = WaiterState.ENDED

    def expire(self, waiter: Waiter, now_s: float) -> Expired | None:
        """End a wait because its time is over. None: it has ended already, or does when it should wait again."""
        with self._mutex:
            waiter.is_expired = True
            if waiter.state is not WaiterState.WAITING:
                return None
            self._take(waiter)
            return self._expired(waiter, now_s)

    # --- what happens to locks ----------------------------------------------------------------------------------------

    def release(self, key: bytes, start_ts: int, commit_ts: int) -> list[Effect]:
        """Take in that the lock of `start_ts` on `key` is gone (`commit_ts` 0: without a commit)."""
        with self._mutex:
            queue = self._queues.get(key)
            if queue is None:
                return []
            queue.conflict = start_ts, commit_ts
            woken = queue.waiters[:1]
            if woken[0].wants_shared:
                woken = _leading_shared(queue.waiters)
            effects = [self._wake(queue, waiter) for waiter in woken]
            conflicts = sum(not waiter.is_resumable for waiter in woken)
            queue.wake_number += conflicts
            if conflicts and queue.waiters:
                effects += self._delay_others(key, queue)
            return effects

    def acquire(self, key: bytes, lock: kvrpcpb.LockInfo, now_s: float) -> list[Effect]:
        """Take in that `key`, which was free, is locked by `lock`."""
        with self._mutex:
            queue = self._queues.get(key)
            effects: list[Effect] = []
            for waiter in [] if queue is None else list(queue.waiters):
                is_changed = _holders(waiter.lock) != _holders(lock)
                waiter.lock = lock
                waiter.changed_s = now_s
                if is_changed and waiter.is_resumable and not waiter.is_first_lock:
                    self._forget_edges(waiter)
                    deadlock = self._detect(waiter, now_s)
                    if deadlock is not None:
                        self._take(waiter)
                        effects.append(Deadlocked(waiter, deadlock))
            return effects

    def wake_next(self, key: bytes) -> list[Effect]:
        """Wake the next waiter: the one that was resumed has ended without the lock."""
        with self._mutex:
            queue = self._queues.get(key)
            return [] if queue is None else self.release(key, *queue.conflict)

    def wake_delayed(self, key: bytes, number: int) -> list[Effect]:
        """Wake those whose delay is over; nobody, when a later release has started another one."""
        with self._mutex:
            queue = self._queues.get(key)
            if queue is None or queue.delay_number != number:
                return []
            return self._wake_all(queue)

    def _delay_others(self, key: bytes, queue: _Queue) -> list[Effect]:
        if not self.wake_up_delay_s:
            return self._wake_all(queue)
        self._last_number += 1
        queue.delay_number = self._last_number
        return [Delay(key, queue.delay_number, self.wake_up_delay_s)]

    def _wake_all(self, queue: _Queue) -> list[Effect]:
        queue.delay_number = 0
        effects: list[Effect] = []
        while queue.waiters and queue.waiters[0].wake_number < queue.wake_number:
            waiter = queue.waiters[0]
            effects.append(self._wake(queue, waiter))
            if waiter.is_resumable:
                break
        return effects

    def _wake(self, queue: _Queue, waiter: Waiter) -> Effect:
        self._take(waiter)
        if waiter.is_resumable:
            waiter.state = WaiterState.RESUMED
            return Resumed(waiter)
        self._forget_edges(waiter)
        return Woken(waiter, *queue.conflict)

    def _take(self, waiter: Waiter) -> None:
        queue = self._queues[waiter.key]
        queue.waiters.remove(waiter)
        if not queue.waiters:
            del self._queues[waiter.key]
        self._count -= 1
        waiter.state = WaiterState.ENDED

    def _expired(self, waiter: Waiter, now_s: float) -> Expired:
        self._forget_edges(waiter)
        waiter.state = WaiterState.ENDED
        lock = kvrpcpb.LockInfo()
        lock.CopyFrom(waiter.lock)
        if waiter.changed_s is not None:
            lock.duration_to_last_update_ms = max(1, int((now_s - waiter.changed_s) * 1000))
        return Expired(waiter, lock)

    # --- edges --------------------------------------------------------------------------------------------------------

    def _detect(self, waiter: Waiter, now_s: float) -> Deadlock | None:
        if waiter.is_first_lock:
            return None
        for holder in _holders(waiter.lock):
            deadlock = self._detector.detect(_entry(waiter, holder), now_s)
            if deadlock is not None:
                self._forget_edges(waiter)
                return deadlock
            waiter.holders = (*waiter.holders, holder)
        return None

    def _forget_edges(self, waiter: Waiter) -> None:
        for holder in waiter.holders:
            self._detector.remove(waiter.start_ts, holder, waiter.key_hash)
        waiter.holders = ()


def _holders(lock: kvrpcpb.LockInfo) -> tuple[int, ...]:
    if lock.shared_lock_infos:
        return tuple([member.lock_version for member in lock.shared_lock_infos])
    return (lock.lock_version,)


def _leading_shared(waiters: Iterable[Waiter]) -> list[Waiter]:
    leading = []
    for waiter in waiters:
        if not waiter.wants_shared:
            break
        leading.append(waiter)
    return leading


def _entry(waiter: Waiter, holder: int) -> deadlockpb.WaitForEntry:
    return deadlockpb.WaitForEntry(
        txn=waiter.start_ts,
        wait_for_txn=holder,
        key_hash=waiter.key_hash,
        key=waiter.wire_key,
        resource_group_tag=waiter.resource_group_tag,
    )
