"""What is around every change of transactional data: latches, the write, and what follows from it.

`run` latches the keys, lets a body decide on the present state, writes what it decided in one batch, and tells the lock
wait queues which locks went and came, all under the latches: so a waiter never misses the release of the lock it has
seen. Effects on waiters are carried out after the latches are given back; they may resume requests, which run in turn,
one after the other, in this thread.

Memory locks that the body published are taken back after the write, or after a failure, in any case.

*Timers*: woken waiters keep others waiting for a moment (`lock_waiting`). Who can call back later gives `use_timers` a
function that may be called from any thread; without one, the others are woken at once.

Safe for threads: any number may run at once. Source: TiKV src/storage/txn/scheduler.rs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Protocol, TypeVar

from pytikv.server.engine.interface import CF_WRITE, Engine
from pytikv.server.mvcc.keys import wire_key
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.txn import MvccTxn
from pytikv.server.storage.concurrency import ConcurrencyManager
from pytikv.server.storage.latches import Latches
from pytikv.server.storage.limits import check_entry
from pytikv.server.storage.lock_waiting import WAKE_UP_DELAY_S, Delay, Effect, LockWaitQueues
from pytikv.server.storage.spent import Spent
from pytikv.server.storage.txn_status import TxnStatusCache
from pytikv.server.storage.txn_writes import Work

__all__ = ["CallLater", "Sleeper", "TxnRunner"]

T = TypeVar("T")
CallLater = Callable[[float, Callable[[], None]], object]


class Sleeper(Protocol):
    """The owner of a waiter in the queues."""

    def carry_out(self, effect: Effect) -> list[Effect]:
        """Do what `effect` says of the waiter; return the effects of that."""
        ...


class TxnRunner:
    """The parts that all commands of one store share, and how a change is made with them."""

    def __init__(self, engine: Engine, concurrency: ConcurrencyManager, now_s: Callable[[], float]) -> None:
        self.engine = engine
        self._first = engine.seeker(CF_WRITE)
        self.concurrency = concurrency
        self.now_s = now_s
        self.latches = Latches()
        self.queues = LockWaitQueues(wake_up_delay_s=0.0)
        self.statuses = TxnStatusCache()
        self._call_later: CallLater | None = None

    def use_timers(self, call_later: CallLater) -> None:
        """Let delayed wake-ups be made by `call_later(seconds, callback)`. To be called before the first request."""
        self._call_later = call_later
        self.queues.wake_up_delay_s = WAKE_UP_DELAY_S

    def run(
        self, keys: Collection[bytes], start_ts: int, body: Callable[[Work], T], spent: Spent | None = None
    ) -> tuple[T, int]:
        """Change `keys` (encoded); return what `body` returned and the ticket, 0 when nothing was written.

        `spent` is told what it took. Raises what `body` raises, then nothing is written; RaftEntryTooLarge,
        DeadlineExceeded and StorageError.
        """
        result, ticket, effects = self.run_quietly(keys, start_ts, body, spent)
        if effects:
            self.carry_out(effects)
        return result, ticket

    def run_quietly(
        self, keys: Collection[bytes], start_ts: int, body: Callable[[Work], T], spent: Spent | None = None
    ) -> tuple[T, int, list[Effect]]:
        """As `run`, but return the effects instead of carrying them out."""
        since = spent.now() if spent is not None else 0.0
        with self.latches.hold(keys):
            if spent is not None:
                spent.latched(since)
            txn = MvccTxn(start_ts)
            work = Work(txn, MvccReader(self.engine, self._first), self.concurrency, self.statuses)
            try:
                result = body(work)
                ticket = 0
                batch = txn.batch
                if batch.modifies:
                    check_entry(batch)
                    since = spent.now() if spent is not None else 0.0
                    ticket = self.engine.write(batch)
                    if spent is not None:
                        spent.wrote(since)
            finally:
                if work.published:
                    self.concurrency.retract(work.published)
            for committed in work.committed:
                self.statuses.note_committed(*committed)
            return result, ticket, self._tell(txn) if len(self.queues) else []

    def _tell(self, txn: MvccTxn) -> list[Effect]:
        """Tell the queues of the locks that went and came."""
        now_s = self.now_s()
        effects: list[Effect] = []
        for released in txn.released:
            effects += self.queues.release(released.key, released.start_ts, released.commit_ts)
        for key, lock in txn.new_locks:
            effects += self.queues.acquire(key, lock.info(wire_key(key)), now_s)
        return effects

    def carry_out(self, effects: Iterable[Effect]) -> None:
        """Carry out effects on waiters, and the effects of those, in order."""
        pending = deque(effects)
        while pending:
            effect = pending.popleft()
            if isinstance(effect, Delay):
                self._wake_later(effect)
            else:
                owner: Sleeper = effect.waiter.owner
                pending.extend(owner.carry_out(effect))

    def _wake_later(self, delay: Delay) -> None:
        assert self._call_later is not None, "queues without timers do not delay"
        self._call_later(delay.after_s, lambda: self.carry_out(self.queues.wake_delayed(delay.key, delay.number)))
