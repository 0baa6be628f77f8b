"""The bodies of the commands that change many keys: in which order keys are looked at, and which findings win.

Each takes a reader on the present state (the keys are latched) and a `MvccTxn`, and either raises the one MvccError
that is the whole answer, in which case nothing may be written, or returns a result beside the changes in the MvccTxn.

*Prewrite and flush.* Locks of other transactions are all reported, together; then nothing is written. Any other error
ends the request at once and hides the locks, but a failed assertion, which counts only when nothing else is wrong. A
conflict, a lost pessimistic lock or a foreign lock may also be the trace of this very transaction, committed long ago,
when the request is a repetition: then it succeeds, and changes nothing. When one key's commit_ts is too large, or its
first prewrite had fallen back, the request falls back to two phases: the keys before keep what they have, 1PC is off.

*Locking.* All keys or none: the first foreign lock ends the request, for the caller to wait for. Shared locks that
others may still join are marked, that is written, and the request fails with them.

Sources: TiKV src/storage/txn/commands/{prewrite,flush,acquire_pessimistic_lock,acquire_pessimistic_lock_resumed}.rs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from pytikv.codec import memcomparable
from pytikv.server.mvcc.errors import (
    AssertionFailedError,
    GenerationOutOfOrderError,
    InvalidCommandError,
    KeyIsLocked,
    PessimisticLockNotFoundError,
    WriteConflictError,
)
from pytikv.server.mvcc.keys import data_key, wire_key
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import Lock
from pytikv.server.mvcc.txn import MvccTxn
from pytikv.server.storage.actions.acquire_pessimistic_lock import (
    KeyToLock,
    LockedKey,
    NotInShrinkMode,
    PessimisticLockParameters,
    acquire_pessimistic_lock,
)
from pytikv.server.storage.actions.commit import fallback_1pc_locks, one_pc_commit
from pytikv.server.storage.actions.common import committed_at
from pytikv.server.storage.actions.model import CommitKind, Mutation, Publish, TransactionProperties
from pytikv.server.storage.actions.prewrite import prewrite

__all__ = ["Blocked", "LockAll", "PrewriteResult", "flush_all", "lock_all", "prewrite_all"]

_FORWARD_MIN_MUTATIONS: Final = 12
"""In a larger prewrite, one look at its whole range may save one at each key: a load into an empty range."""
_TXN_SIZE_UNKNOWN: Final = (1 << 64) - 1
_UNUSED: Final[tuple[bytes, ...]] = ()


@dataclasses.dataclass(slots=True)
class PrewriteResult:
    """The answer to a prewrite or a flush."""

    locks: list[KeyIsLocked] = dataclasses.field(default_factory=list)
    """Other transactions' locks. Not empty: nothing has been changed."""
    min_commit_ts: int = 0
    """Of async commit; 0: the transaction must commit in two phases."""
    one_pc_commit_ts: int = 0
    """Not 0: committed at this timestamp."""


def prewrite_all(
    txn: MvccTxn,
    reader: MvccReader,
    props: TransactionProperties,
    mutations: Sequence[Mutation],
    secondaries: tuple[bytes, ...] | None,
    publish: Publish,
) -> PrewriteResult:
    """Prewrite `mutations` (distinct keys). `secondaries`: the other keys of an async commit, None for none.

    `props.commit_kind` is ONE_PC where 1PC is tried, else ASYNC where there are `secondaries`. Where a mutation
    `should_not_exist`, the store's max_ts must be at least start_ts. Raises MvccError.
    """
    if len(mutations) > _FORWARD_MIN_MUTATIONS and not (props.is_pessimistic or props.skip_constraint_check):
        mutations = sorted(mutations, key=lambda mutation: mutation.key)
        if not reader.has_records(mutations[0].key, data_key(mutations[-1].key, 0)):
            props = dataclasses.replace(props, skip_constraint_check=True)
    run = _Prewrite(txn, reader, props, secondaries, publish)
    run.add_all(mutations)
    return run.result()


def flush_all(
    txn: MvccTxn, reader: MvccReader, props: TransactionProperties, mutations: Sequence[Mutation], generation: int
) -> PrewriteResult:
    """Prewrite a pipelined transaction. A key with a lock of this generation or a later one is passed over.

    Of `props` matter start_ts, primary, lock_ttl_ms, assertion_level, is_retry_request, txn_source. Raises MvccError.
    """
    if generation <= 0:
        raise InvalidCommandError("generation should be greater than 0 for Flush requests")
    flushed = dataclasses.replace(
        props,
        for_update_ts=0,
        commit_kind=CommitKind.TWO_PC,
        txn_size=_TXN_SIZE_UNKNOWN,  # so that resolvers do not take it for a small one
        min_commit_ts=props.start_ts + 1,  # not 0: readers may push it
        skip_constraint_check=False,
    )
    run = _Prewrite(txn, reader, flushed, None, lambda _, lock: lock.min_commit_ts, generation)
    run.add_all(mutations)
    return run.result()


