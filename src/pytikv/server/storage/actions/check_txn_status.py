"""CheckTxnStatus: ask a transaction's primary key what became of the transaction; decide it, when its time is over.

*The lock is there.* Alive, it is answered, and its min_commit_ts is pushed above the caller, so that the caller need
not wait for it. Expired, the transaction is rolled back: by a protected record, or, while somebody resolves a
pessimistic lock (the transaction may still be at work and choose another primary), by dropping the lock alone. The lock
of an async commit is only answered: its fate lies in all its locks, unless the caller knows that it fell back
(`force_sync_commit`).

*The lock is not there.* The records tell. No trace: the transaction is unknown, or is forbidden by a protected rollback
(`rollback_if_not_exist`), but not while a pessimistic lock is resolved: its primary may be locked any moment.

*Another primary.* The lock on the asked key may name another primary: a pessimistic transaction may lock its first key
again after all its locks were dropped. While a prewritten lock is resolved, its primary is the right one, so a
pessimistic lock here with another primary is a leftover and removed; else the caller is told the lock.

A pessimistic lock taken in spite of a conflict may be one that arrived after the end of its transaction: the records
are looked at first, and when they know the end, the lock is dropped.

Sources: TiKV src/storage/txn/actions/check_txn_status.rs, src/storage/txn/commands/check_txn_status.rs.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Final

from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.mvcc.errors import PrimaryMismatchError, TxnNotFoundError
from pytikv.server.mvcc.keys import TS_MAX, wire_key
from pytikv.server.mvcc.reader import CommitKind, CommitRecord, MvccReader
from pytikv.server.mvcc.records import Lock
from pytikv.server.mvcc.txn import MvccTxn
from pytikv.server.storage.actions.common import is_expired, is_primary
from pytikv.server.storage.actions.rollback import collapse_prev_rollback, make_rollback, rollback_lock

__all__ = [
    "MissingLockAction",
    "StatusKind",
    "StatusQuery",
    "TxnStatus",
    "check_txn_status",
    "check_txn_status_missing_lock",
]


class StatusKind(enum.Enum):
    """What is known of the transaction."""

    UNCOMMITTED = "its lock is alive"
    COMMITTED = "committed"
    ROLLED_BACK = "was rolled back before"
    TTL_EXPIRE = "rolled back now: its time was over"
    PESSIMISTIC_ROLLBACK = "its pessimistic lock was dropped now: its time was over"
    LOCK_NOT_EXIST = "rolled back now: no trace of it"
    LOCK_NOT_EXIST_DO_NOTHING = "no trace of it, nothing done"


_ACTIONS: Final = {
    StatusKind.TTL_EXPIRE: kvrpcpb.Action.TTLExpireRollback,
    StatusKind.PESSIMISTIC_ROLLBACK: kvrpcpb.Action.TTLExpirePessimisticRollback,
    StatusKind.LOCK_NOT_EXIST: kvrpcpb.Action.LockNotExistRollback,
    StatusKind.LOCK_NOT_EXIST_DO_NOTHING: kvrpcpb.Action.LockNotExistDoNothing,
}


@dataclasses.dataclass(frozen=True, slots=True)
class TxnStatus:
    """The answer."""

    kind: StatusKind
    commit_ts: int = 0
    """Of COMMITTED."""
    lock: Lock | None = None
    """Of UNCOMMITTED: the lock as it is now."""
    min_commit_ts_pushed: bool = False
    """Of UNCOMMITTED: the caller may read past the lock, whether or not it had to be pushed for that."""

    @property
    def action(self) -> kvrpcpb.Action:
        """What a client is told to have been done."""
        if self.min_commit_ts_pushed:
            return kvrpcpb.Action.MinCommitTSPushed
        return _ACTIONS.get(self.kind, kvrpcpb.Action.NoAction)


_ROLLED_BACK: Final = TxnStatus(StatusKind.ROLLED_BACK)


@dataclasses.dataclass(frozen=True, slots=True)
class StatusQuery:
    """What the caller says of itself and of the transaction that it asks for."""

    caller_start_ts: int = 0
    """0: the caller does not read; TS_MAX: it reads the latest version."""
    current_ts: int = 0
    rollback_if_not_exist: bool = False
    force_sync_commit: bool = False
    resolving_pessimistic_lock: bool = False
    verify_is_primary: bool = False

    def max_ts(self, lock_ts: int) -> int:
        """Return what the store's max_ts must be raised to before the lock is read.

        No later commit may come to lie at or below the rollback, or below the caller that goes past the lock.
        """
        return max([ts for ts in (lock_ts, self.current_ts, self.caller_start_ts) if ts != TS_MAX], default=0)


class MissingLockAction(enum.Enum):
    """What to do about a transaction that left no trace."""

    ROLLBACK = "rollback"
    PROTECTED_ROLLBACK = "protected rollback"
    RETURN_ERROR = "return error"


def check_txn_status(txn: MvccTxn, reader: MvccReader, key: bytes, query: StatusQuery) -> TxnStatus:
    """Tell the status of the transaction `txn.start_ts` by its primary `key`, and decide it where it must be.

    Raises PrimaryMismatchError, TxnNotFoundError.
    """
    lock = reader.load_lock(key)
    if lock is not None and lock.is_shared:  # which is never the lock of a primary
        raise PrimaryMismatchError(lock.info(wire_key(key)))
    if lock is not None and lock.start_ts == txn.start_ts:
        return _lock_exists(txn, reader, key, lock, query)
    return check_txn_status_missing_lock(txn, reader, key, lock, _missing(query), query.resolving_pessimistic_lock)


def _missing(query: StatusQuery) -> MissingLockAction:
    return MissingLockAction.PROTECTED_ROLLBACK if query.rollback_if_not_exist else MissingLockAction.RETURN_ERROR


def _lock_exists(txn: MvccTxn, reader: MvccReader, key: bytes, lock: Lock, query: StatusQuery) -> TxnStatus:
    if query.verify_is_primary and not is_primary(key, lock.primary):
        if query.resolving_pessimistic_lock or not lock.is_pessimistic_lock:
            raise PrimaryMismatchError(lock.info(wire_key(key)))
        status = check_txn_status_missing_lock(txn, reader, key, None, _missing(query), resolving_pessimistic=False)
        txn.unlock(key, lock)
        return status
    if lock.use_async_commit and not query.force_sync_commit:
        return TxnStatus(StatusKind.UNCOMMITTED, lock=lock)
    if lock.is_pessimistic_lock and lock.is_locked_with_conflict:
        decided = _decided(reader.txn_commit_record(key, txn.start_ts))
        if decided is not None:
            txn.unlock(key, lock)
            return decided
    if is_expired(lock, query.current_ts):
        if lock.is_pessimistic_lock and query.resolving_pessimistic_lock:
            txn.unlock(key, lock)
            return TxnStatus(StatusKind.PESSIMISTIC_ROLLBACK)
        rollback_lock(txn, reader, key, lock, collapse=True)
        return TxnStatus(StatusKind.TTL_EXPIRE)
    return _alive(txn, key, lock, query)


def _alive(txn: MvccTxn, key: bytes, lock: Lock, query: StatusQuery) -> TxnStatus:
    """Push min_commit_ts above the caller. A lock without one belongs to a client that cannot bear it."""
    caller = query.caller_start_ts
    if lock.min_commit_ts and caller != TS_MAX and caller >= lock.min_commit_ts:
        lock = dataclasses.replace(lock, min_commit_ts=max(caller + 1, query.current_ts))
        txn.put_lock(key, lock, is_new=False)
    # A reader of the latest version ignores the lock of a primary that is not committed: nothing to push for it.
    pushed = caller == TS_MAX or 0 < caller < lock.min_commit_ts
    return TxnStatus(StatusKind.UNCOMMITTED, lock=lock, min_commit_ts_pushed=pushed)


def _decided(record: CommitRecord) -> TxnStatus | None:
    if record.kind is CommitKind.COMMITTED:
        return TxnStatus(StatusKind.COMMITTED, commit_ts=record.commit_ts)
    return _ROLLED_BACK if record.is_rollback else None


def check_txn_status_missing_lock(
    txn: MvccTxn,
    reader: MvccReader,
    key: bytes,
    mismatch_lock: Lock | None,
    action: MissingLockAction,
    resolving_pessimistic: bool,
) -> TxnStatus:
    """Tell the status of a transaction that has no lock on `key`, and forbid it where it left no trace.

    `mismatch_lock`: another transaction's lock on the key. Raises TxnNotFoundError with RETURN_ERROR.
    """
    record = reader.txn_commit_record(key, txn.start_ts)
    decided = _decided(record)
    if decided is not None:
        return decided
    if action is MissingLockAction.RETURN_ERROR:
        raise TxnNotFoundError(txn.start_ts, wire_key(key))
    if resolving_pessimistic:
        return TxnStatus(StatusKind.LOCK_NOT_EXIST_DO_NOTHING)
    protected = action is MissingLockAction.PROTECTED_ROLLBACK
    if not protected:
        collapse_prev_rollback(txn, reader, key)
    if mismatch_lock is not None and record.overlapped is None:
        txn.mark_rollback_on_mismatching_lock(key, mismatch_lock, is_protected=protected)
    write = make_rollback(txn.start_ts, record.overlapped, protected=protected)
    if write is not None:
        txn.put_write(key, txn.start_ts, write)
    return TxnStatus(StatusKind.LOCK_NOT_EXIST)
