"""Commit: turn the transaction's lock on one key into a write record.

A repeated commit succeeds and changes nothing, whatever commit_ts it names. Without a lock and without a commit record
the transaction has been rolled back. A pessimistic lock that is still there at the commit is a leftover of a lock
request that nobody waited for: it is dropped, and no record is written. A protected rollback of another transaction
that the lock remembers at this very commit_ts is noted in the record, since the two would lie at the same place.

1PC: `one_pc_commit` makes records of the locks that prewrite kept aside.

Sources: TiKV src/storage/txn/actions/commit.rs, src/storage/txn/commands/{commit,prewrite}.rs.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytikv.errors import StorageError
from pytikv.server.mvcc.errors import CommitTsExpiredError, InvalidTxnTsoError, TxnLockNotFoundError
from pytikv.server.mvcc.keys import wire_key
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import Lock, Write
from pytikv.server.mvcc.txn import MvccTxn
from pytikv.server.storage.actions.common import committed_at, lock_of, present_lock, remove_lock

__all__ = ["commit", "commit_all", "fallback_1pc_locks", "one_pc_commit"]


def commit_all(txn: MvccTxn, reader: MvccReader, keys: Iterable[bytes], commit_ts: int) -> None:
    """Commit `keys` of the transaction `txn.start_ts`, all or none.

    Raises InvalidTxnTsoError, CommitTsExpiredError, TxnLockNotFoundError.
    """
    if commit_ts <= txn.start_ts:
        raise InvalidTxnTsoError(txn.start_ts, commit_ts)
    for key in keys:
        commit(txn, reader, key, commit_ts)


def commit(txn: MvccTxn, reader: MvccReader, key: bytes, commit_ts: int) -> None:
    """Commit one key. Raises CommitTsExpiredError below the lock's min_commit_ts, TxnLockNotFoundError."""
    lock, container = lock_of(txn.start_ts, present_lock(txn, reader, key))
    if lock is None or lock.start_ts != txn.start_ts:
        if not committed_at(reader, key, txn.start_ts):
            raise TxnLockNotFoundError(txn.start_ts, commit_ts, wire_key(key))
        return
    if commit_ts < lock.min_commit_ts:
        raise CommitTsExpiredError(txn.start_ts, commit_ts, wire_key(key), lock.min_commit_ts)
    if lock.is_pessimistic_lock:
        remove_lock(txn, key, lock, container)
        return
    write = _record(lock)
    write.has_overlapped_rollback = commit_ts in lock.rollback_ts
    txn.put_write(key, commit_ts, write)
    remove_lock(txn, key, lock, container, commit_ts=commit_ts)


def _record(lock: Lock) -> Write:
    if lock.write_type is None:
        raise StorageError(f"a lock of type {lock.lock_type.name} makes no record")
    return Write(
        lock.write_type,
        lock.start_ts,
        lock.short_value,
        last_change_ts=lock.last_change_ts,
        versions_to_last_change=lock.versions_to_last_change,
        txn_source=lock.txn_source,
    )


def one_pc_commit(txn: MvccTxn, commit_ts: int) -> None:
    """Commit the locks that were kept aside. They cannot lie on a rollback: commit_ts is above all that was read."""
    for key, lock, remove_pessimistic_lock in txn.locks_for_1pc:
        txn.put_write(key, commit_ts, _record(lock))
        if remove_pessimistic_lock:
            txn.unlock(key, lock, commit_ts=commit_ts)
    txn.locks_for_1pc.clear()


def fallback_1pc_locks(txn: MvccTxn) -> None:
    """Write the locks that were kept aside as locks of two phases."""
    for key, lock, remove_pessimistic_lock in txn.locks_for_1pc:
        lock.use_one_pc = False
        txn.put_lock(key, lock, is_new=not remove_pessimistic_lock)
    txn.locks_for_1pc.clear()