class _Prewrite:
    """One request under way."""

    def __init__(
        self,
        txn: MvccTxn,
        reader: MvccReader,
        props: TransactionProperties,
        secondaries: tuple[bytes, ...] | None,
        publish: Publish,
        generation: int = 0,
    ) -> None:
        self._txn = txn
        self._reader = reader
        self._props = props
        self._primary_key = memcomparable.encode(props.primary) if secondaries else b""
        self._secondaries = secondaries
        self._publish = publish
        self._generation = generation
        self._locks: list[KeyIsLocked] = []
        self._min_commit_ts = 0
        self._committed_ts = 0

    def add_all(self, mutations: Sequence[Mutation]) -> None:
        """Prewrite one mutation after the other, until one shows that the transaction is committed already."""
        wrong_assertion: AssertionFailedError | None = None
        for mutation in mutations:
            try:
                self._add(mutation)
            except AssertionFailedError as error:
                wrong_assertion = wrong_assertion or error
            if self._committed_ts:
                return
        if wrong_assertion is not None:
            raise wrong_assertion

    def _add(self, mutation: Mutation) -> None:
        secondaries = self._secondaries
        if secondaries and mutation.key != self._primary_key:
            secondaries = _UNUSED
        try:
            min_commit_ts = prewrite(
                self._txn, self._reader, self._props, mutation, secondaries, self._publish, self._generation
            )
        except KeyIsLocked as error:
            if not self._is_committed(mutation.key):
                self._locks.append(error)
        except WriteConflictError as error:
            if error.conflict_commit_ts <= error.start_ts or not self._is_committed(mutation.key):
                raise
        except PessimisticLockNotFoundError:
            if not self._is_committed(mutation.key):
                raise
        except GenerationOutOfOrderError:
            return
        else:
            if self._props.computes_commit_ts:
                self._note_min_commit_ts(mutation.key, min_commit_ts)

    def _note_min_commit_ts(self, key: bytes, min_commit_ts: int | None) -> None:
        if min_commit_ts:
            self._min_commit_ts = max(self._min_commit_ts, min_commit_ts)
        elif min_commit_ts is not None or not self._is_committed(key):
            self._fall_back()

    def _fall_back(self) -> None:
        self._props = dataclasses.replace(self._props, commit_kind=CommitKind.TWO_PC)
        self._secondaries = None
        self._min_commit_ts = 0
        fallback_1pc_locks(self._txn)

    def _is_committed(self, key: bytes) -> bool:
        """Tell whether the transaction was committed before: the request is a repetition, and nothing is to be done.

        GC may have removed the record; then the answer is no, and the error stays.
        """
        self._committed_ts = committed_at(self._reader, key, self._props.start_ts)
        return self._committed_ts != 0

    def result(self) -> PrewriteResult:
        """Return the answer, and leave in the MvccTxn what is to be written."""
        one_pc = self._props.commit_kind is CommitKind.ONE_PC
        if self._committed_ts:
            self._locks, self._min_commit_ts = [], self._committed_ts
        if self._committed_ts or self._locks:
            self._txn.clear()
        answer = PrewriteResult(self._locks)
        if self._secondaries is not None:
            answer.min_commit_ts = self._min_commit_ts
        if one_pc and not self._locks:
            answer.one_pc_commit_ts = self._min_commit_ts
            one_pc_commit(self._txn, self._min_commit_ts)
        return answer


@dataclasses.dataclass(frozen=True, slots=True)
class Blocked:
    """A key whose lock the request must wait for."""

    wanted: KeyToLock
    error: KeyIsLocked
    """What is answered when there is no waiting, or it was in vain."""


@dataclasses.dataclass(slots=True)
class LockAll:
    """The answer to a lock request: exactly one of the three is set, or none for a request without keys."""

    keys: list[LockedKey] = dataclasses.field(default_factory=list)
    """One a key, in order: all are locked."""
    blocked: Blocked | None = None
    """Nothing has been changed: wait for this key and try again, or answer its error."""
    shrinking: KeyIsLocked | None = None
    """Shared locks have been marked, which is to be written; this error is the answer, without waiting."""


def lock_all(txn: MvccTxn, reader: MvccReader, keys: Sequence[KeyToLock], params: PessimisticLockParameters) -> LockAll:
    """Lock `keys` for the transaction `params.start_ts`, all or none. Raises MvccError.

    A request that was woken is tried again by `lock_all` with its one key, in force-lock mode.
    """
    if params.allow_lock_with_conflict and len(keys) > 1:
        raise InvalidCommandError(
            "multiple keys in a single request with allowed_lock_with_conflict set is not allowed"
        )
    locked = []
    for wanted in keys:
        try:
            locked.append(acquire_pessimistic_lock(txn, reader, wanted, params))
        except KeyIsLocked as error:
            txn.clear()
            return LockAll(blocked=Blocked(wanted, error))
        except NotInShrinkMode as found:
            return LockAll(shrinking=_shrink(txn, wanted.key, found.container))
    return LockAll(locked)


def _shrink(txn: MvccTxn, key: bytes, container: Lock) -> KeyIsLocked:
    txn.clear()
    marked = dataclasses.replace(container, shrink_only=True)
    txn.put_lock(key, marked, is_new=False)
    return KeyIsLocked(marked.info(wire_key(key)))
