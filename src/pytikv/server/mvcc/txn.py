"""What one command changes: the write batch, and what others must be told once it is written.

Actions put their changes here and touch nothing else; whoever runs the command writes `batch`, then wakes waiters by
`released` and `new_locks`. Nothing is read back, but for `pending_lock`: actions on several members of one container of
shared locks must see each other's change.

One thread, one command. Source: TiKV src/storage/mvcc/txn.rs.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from pytikv.server.engine.interface import CF_DEFAULT, CF_LOCK, CF_WRITE, WriteBatch
from pytikv.server.mvcc.keys import data_key
from pytikv.server.mvcc.records import Lock, Write

__all__ = ["MvccTxn", "OnePcLock", "ReleasedLock"]


class ReleasedLock(NamedTuple):
    """A lock that is gone once the batch is written."""

    key: bytes
    """The encoded key."""
    start_ts: int
    """The transaction that held it."""
    commit_ts: int
    """0: rolled back, or a pessimistic lock dropped."""
    pessimistic: bool
    """Whether it was released by a pessimistic transaction's lock."""


class OnePcLock(NamedTuple):
    """A lock that 1PC turns into a write record at once, as soon as its commit_ts is known."""

    key: bytes
    lock: Lock
    remove_pessimistic_lock: bool
    """Whether there is a pessimistic lock of the transaction to remove."""


class MvccTxn:
    """The changes of one command on behalf of the transaction `start_ts`."""

    __slots__ = ("_pending", "batch", "locks_for_1pc", "new_locks", "released", "start_ts")

    def __init__(self, start_ts: int) -> None:
        self.start_ts = start_ts
        self.batch = WriteBatch()
        self._pending: dict[bytes, Lock | None] = {}
        self.released: list[ReleasedLock] = []
        self.new_locks: list[tuple[bytes, Lock]] = []
        """Locks on keys that had none, for the deadlock edges of those who wait."""
        self.locks_for_1pc: list[OnePcLock] = []

    @property
    def write_size_bytes(self) -> int:
        """The size of the changes so far: what commands cut their batches by."""
        return self.batch.size_bytes

    def put_lock(self, key: bytes, lock: Lock, *, is_new: bool) -> None:
        """Write a lock. `is_new`: the key had no lock before."""
        if is_new:
            self.new_locks.append((key, lock))
        self.batch.put(CF_LOCK, key, lock.encode())
        self._pending[key] = lock

    def unlock(self, key: bytes, lock: Lock, *, commit_ts: int = 0) -> ReleasedLock:
        """Remove the whole lock record of `key`; `commit_ts` when it was committed."""
        self.batch.delete(CF_LOCK, key)
        self._pending[key] = None
        return self.release(key, lock, commit_ts=commit_ts)

    def release(self, key: bytes, lock: Lock, *, commit_ts: int = 0) -> ReleasedLock:
        """Note that `lock` is released, where its record is not removed: a member of a container."""
        released = ReleasedLock(key, lock.start_ts, commit_ts, lock.is_pessimistic_txn)
        self.released.append(released)
        return released

    def pending_lock(self, key: bytes) -> tuple[bool, Lock | None]:
        """Return whether this command changes the lock of `key`, and to what (None: it removes it)."""
        if key in self._pending:
            return True, self._pending[key]
        return False, None

    def put_value(self, key: bytes, start_ts: int, value: bytes) -> None:
        """Write a value that is too long for a record."""
        self.batch.put(CF_DEFAULT, data_key(key, start_ts), value)

    def delete_value(self, key: bytes, start_ts: int) -> None:
        """Remove such a value."""
        self.batch.delete(CF_DEFAULT, data_key(key, start_ts))

    def put_write(self, key: bytes, commit_ts: int, write: Write) -> None:
        """Write a record; of a rollback, `commit_ts` is the start_ts."""
        self.batch.put(CF_WRITE, data_key(key, commit_ts), write.encode())

    def delete_write(self, key: bytes, commit_ts: int) -> None:
        """Remove a record."""
        self.batch.delete(CF_WRITE, data_key(key, commit_ts))

    def mark_rollback_on_mismatching_lock(self, key: bytes, lock: Lock, *, is_protected: bool) -> None:
        """Note in another transaction's lock that this transaction was rolled back under it, where it matters.

        It matters when the lock's commit may come to lie at this start_ts and would overwrite the rollback: only an
        async commit computes its commit_ts, and only one at or above `min_commit_ts`.
        """
        if is_protected and lock.use_async_commit and self.start_ts >= lock.min_commit_ts:
            marked = dataclasses.replace(lock, rollback_ts=(*lock.rollback_ts, self.start_ts))
            self.put_lock(key, marked, is_new=False)

    def clear(self) -> None:
        """Forget all changes: the command fails as a whole."""
        self.batch = WriteBatch()
        self._pending.clear()
        self.released.clear()
        self.new_locks.clear()
        self.locks_for_1pc.clear()
