"""What a prewrite looks at before it locks a key: the lock that is there, newer records, assertions.

*The lock.* None: go on. Another transaction's: the key is locked, or, where the client believes to hold a pessimistic
lock, that one is lost. The own one: a pessimistic lock is overwritten and hands on its larger TTL and min_commit_ts; a
prewritten one makes the prewrite a repetition, unless a later flush writes over it.

*Newer records.* An optimistic transaction must not find a record above its start_ts, of whatever type: a version it has
not read, or the trace of somebody who saw the key free. A pessimistic one has looked when it took its locks; keys it
never locked are looked at when the client wants it (DO_CONSTRAINT_CHECK), and when the request is a repetition, against
for_update_ts, where rollback records of others do not count. A rollback of the transaction itself is always fatal.

*A lost pessimistic lock* is amended when no record at or above start_ts shows that the data changed meanwhile: the lock
was only ever in the leader's memory, or in a write that never came through.

*Assertions* are what the client is sure of about the previous version. They are checked where that version has been
read anyway, and at level Strict always. Before an assertion is called wrong, newer records are looked at: a conflict
explains it better.

Source: TiKV src/storage/txn/actions/prewrite.rs.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Final, NamedTuple

from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.mvcc.errors import (
    AlreadyExistError,
    AssertionFailedError,
    GenerationOutOfOrderError,
    KeyIsLocked,
    LockLost,
    LockTypeNotMatchError,
    PessimisticLockNotFoundError,
    WriteConflictError,
)
from pytikv.server.mvcc.keys import TS_MAX, wire_key
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import Lock, LockType, Write, WriteType
from pytikv.server.storage.actions.common import (
    NOT_EXIST,
    UNKNOWN,
    check_data_constraint,
    is_fenced,
    next_last_change,
)
from pytikv.server.storage.actions.model import (
    DO_CONSTRAINT_CHECK,
    DO_PESSIMISTIC_CHECK,
    NO_ASSERTION,
    Mutation,
    TransactionProperties,
)

__all__ = ["FREE", "Held", "LockStatus", "Prewriting"]

_REASON: Final = kvrpcpb.WriteConflict.Reason
_OPTIMISTIC: Final = _REASON.Optimistic
_SELF_ROLLED_BACK: Final = _REASON.SelfRolledBack
_LAZY_UNIQUENESS_CHECK: Final = _REASON.LazyUniquenessCheck
_OFF: Final = kvrpcpb.AssertionLevel.Off
_STRICT: Final = kvrpcpb.AssertionLevel.Strict
_EXIST: Final = kvrpcpb.Assertion.Exist
_DATA: Final = (WriteType.PUT, WriteType.DELETE)


class Held(enum.Enum):
    """What the transaction itself holds on the key."""

    NOTHING = "nothing"
    PESSIMISTIC = "a pessimistic lock"
    PREWRITTEN = "a prewritten lock"


class LockStatus(NamedTuple):
    """The own lock: `ts` is the for_update_ts of a pessimistic one, the min_commit_ts of an async commit's, else 0."""

    held: Held
    ts: int = 0


FREE: Final = LockStatus(Held.NOTHING)


