"""What a rollback leaves: nothing, a record, a protected record, or a note in another record or lock.

A rollback record at start_ts stops a prewrite of the same transaction that comes late. *Unprotected* ones may vanish:
the next rollback record of the key collapses the one before, so that they do not pile up. *Protected* ones (short value
``p``) stay: those of primaries, since the transaction's fate hangs on them, of flushed locks, and those written where
somebody else decided that the transaction is dead.

*Overlapped*: when another transaction has committed the key at exactly this start_ts, its record is in the place. An
unprotected rollback is dropped; a protected one becomes a flag in that record, with a gc_fence (see `Write.gc_fence`).
When that other transaction has only locked the key as yet, the start_ts is noted in its lock, for its commit.

Sources: TiKV src/storage/txn/actions/{check_txn_status,cleanup}.rs, src/storage/mvcc/txn.rs.
"""

from __future__ import annotations

import dataclasses

from pytikv.errors import StorageError, format_key
from pytikv.server.mvcc.keys import wire_key
from pytikv.server.mvcc.reader import CommitKind, MvccReader, OverlappedWrite
from pytikv.server.mvcc.records import Lock, LockType, Write, WriteType
from pytikv.server.mvcc.txn import MvccTxn
from pytikv.server.storage.actions.common import is_primary, remove_lock

__all__ = ["collapse_prev_rollback", "make_rollback", "rollback_lock"]


def make_rollback(start_ts: int, overlapped: OverlappedWrite | None, *, protected: bool) -> Write | None:
    """Return the record to write at start_ts; None: another one is there, and may stay as it is."""
    if overlapped is None:
        return Write.rollback(start_ts, protected=protected)
    if not protected:
        return None
    write, gc_fence = overlapped
    return dataclasses.replace(write, has_overlapped_rollback=True, gc_fence=gc_fence)


def collapse_prev_rollback(txn: MvccTxn, reader: MvccReader, key: bytes) -> None:
    """Remove the rollback record right below start_ts, unless it is protected."""
    found = reader.seek_write(key, txn.start_ts)
    if found is not None and found[1].write_type is WriteType.ROLLBACK and not found[1].is_protected:
        txn.delete_write(key, found[0])


def rollback_lock(
    txn: MvccTxn, reader: MvccReader, key: bytes, lock: Lock, container: Lock | None = None, *, collapse: bool
) -> None:
    """Roll the transaction's lock back: remove it and its value, leave a record.

    `container`: the shared locks that `lock` is a member of. A pessimistic lock beside the transaction's commit record
    is a leftover and only removed; any other lock there is damage: StorageError.
    """
    record = reader.txn_commit_record(key, txn.start_ts)
    if record.kind is CommitKind.COMMITTED and not lock.is_pessimistic_lock:
        raise StorageError(
            f"key {format_key(wire_key(key))} is locked by the transaction {txn.start_ts}, which has been committed "
            f"there at {record.commit_ts}"
        )
    if record.kind is CommitKind.NONE:
        if lock.lock_type is LockType.PUT and lock.short_value is None:
            txn.delete_value(key, lock.start_ts)
        protected = container is None and (lock.generation > 0 or is_primary(key, lock.primary))
        write = make_rollback(txn.start_ts, record.overlapped, protected=protected)
        if write is not None:
            txn.put_write(key, txn.start_ts, write)
        if collapse:
            collapse_prev_rollback(txn, reader, key)
    remove_lock(txn, key, lock, container)
