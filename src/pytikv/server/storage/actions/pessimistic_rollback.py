"""PessimisticRollback: drop pessimistic locks, as if they had never been taken. No record is written.

Only locks whose for_update_ts is not above the request's are dropped: a later statement of the transaction may have
locked the key again. Prewritten locks stay. A request without keys means all such locks of the region.

Sources: TiKV src/storage/txn/commands/pessimistic_rollback{,_read_phase}.rs.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import Lock
from pytikv.server.mvcc.txn import MvccTxn
from pytikv.server.storage.actions.common import lock_of, remove_lock

__all__ = ["pessimistic_rollback_all", "scan_pessimistic_locks"]


def _is_meant(lock: Lock, start_ts: int, for_update_ts: int) -> bool:
    return lock.start_ts == start_ts and lock.is_pessimistic_lock and lock.for_update_ts <= for_update_ts


def pessimistic_rollback_all(txn: MvccTxn, reader: MvccReader, keys: Iterable[bytes], for_update_ts: int) -> None:
    """Drop the pessimistic locks of the transaction `txn.start_ts` on `keys`."""
    for key in keys:
        lock, container = lock_of(txn.start_ts, reader.load_lock(key))
        if lock is not None and _is_meant(lock, txn.start_ts, for_update_ts):
            remove_lock(txn, key, lock, container)


def scan_pessimistic_locks(
    reader: MvccReader, start_ts: int, for_update_ts: int, start: bytes, end: bytes, limit: int
) -> tuple[list[bytes], bytes | None]:
    """Return up to about `limit` keys of `[start, end)` with such locks, and where to go on (None: no more)."""
    locks, next_key = reader.scan_locks(start, end, lambda _, lock: _is_meant(lock, start_ts, for_update_ts), limit)
    return [key for key, _ in locks], next_key
