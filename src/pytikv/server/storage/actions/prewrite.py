"""Prewrite: lock one key for a transaction, with the value that its commit will make visible.

The checks are in `prewrite_checks`; here is their order, and the lock. A value of up to 255 bytes goes into the lock, a
longer one into ``default``. A transaction of async commit or 1PC learns the least commit_ts of the key by `publish`
(see `model`); when that is above its max_commit_ts, the lock is written as one of two phases and the caller makes the
rest of the request fall back too. 1PC locks are kept aside in the MvccTxn, to become records once all keys are through.

The answer of a key is its min_commit_ts: 0 when none is computed, and 0 also for a repeated prewrite whose first run
has fallen back, so that the repetition falls back as well.

Shared locks: a prewrite with op SharedLock turns the transaction's member of the container from PESSIMISTIC to LOCK,
and only that: there must be such a member, no async commit, no 1PC, no flush.

Source: TiKV src/storage/txn/actions/prewrite.rs.
"""

from __future__ import annotations

from pytikv.server.mvcc.errors import KeyIsLocked, LockLost, MvccError
from pytikv.server.mvcc.keys import wire_key
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import SHORT_VALUE_MAX, Lock, LockType
from pytikv.server.mvcc.txn import MvccTxn, OnePcLock
from pytikv.server.storage.actions.model import (
    DO_PESSIMISTIC_CHECK,
    CommitKind,
    Mutation,
    Publish,
    TransactionProperties,
)
from pytikv.server.storage.actions.prewrite_checks import FREE, Held, LockStatus, Prewriting

__all__ = ["prewrite"]


def prewrite(
    txn: MvccTxn,
    reader: MvccReader,
    props: TransactionProperties,
    mutation: Mutation,
    secondaries: tuple[bytes, ...] | None,
    publish: Publish,
    generation: int = 0,
) -> int | None:
    """Prewrite one mutation; return the key's min_commit_ts, or None when it does not fit under max_commit_ts.

    `secondaries`: None without async commit, else the transaction's other keys for the primary, and () for the others.
    Raises MvccError; then nothing has been added to `txn`.
    """
    if props.is_pessimistic and mutation.lock_type is None:
        raise MvccError("cannot handle checkNotExists in pessimistic prewrite")
    work = Prewriting(reader, props, mutation, props.lock_ttl_ms, props.min_commit_ts)
    lock = reader.load_lock(mutation.key)
    amended = lock is None and mutation.pessimistic_action == DO_PESSIMISTIC_CHECK
    if amended:
        if mutation.is_shared:
            raise work.lost(LockLost.LOCK_MISSING_AMEND_FAIL)
        work.amend_pessimistic_lock()
    status = FREE if lock is None else _check_lock(work, lock, generation)
    if status.held is Held.PREWRITTEN and not generation:
        return status.ts
    _check_data(work, amended=amended, flushed_before=generation > 0 and status.held is Held.PREWRITTEN)
    if mutation.lock_type is None:
        return max(props.min_commit_ts, props.start_ts + 1) if props.computes_commit_ts else 0
    container = lock if lock is not None and lock.is_shared else None
    if container is not None and (generation or props.computes_commit_ts):
        raise MvccError("a shared lock is prewritten in two phases, not by async commit, 1PC or a flush")
    is_new = amended or mutation.pessimistic_action != DO_PESSIMISTIC_CHECK
    new_lock, too_large = _new_lock(work, mutation.lock_type, status, secondaries, publish, generation)
    if container is not None:
        txn.put_lock(mutation.key, container.with_member(new_lock), is_new=False)
    elif new_lock.use_one_pc:
        txn.locks_for_1pc.append(OnePcLock(mutation.key, new_lock, status.held is Held.PESSIMISTIC))
    else:
        txn.put_lock(mutation.key, new_lock, is_new=is_new)
    if mutation.value is not None and new_lock.short_value is None:
        txn.put_value(mutation.key, props.start_ts, mutation.value)
    if too_large:
        return None
    return new_lock.min_commit_ts if new_lock.use_async_commit or new_lock.use_one_pc else 0


def _check_lock(work: Prewriting, lock: Lock, generation: int) -> LockStatus:
    """Judge the lock or the container of shared locks on the key."""
    mutation = work.mutation
    if not lock.is_shared:
        if mutation.is_shared:
            raise KeyIsLocked(lock.info(wire_key(mutation.key)))
        return work.check_lock(lock, generation)
    member = lock.member(work.props.start_ts)
    if mutation.is_shared:
        if member is None:
            raise work.lost(LockLost.LOCK_MISSING_AMEND_FAIL)
        return work.check_lock(member, generation)
    if member is None:
        raise KeyIsLocked(lock.info(wire_key(mutation.key)))
    raise MvccError("use Op::SharedLock to prewrite on a shared lock")


def _check_data(work: Prewriting, *, amended: bool, flushed_before: bool) -> None:
    """Look at the records of the key. It is asserted once in a transaction: at its first flush, or by the amending."""
    loaded = not work.skips_constraint_check
    newest = work.check_for_newer_version() if loaded else None
    if not amended and not flushed_before:
        work.check_assertion(newest, loaded=loaded)


def _new_lock(
    work: Prewriting,
    lock_type: LockType,
    status: LockStatus,
    secondaries: tuple[bytes, ...] | None,
    publish: Publish,
    generation: int,
) -> tuple[Lock, bool]:
    """Return the lock to write, and whether its commit_ts would be too large, so that it is one of two phases."""
    props, value = work.props, work.mutation.value
    held_for_update_ts = status.ts if status.held is Held.PESSIMISTIC else 0
    lock = Lock(
        lock_type,
        props.primary,
        props.start_ts,
        work.lock_ttl_ms,
        short_value=value if value is not None and len(value) <= SHORT_VALUE_MAX else None,
        for_update_ts=max(props.for_update_ts, held_for_update_ts),
        txn_size=props.txn_size,
        min_commit_ts=work.min_commit_ts,
        txn_source=props.txn_source,
        generation=generation,
    )
    if lock_type is LockType.LOCK:
        lock.last_change_ts, lock.versions_to_last_change = work.last_change
    if secondaries is not None:
        lock.use_async_commit, lock.secondaries = True, secondaries
    elif props.commit_kind is CommitKind.ONE_PC:
        lock.use_one_pc = True
    else:
        return lock, False
    return lock, not _compute_min_commit_ts(props, work.mutation.key, lock, publish)


def _compute_min_commit_ts(props: TransactionProperties, key: bytes, lock: Lock, publish: Publish) -> bool:
    """Publish the lock and set its min_commit_ts; False: too large, the lock is one of two phases from now on."""
    requested = lock.min_commit_ts
    lock.use_one_pc = props.commit_kind is CommitKind.ONE_PC
    lock.min_commit_ts = max(requested, props.start_ts + 1, props.for_update_ts + 1)
    lock.min_commit_ts = publish(key, lock)
    if not props.max_commit_ts or lock.min_commit_ts <= props.max_commit_ts:
        return True
    lock.min_commit_ts = requested
    lock.use_async_commit, lock.use_one_pc, lock.secondaries = False, False, ()
    return False
