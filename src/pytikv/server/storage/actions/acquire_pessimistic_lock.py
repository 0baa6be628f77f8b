"""AcquirePessimisticLock: lock a key before its mutation is known, so that the commit will not meet a conflict.

The lock says that no record above its for_update_ts exists; so a newer record is a conflict that makes the statement
run again at a newer timestamp. In *force-lock mode* (`allow_lock_with_conflict`) the key is locked nevertheless, at the
commit_ts of that record, which is answered together with the value, and noted in the lock (`is_locked_with_conflict`),
since such a request may come after the end of its transaction.

The own lock: asked for again, it is kept, with a larger for_update_ts it is written anew; a prewritten one is an error.
Another transaction's lock: KeyIsLocked, for the caller to wait. Own rollback record: PessimisticLockRolledBackError.

What the caller wants to know of the previous version is read at for_update_ts: the value, whether there is one, or that
there must be none (`should_not_exist`). The store's max_ts must be at least for_update_ts then, see `reads_data`.

*Shared locks* live in a container on the key, one member a transaction. Others may join until an exclusive request
comes: it marks the container (`shrink_only`) so that no member joins any more, and waits for the members to leave.

Sources: TiKV src/storage/txn/actions/acquire_pessimistic_lock.rs, src/storage/types.rs (PessimisticLockKeyResult).
"""

from __future__ import annotations

import dataclasses
from typing import Final

from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.mvcc.errors import (
    AlreadyExistError,
    KeyIsLocked,
    LockIfExistsFailedError,
    LockTypeNotMatchError,
    PessimisticLockRolledBackError,
    WriteConflictError,
)
from pytikv.server.mvcc.keys import TS_MAX, wire_key
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import Lock, LockType, Write, WriteType
from pytikv.server.mvcc.txn import MvccTxn
from pytikv.server.storage.actions.common import NOT_EXIST, check_data_constraint, next_last_change

__all__ = [
    "KeyToLock",
    "LockedKey",
    "NotInShrinkMode",
    "PessimisticLockParameters",
    "acquire_pessimistic_lock",
    "reads_data",
]

_PESSIMISTIC_RETRY: Final = kvrpcpb.WriteConflict.Reason.PessimisticRetry
_NORMAL: Final = kvrpcpb.PessimisticLockKeyResultType.LockResultNormal
_LOCKED_WITH_CONFLICT: Final = kvrpcpb.PessimisticLockKeyResultType.LockResultLockedWithConflict


@dataclasses.dataclass(frozen=True, slots=True)
class PessimisticLockParameters:
    """What all keys of one lock request have in common."""

    start_ts: int
    primary: bytes
    for_update_ts: int
    lock_ttl_ms: int = 0
    min_commit_ts: int = 0
    return_values: bool = False
    check_existence: bool = False
    lock_only_if_exists: bool = False
    allow_lock_with_conflict: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class KeyToLock:
    """One key of a lock request, encoded."""

    key: bytes
    should_not_exist: bool = False
    is_shared: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class LockedKey:
    """What the request learned of one key: of `value`, only whether there is one where just that was asked."""

    value: bytes | None = None
    locked_with_conflict_ts: int = 0
    """Not 0: the key was locked in spite of the record at this commit_ts; `value` is the one there."""

    def key_result(self, params: PessimisticLockParameters) -> kvrpcpb.PessimisticLockKeyResult:
        """Return the entry of `results` in an answer of force-lock mode."""
        conflict_ts = self.locked_with_conflict_ts
        result = kvrpcpb.PessimisticLockKeyResult(type=_LOCKED_WITH_CONFLICT if conflict_ts else _NORMAL)
        result.locked_with_conflict_ts = conflict_ts
        if conflict_ts or params.return_values or params.check_existence:
            result.existence = self.value is not None
        if conflict_ts or params.return_values:
            result.value = self.value or b""
        return result


class NotInShrinkMode(Exception):
    """An exclusive request met shared locks that others may still join; `lock_all` marks them."""

    def __init__(self, container: Lock) -> None:
        super().__init__("the key has shared locks that others may join")
        self.container = container


def reads_data(params: PessimisticLockParameters, key: KeyToLock) -> bool:
    """Tell whether locking `key` is also a read at for_update_ts: max_ts must be raised to it first."""
    return key.should_not_exist or params.return_values or params.check_existence


def acquire_pessimistic_lock(
    txn: MvccTxn, reader: MvccReader, wanted: KeyToLock, params: PessimisticLockParameters
) -> LockedKey:
    """Lock one key. Raises MvccError (KeyIsLocked: wait), NotInShrinkMode; then nothing has been added to `txn`."""
    if params.lock_only_if_exists and not params.return_values:
        raise LockIfExistsFailedError(params.start_ts, wire_key(wanted.key))
    lock = reader.load_lock(wanted.key)
    if lock is None:
        return _lock_free_key(txn, reader, wanted, params, None)
    if not wanted.is_shared:
        if lock.is_shared and not lock.shrink_only:
            raise NotInShrinkMode(lock)
        if lock.is_shared or lock.start_ts != params.start_ts:
            raise KeyIsLocked(lock.info(wire_key(wanted.key)))
        return _lock_own_key(txn, reader, wanted, params, lock)
    member = lock.member(params.start_ts)
    if member is not None:
        return _share_again(txn, wanted, params, lock, member)
    if not lock.is_shared or lock.shrink_only:
        raise KeyIsLocked(lock.info(wire_key(wanted.key)))
    return _lock_free_key(txn, reader, wanted, params, lock)


def _new_lock(params: PessimisticLockParameters, for_update_ts: int, last_change: tuple[int, int]) -> Lock:
    return Lock(
        LockType.PESSIMISTIC,
        params.primary,
        params.start_ts,
        params.lock_ttl_ms,
        for_update_ts=for_update_ts,
        min_commit_ts=params.min_commit_ts,
        last_change_ts=last_change[0],
        versions_to_last_change=last_change[1],
    )


