"""ResolveLock: end the locks of transactions whose fate is known.

*Lite*: given keys of one transaction. *By scan*: all locks of a region that belong to any of many transactions, in
batches: `scan_locks_to_resolve` finds some of them, `resolve_locks` ends these, until the scan comes to the end of the
region. Between the two the found keys must be latched; a lock that is gone meanwhile is no error.

By scan, a pessimistic lock of a committed transaction is dropped by `commit`; where no trace of the transaction is left
beside it, it stays.

Sources: TiKV src/storage/txn/commands/resolve_lock{,_lite,_readphase}.rs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pytikv.server.mvcc.errors import InvalidTxnTsoError, TxnLockNotFoundError
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import Lock
from pytikv.server.mvcc.txn import MvccTxn
from pytikv.server.storage.actions.cleanup import cleanup
from pytikv.server.storage.actions.commit import commit

__all__ = [
    "RESOLVE_LOCK_BATCH_SIZE",
    "TXN_WRITE_SIZE_MAX_BYTES",
    "resolve_lock_lite",
    "resolve_locks",
    "scan_locks_to_resolve",
]

RESOLVE_LOCK_BATCH_SIZE: Final = 256
"""Locks that one step looks for."""
TXN_WRITE_SIZE_MAX_BYTES: Final = 32 << 10
"""Changes from which a step is cut short."""


def resolve_lock_lite(txn: MvccTxn, reader: MvccReader, keys: Iterable[bytes], commit_ts: int) -> None:
    """Commit `keys` of the transaction `txn.start_ts`, or roll them back when `commit_ts` is 0; all or none.

    Raises what `commit` and `cleanup` raise. That commit_ts is above start_ts is not checked.
    """
    for key in keys:
        if commit_ts:
            commit(txn, reader, key, commit_ts)
        else:
            cleanup(txn, reader, key, 0, protect_rollback=False)


def scan_locks_to_resolve(
    reader: MvccReader,
    txn_status: Mapping[int, int],
    start: bytes,
    end: bytes,
    limit: int = RESOLVE_LOCK_BATCH_SIZE,
) -> tuple[list[tuple[bytes, Lock]], bytes | None]:
    """Return about `limit` locks of `[start, end)` that belong to the transactions, and where to go on (None: no more).

    Members of a container come each by itself. `txn_status`: commit_ts by start_ts, 0 for rolled back.
    """
    found, next_key = reader.scan_locks(start, end, lambda _, lock: lock.start_ts in txn_status, limit)
    locks = [(key, lock) for key, either in found for lock in (either.members if either.is_shared else (either,))]
    return locks, next_key


def resolve_locks(
    txn: MvccTxn, reader: MvccReader, txn_status: Mapping[int, int], key_locks: Sequence[tuple[bytes, Lock]]
) -> bytes | None:
    """End the locks that a scan found; return the key to scan on from when the changes grew large, else None.

    `txn` may be of any start_ts: it takes that of each lock in turn. Raises InvalidTxnTsoError for a commit_ts not
    above the start_ts, and what `commit` and `cleanup` raise; then nothing of the step may be written.
    """
    for key, lock in key_locks:
        txn.start_ts = lock.start_ts
        commit_ts = txn_status[lock.start_ts]
        if not commit_ts:
            cleanup(txn, reader, key, 0, protect_rollback=False)
        elif commit_ts <= lock.start_ts:
            raise InvalidTxnTsoError(lock.start_ts, commit_ts)
        else:
            _commit_found(txn, reader, key, lock, commit_ts)
        if txn.write_size_bytes >= TXN_WRITE_SIZE_MAX_BYTES:
            return key
    return None


def _commit_found(txn: MvccTxn, reader: MvccReader, key: bytes, lock: Lock, commit_ts: int) -> None:
    try:
        commit(txn, reader, key, commit_ts)
    except TxnLockNotFoundError:
        if not lock.is_pessimistic_lock:
            raise