@dataclasses.dataclass(slots=True)
class Prewriting:
    """One mutation under way: what it reads, and what it learns for the lock that it will write."""

    reader: MvccReader
    props: TransactionProperties
    mutation: Mutation
    lock_ttl_ms: int
    min_commit_ts: int
    last_change: tuple[int, int] = UNKNOWN

    @property
    def skips_constraint_check(self) -> bool:
        """Whether newer records are of no interest."""
        if not self.props.is_pessimistic:
            return self.props.skip_constraint_check
        action = self.mutation.pessimistic_action
        return action == DO_PESSIMISTIC_CHECK or (action != DO_CONSTRAINT_CHECK and not self.props.is_retry_request)

    def lost(self, reason: LockLost) -> PessimisticLockNotFoundError:
        """Return the error of a lost pessimistic lock."""
        return PessimisticLockNotFoundError(self.props.start_ts, wire_key(self.mutation.key), reason)

    # --- the lock -----------------------------------------------------------------------------------------------------

    def check_lock(self, lock: Lock, generation: int) -> LockStatus:
        """Judge the lock that is there. `generation`: of the flush that prewrites, 0 for an ordinary prewrite."""
        props, mutation = self.props, self.mutation
        if lock.start_ts != props.start_ts:
            if mutation.pessimistic_action == DO_PESSIMISTIC_CHECK:
                raise self.lost(LockLost.LOCK_TS_MISMATCH)
            raise self._locked(lock)
        self.last_change = (lock.last_change_ts, lock.versions_to_last_change)
        if lock.is_pessimistic_lock:
            return self._check_own_pessimistic_lock(lock)
        if 0 < generation <= lock.generation:
            raise GenerationOutOfOrderError(generation, lock.generation)
        if lock.generation and mutation.should_not_exist and lock.lock_type is LockType.PUT:
            raise AlreadyExistError(wire_key(mutation.key), lock.start_ts)
        return LockStatus(Held.PREWRITTEN, lock.min_commit_ts if lock.use_async_commit else 0)

    def _check_own_pessimistic_lock(self, lock: Lock) -> LockStatus:
        if not self.props.is_pessimistic:
            raise LockTypeNotMatchError(self.props.start_ts, wire_key(self.mutation.key), pessimistic=True)
        expected = self.mutation.expected_for_update_ts
        if expected is not None and lock.for_update_ts != expected:
            raise self.lost(LockLost.LOCK_FOR_UPDATE_TS_MISMATCH)
        self.lock_ttl_ms = max(self.lock_ttl_ms, lock.ttl_ms)
        self.min_commit_ts = max(self.min_commit_ts, lock.min_commit_ts)
        return LockStatus(Held.PESSIMISTIC, lock.for_update_ts)

    def _locked(self, lock: Lock) -> KeyIsLocked:
        info = lock.info(wire_key(self.mutation.key))
        if self.props.is_pessimistic:
            # The rows are locked already, so whoever holds this index key has lost: let the client resolve at once.
            info.lock_ttl = 0
        return KeyIsLocked(info)

    # --- newer records ------------------------------------------------------------------------------------------------

    def check_for_newer_version(self) -> tuple[int, Write] | None:
        """Look at the newest record that counts, and return it. Raises WriteConflictError and others."""
        reader, key, start_ts = self.reader, self.mutation.key, self.props.start_ts
        found = reader.seek_write(key, TS_MAX)
        if found is None:
            self.last_change = NOT_EXIST
            return None
        self._note_last_change(found)
        while found is not None:
            commit_ts, write = found
            rolled_back = write.write_type is WriteType.ROLLBACK or write.has_overlapped_rollback
            if commit_ts == start_ts and rolled_back:
                raise self._conflict(commit_ts, write, _SELF_ROLLED_BACK)
            if not self._conflicts(commit_ts, write):
                check_data_constraint(reader, key, found, start_ts, should_not_exist=self.mutation.should_not_exist)
                return found
            found = reader.older_write(key, commit_ts)
        return None

    def _note_last_change(self, newest: tuple[int, Write]) -> None:
        if self.mutation.lock_type is LockType.LOCK:  # a PUT or a DELETE is the last change itself
            self.last_change = next_last_change(self.reader, self.mutation.key, newest, self.props.start_ts)

    def _conflicts(self, commit_ts: int, write: Write) -> bool:
        """Raise what a newer record means; True: it means nothing, an older one must be looked at."""
        props = self.props
        if not props.is_pessimistic:
            if commit_ts > props.start_ts:
                raise self._conflict(commit_ts, write, _OPTIMISTIC)
            return False
        if self.mutation.pessimistic_action == DO_CONSTRAINT_CHECK and commit_ts > props.start_ts:
            raise self._conflict(commit_ts, write, _LAZY_UNIQUENESS_CHECK)
        if commit_ts <= props.for_update_ts:
            return False
        if write.write_type is WriteType.ROLLBACK:
            return True
        raise self.lost(LockLost.NON_LOCK_KEY_CONFLICT)

    def _conflict(self, commit_ts: int, write: Write, reason: kvrpcpb.WriteConflict.Reason) -> WriteConflictError:
        key = wire_key(self.mutation.key)
        return WriteConflictError(self.props.start_ts, write.start_ts, commit_ts, key, self.props.primary, reason)

    def amend_pessimistic_lock(self) -> None:
        """Go on without the pessimistic lock that should be there, when nothing has happened since."""
        found = self.reader.seek_write(self.mutation.key, TS_MAX)
        if found is None:
            self.last_change = NOT_EXIST
        else:
            if found[0] >= self.props.start_ts:
                raise self.lost(LockLost.LOCK_MISSING_AMEND_FAIL)
            self._note_last_change(found)
        self.check_assertion(found, loaded=True)

    # --- assertions ---------------------------------------------------------------------------------------------------

    def check_assertion(self, newest: tuple[int, Write] | None, *, loaded: bool) -> None:
        """Raise AssertionFailedError when the client is wrong. `newest`: the newest record, if it has been `loaded`."""
        mutation, level = self.mutation, self.props.assertion_level
        if mutation.assertion == NO_ASSERTION or level == _OFF or (level != _STRICT and not loaded):
            return
        if newest is not None and is_fenced(newest[1]):
            newest = None
        if not loaded or (newest is not None and newest[1].write_type not in _DATA):
            from_ts = TS_MAX if newest is None else newest[0]
            newest = self.reader.get_write(mutation.key, from_ts, self.props.start_ts)
        exists = newest is not None and newest[1].write_type is WriteType.PUT
        if exists == (mutation.assertion == _EXIST):
            return
        if self.skips_constraint_check:
            self.check_for_newer_version()
        at = (0, 0) if newest is None else (newest[1].start_ts, newest[0])
        raise AssertionFailedError(self.props.start_ts, wire_key(mutation.key), mutation.assertion, *at)
