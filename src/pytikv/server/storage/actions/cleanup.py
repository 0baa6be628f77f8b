"""Cleanup and rollback: end a transaction on given keys without effect.

`cleanup` is the work on one key of three commands: BatchRollback and ResolveLock (not protected, no look at the time),
and KvCleanup (protected; with a current_ts, a lock that is alive stays).

Sources: TiKV src/storage/txn/actions/cleanup.rs, src/storage/txn/commands/{cleanup,rollback}.rs.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytikv.server.mvcc.errors import CommittedError, KeyIsLocked
from pytikv.server.mvcc.keys import wire_key
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.txn import MvccTxn
from pytikv.server.storage.actions.check_txn_status import (
    MissingLockAction,
    StatusKind,
    check_txn_status_missing_lock,
)
from pytikv.server.storage.actions.common import is_expired, lock_of, present_lock
from pytikv.server.storage.actions.rollback import rollback_lock

__all__ = ["cleanup", "rollback_all"]


def rollback_all(txn: MvccTxn, reader: MvccReader, keys: Iterable[bytes]) -> None:
    """Roll back `keys` of the transaction `txn.start_ts`, all or none. Raises CommittedError."""
    for key in keys:
        cleanup(txn, reader, key, 0, protect_rollback=False)


def cleanup(txn: MvccTxn, reader: MvccReader, key: bytes, current_ts: int, *, protect_rollback: bool) -> None:
    """Roll back one key. `current_ts` not 0: only if the lock has expired by then, else KeyIsLocked.

    `protect_rollback`: a record written where no lock was is protected, and no earlier one is collapsed. Raises
    CommittedError when the transaction has been committed on this key. For KvCleanup the store's max_ts must be at
    least start_ts: no commit may come to overwrite the protected record.
    """
    lock, container = lock_of(txn.start_ts, present_lock(txn, reader, key))
    if lock is not None and lock.start_ts == txn.start_ts:
        if current_ts and not is_expired(lock, current_ts):
            raise KeyIsLocked((container or lock).info(wire_key(key)))
        rollback_lock(txn, reader, key, lock, container, collapse=not protect_rollback)
        return
    action = MissingLockAction.PROTECTED_ROLLBACK if protect_rollback else MissingLockAction.ROLLBACK
    status = check_txn_status_missing_lock(txn, reader, key, lock, action, resolving_pessimistic=False)
    if status.kind is StatusKind.COMMITTED:
        raise CommittedError(txn.start_ts, status.commit_ts, wire_key(key))
