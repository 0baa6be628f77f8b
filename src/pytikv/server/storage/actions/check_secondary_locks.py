"""CheckSecondaryLocks: ask the secondaries of an async-commit transaction, whose fate lies in all its locks.

While every key asked holds the transaction's prewritten lock, the locks are answered: the caller computes the commit_ts
from them. The first key that does not ends the question: it has been committed, which tells the commit_ts, or it will
never be: a missing or a pessimistic lock is replaced by a protected rollback record, so that a late prewrite fails.

Source: TiKV src/storage/txn/commands/check_secondary_locks.rs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from pytikv.server.mvcc.reader import CommitKind, CommitRecord, MvccReader
from pytikv.server.mvcc.records import Lock
from pytikv.server.mvcc.txn import MvccTxn
from pytikv.server.storage.actions.rollback import collapse_prev_rollback, make_rollback

__all__ = ["SecondaryLocksStatus", "check_secondary_locks"]


@dataclasses.dataclass(frozen=True, slots=True)
class SecondaryLocksStatus:
    """The answer: locks; or no locks and a commit_ts; or neither, when the transaction is rolled back."""

    locks: tuple[tuple[bytes, Lock], ...] = ()
    """Each key asked and its lock."""
    commit_ts: int = 0


def check_secondary_locks(txn: MvccTxn, reader: MvccReader, keys: Iterable[bytes]) -> SecondaryLocksStatus:
    """Tell the status of the transaction `txn.start_ts` by its secondary `keys`; see the module's docstring.

    The store's max_ts must be at least start_ts: no commit may come to overwrite the rollback.
    """
    locks = []
    for key in keys:
        found = reader.load_lock(key)
        lock = found if found is not None and found.start_ts == txn.start_ts and not found.is_shared else None
        if lock is not None and not lock.is_pessimistic_lock:
            locks.append((key, lock))
            continue
        record = reader.txn_commit_record(key, txn.start_ts)
        if lock is not None:
            txn.unlock(key, lock)
        if record.kind is CommitKind.NONE:
            _forbid(txn, reader, key, record, None if lock is not None else found)
        return SecondaryLocksStatus(commit_ts=record.commit_ts if record.kind is CommitKind.COMMITTED else 0)
    return SecondaryLocksStatus(tuple(locks))


def _forbid(txn: MvccTxn, reader: MvccReader, key: bytes, record: CommitRecord, mismatch_lock: Lock | None) -> None:
    if mismatch_lock is not None and not mismatch_lock.is_shared:
        txn.mark_rollback_on_mismatching_lock(key, mismatch_lock, is_protected=True)
    write = make_rollback(txn.start_ts, record.overlapped, protected=True)
    if write is not None:
        txn.put_write(key, txn.start_ts, write)
        collapse_prev_rollback(txn, reader, key)