# --- a key without an exclusive lock ----------------------------------------------------------------------------------


def _lock_free_key(
    txn: MvccTxn, reader: MvccReader, wanted: KeyToLock, params: PessimisticLockParameters, container: Lock | None
) -> LockedKey:
    newest = reader.seek_write(wanted.key, TS_MAX)
    conflict_ts, value, last_change = 0, None, NOT_EXIST
    if newest is not None:
        if newest[0] > params.for_update_ts:
            if not params.allow_lock_with_conflict:
                raise _conflict(params, wanted.key, newest)
            conflict_ts = newest[0]
        _check_not_rolled_back(reader, wanted.key, params, newest)
        _check_not_exists(reader, wanted, params, newest, in_conflict=conflict_ts > 0)
        last_change = next_last_change(reader, wanted.key, newest, params.start_ts)
        if params.return_values or params.check_existence or conflict_ts:
            value = _previous_value(reader, wanted.key, params, newest, load=params.return_values or conflict_ts > 0)
    lock = _new_lock(params, conflict_ts or params.for_update_ts, last_change)
    lock.is_locked_with_conflict = conflict_ts > 0
    if wanted.is_shared:
        shared = Lock(LockType.SHARED, b"", 0) if container is None else container
        txn.put_lock(wanted.key, shared.with_member(lock), is_new=container is None)
    elif not params.lock_only_if_exists or value is not None:
        txn.put_lock(wanted.key, lock, is_new=True)
    elif newest is not None and conflict_ts:
        raise _conflict(params, wanted.key, newest)
    return LockedKey(value, conflict_ts)


def _conflict(params: PessimisticLockParameters, key: bytes, newest: tuple[int, Write]) -> WriteConflictError:
    commit_ts, write = newest
    primary = params.primary
    return WriteConflictError(params.start_ts, write.start_ts, commit_ts, wire_key(key), primary, _PESSIMISTIC_RETRY)


def _check_not_rolled_back(
    reader: MvccReader, key: bytes, params: PessimisticLockParameters, newest: tuple[int, Write]
) -> None:
    """Refuse a transaction that has been rolled back on this key: a record at its start_ts says so."""
    at_start = newest if newest[0] <= params.start_ts else reader.seek_write(key, params.start_ts)
    if at_start is None or at_start[0] != params.start_ts:
        return
    if at_start[1].write_type is WriteType.ROLLBACK or at_start[1].has_overlapped_rollback:
        raise PessimisticLockRolledBackError(params.start_ts, wire_key(key))


def _check_not_exists(
    reader: MvccReader,
    wanted: KeyToLock,
    params: PessimisticLockParameters,
    newest: tuple[int, Write],
    *,
    in_conflict: bool,
) -> None:
    """Refuse a key that must not exist and does; by a record above for_update_ts as a conflict: look at it again."""
    try:
        check_data_constraint(reader, wanted.key, newest, params.start_ts, should_not_exist=wanted.should_not_exist)
    except AlreadyExistError:
        if in_conflict:
            raise _conflict(params, wanted.key, newest) from None
        raise


def _previous_value(
    reader: MvccReader, key: bytes, params: PessimisticLockParameters, newest: tuple[int, Write], *, load: bool
) -> bytes | None:
    commit_ts, write = newest
    found: tuple[int, Write] | None = newest
    if write.write_type in (WriteType.LOCK, WriteType.ROLLBACK):
        found = reader.get_write(key, commit_ts - 1, params.start_ts)
    elif write.write_type is WriteType.DELETE or write.is_fenced_at(params.start_ts):
        found = None
    if found is None:
        return None
    return reader.load_value(key, found[1]) if load else b""


# --- a key that the transaction has locked already --------------------------------------------------------------------


def _lock_own_key(
    txn: MvccTxn, reader: MvccReader, wanted: KeyToLock, params: PessimisticLockParameters, lock: Lock
) -> LockedKey:
    if not lock.is_pessimistic_lock:
        raise LockTypeNotMatchError(params.start_ts, wire_key(wanted.key), pessimistic=False)
    for_update_ts, conflict_ts = params.for_update_ts, 0
    if params.allow_lock_with_conflict and for_update_ts < lock.for_update_ts:
        for_update_ts = conflict_ts = lock.for_update_ts
    load = params.return_values or conflict_ts > 0
    value = None
    if load or params.check_existence or wanted.should_not_exist:
        found = reader.get_write(wanted.key, for_update_ts, params.start_ts)
        if found is not None:
            in_conflict = found[0] > params.for_update_ts
            _check_not_exists(reader, wanted, params, found, in_conflict=in_conflict)
            value = reader.load_value(wanted.key, found[1]) if load else b""
    if for_update_ts > lock.for_update_ts:
        again = _new_lock(params, for_update_ts, (lock.last_change_ts, lock.versions_to_last_change))
        again.is_locked_with_conflict = lock.is_locked_with_conflict
        txn.put_lock(wanted.key, again, is_new=False)
    return LockedKey(value, conflict_ts)


def _share_again(
    txn: MvccTxn, wanted: KeyToLock, params: PessimisticLockParameters, container: Lock, member: Lock
) -> LockedKey:
    """Keep the transaction's member. Its value is not read again: the answer is that of a missing key, as TiKV's."""
    if params.for_update_ts > member.for_update_ts:
        again = _new_lock(params, params.for_update_ts, (member.last_change_ts, member.versions_to_last_change))
        again.is_locked_with_conflict = member.is_locked_with_conflict
        txn.put_lock(wanted.key, container.with_member(again), is_new=False)
    return LockedKey()
