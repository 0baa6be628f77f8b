"""Transactional commands that change keys named in the request: from request to action to answer.

A `WriteCommand` says which keys a request latches and what is done with them; `TxnStorage` does everything around it:
latches, the reader, the write, waking waiters. `run` gets a `Work` whose reader shows the present state of the latched
keys, and fills the answer. Whatever it raises, nothing is written: an MvccError becomes the answer's KeyError.

Requests that end a real TiKV's process are refused by an error: no keys at all, a key twice in a prewrite, operations
that do not belong there. So are keys over the limit, which counts their encoded form.

*max_ts* is raised wherever the command is also a read, or leaves a protected rollback that no later commit may
overwrite: before the reader is used for the first time.

Sources: TiKV src/storage/txn/commands, src/storage/mod.rs (sched_txn_command), src/server/service/kv.rs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

from google.protobuf.message import Message

from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.mvcc.errors import CommittedError, CommitTsExpiredError, InvalidCommandError
from pytikv.server.mvcc.keys import wire_key
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import Lock
from pytikv.server.mvcc.txn import MvccTxn
from pytikv.server.storage.actions.check_secondary_locks import check_secondary_locks
from pytikv.server.storage.actions.check_txn_status import StatusQuery, check_txn_status
from pytikv.server.storage.actions.cleanup import cleanup, rollback_all
from pytikv.server.storage.actions.commands import PrewriteResult, flush_all, prewrite_all
from pytikv.server.storage.actions.commit import commit_all
from pytikv.server.storage.actions.model import CommitKind, Mutation, TransactionProperties
from pytikv.server.storage.actions.pessimistic_rollback import pessimistic_rollback_all
from pytikv.server.storage.actions.resolve_lock import resolve_lock_lite
from pytikv.server.storage.actions.txn_heart_beat import txn_heart_beat
from pytikv.server.storage.concurrency import ConcurrencyManager
from pytikv.server.storage.txn_status import TxnStatusCache

__all__ = ["WRITES", "Work", "WriteCommand", "keys_of"]

_WITH_VALUE: Final = frozenset((kvrpcpb.Op.Put, kvrpcpb.Op.Insert))
_MUST_NOT_EXIST: Final = frozenset((kvrpcpb.Op.Insert, kvrpcpb.Op.CheckNotExists))


@dataclasses.dataclass(slots=True)
class Work:
    """What a command works with, for one request."""

    txn: MvccTxn
    reader: MvccReader
    concurrency: ConcurrencyManager
    statuses: TxnStatusCache
    committed: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    """start_ts and commit_ts of transactions that are committed once the changes are written."""
    published: list[bytes] = dataclasses.field(default_factory=list)
    """Keys with memory locks, to be taken back."""

    def publish(self, key: bytes, lock: Lock) -> int:
        """See `actions.model`."""
        self.published.append(key)
        return self.concurrency.publish(key, lock)


Run = Callable[[Work, list[bytes], Any, Any], None]


@dataclasses.dataclass(frozen=True, slots=True)
class WriteCommand:
    """One command. `run(work, encoded keys, request, response)`."""

    keys: Callable[[Any], Sequence[bytes]]
    """The wire keys that a request is about."""
    start_ts: Callable[[Any], int]
    run: Run
    response: type[Message]
    limits_keys: bool = False


def keys_of(request: Any) -> list[bytes]:
    """Return the keys of a request's mutations."""
    return [mutation.key for mutation in request.mutations]


# --- prewrite and flush -----------------------------------------------------------------------------------------------


def _mutations(keys: list[bytes], wire: Sequence[kvrpcpb.Mutation]) -> list[Mutation]:
    if len(set(keys)) != len(keys):
        raise InvalidCommandError("a key comes twice in one prewrite")
    return [
        Mutation(op := mutation.op, key, mutation.value if op in _WITH_VALUE else None, mutation.assertion)
        for key, mutation in zip(keys, wire, strict=True)
    ]


def _looks_for_absence(mutations: list[Mutation]) -> bool:
    """Tell whether a prewrite is also a read: some key must not exist."""
    return not _MUST_NOT_EXIST.isdisjoint([mutation.op for mutation in mutations])


def _prewrite(work: Work, keys: list[bytes], request: kvrpcpb.PrewriteRequest, response: Any) -> None:
    mutations = _mutations(keys, request.mutations)
    context = request.context
    is_retry = context.is_retry_request
    skips_checks = False
    if request.for_update_ts:
        mutations = _with_pessimistic_actions(mutations, request)
        is_retry = is_retry or work.statuses.committed_at(request.start_version) != 0
    else:
        skips_checks = request.skip_constraint_check
    props = TransactionProperties(
        request.start_version,
        request.primary_lock,
        request.for_update_ts,
        _commit_kind(request),
        request.max_commit_ts,
        request.lock_ttl,
        request.txn_size,
        request.min_commit_ts,
        skips_checks,
        is_retry,
        request.assertion_level,
        context.txn_source,
    )
    if _looks_for_absence(mutations):
        work.concurrency.update_max_ts(request.start_version)
    secondaries = tuple(request.secondaries) if request.use_async_commit else None
    result = prewrite_all(work.txn, work.reader, props, mutations, secondaries, work.publish)
    _answer_locks(response, result)
    response.min_commit_ts = result.min_commit_ts
    response.one_pc_commit_ts = result.one_pc_commit_ts
    if result.one_pc_commit_ts:
        work.committed.append((request.start_version, result.one_pc_commit_ts))


def _commit_kind(request: kvrpcpb.PrewriteRequest) -> CommitKind:
    if request.try_one_pc:
        return CommitKind.ONE_PC
    return CommitKind.ASYNC if request.use_async_commit else CommitKind.TWO_PC


def _with_pessimistic_actions(mutations: list[Mutation], request: kvrpcpb.PrewriteRequest) -> list[Mutation]:
    """Say of each mutation what its pessimistic lock is worth. Mutations without an action are dropped, as in TiKV."""
    for constraint in request.for_update_ts_constraints:
        if constraint.index >= len(mutations):
            count = len(mutations)
            raise InvalidCommandError(f"for_update_ts constraint for index {constraint.index} of {count} mutations")
        mutations[constraint.index].expected_for_update_ts = constraint.expected_for_update_ts
    for mutation, action in zip(mutations, request.pessimistic_actions, strict=False):
        mutation.pessimistic_action = action
    return mutations[: len(request.pessimistic_actions)]


def _answer_locks(response: Any, result: PrewriteResult) -> None:
    if result.locks:
        response.errors.extend([lock.key_error() for lock in result.locks])


def _flush(work: Work, keys: list[bytes], request: kvrpcpb.FlushRequest, response: Any) -> None:
    mutations = _mutations(keys, request.mutations)
    if _looks_for_absence(mutations):
        work.concurrency.update_max_ts(request.start_ts)
    props = TransactionProperties(
        request.start_ts,
        request.primary_key,
        lock_ttl_ms=request.lock_ttl,
        is_retry_request=request.context.is_retry_request,
        assertion_level=request.assertion_level,
        txn_source=request.context.txn_source,
    )
    _answer_locks(response, flush_all(work.txn, work.reader, props, mutations, request.generation))


# --- the end of a transaction -----------------------------------------------------------------------------------------


def _commit(work: Work, keys: list[bytes], request: kvrpcpb.CommitRequest, response: Any) -> None:
    start_ts, commit_ts = request.start_version, request.commit_version
    least_ts = work.statuses.min_commit_ts(start_ts)
    if commit_ts < least_ts:
        raise CommitTsExpiredError(start_ts, commit_ts, wire_key(keys[0]), least_ts)
    commit_all(work.txn, work.reader, keys, commit_ts)
    response.commit_version = commit_ts
    work.committed.append((start_ts, commit_ts))


def _batch_rollback(work: Work, keys: list[bytes], request: kvrpcpb.BatchRollbackRequest, response: Any) -> None:
    rollback_all(work.txn, work.reader, keys)


def _cleanup(work: Work, keys: list[bytes], request: kvrpcpb.CleanupRequest, response: Any) -> None:
    work.concurrency.update_max_ts(request.start_version)
    try:
        cleanup(work.txn, work.reader, keys[0], request.current_ts, protect_rollback=True)
    except CommittedError as error:
        response.commit_version = error.commit_ts


def _pessimistic_rollback(
    work: Work, keys: list[bytes], request: kvrpcpb.PessimisticRollbackRequest, response: Any
) -> None:
    pessimistic_rollback_all(work.txn, work.reader, keys, request.for_update_ts)


def _resolve_lock_lite(work: Work, keys: list[bytes], request: kvrpcpb.ResolveLockRequest, response: Any) -> None:
    if not request.start_version:
        raise InvalidCommandError("resolving given keys needs a start_version")
    resolve_lock_lite(work.txn, work.reader, keys, request.commit_version)
    if request.commit_version:
        work.committed.append((request.start_version, request.commit_version))


# --- the status of a transaction --------------------------------------------------------------------------------------


def _txn_heart_beat(work: Work, keys: list[bytes], request: kvrpcpb.TxnHeartBeatRequest, response: Any) -> None:
    lock = txn_heart_beat(work.txn, work.reader, keys[0], request.advise_lock_ttl, request.min_commit_ts)
    response.lock_ttl = lock.ttl_ms


def _check_txn_status(work: Work, keys: list[bytes], request: kvrpcpb.CheckTxnStatusRequest, response: Any) -> None:
    query = StatusQuery(
        request.caller_start_ts,
        request.current_ts,
        request.rollback_if_not_exist,
        request.force_sync_commit,
        request.resolving_pessimistic_lock,
        request.verify_is_primary,
    )
    work.concurrency.update_max_ts(query.max_ts(request.lock_ts))
    status = check_txn_status(work.txn, work.reader, keys[0], query)
    response.action = status.action
    response.commit_version = status.commit_ts
    if status.lock is not None:
        response.lock_ttl = status.lock.ttl_ms
        response.lock_info.CopyFrom(status.lock.info(status.lock.primary))
    if status.commit_ts:
        work.committed.append((request.lock_ts, status.commit_ts))


def _check_secondary_locks(
    work: Work, keys: list[bytes], request: kvrpcpb.CheckSecondaryLocksRequest, response: Any
) -> None:
    work.concurrency.update_max_ts(request.start_version)
    status = check_secondary_locks(work.txn, work.reader, keys)
    response.locks.extend([lock.info(wire_key(key)) for key, lock in status.locks])
    response.commit_ts = status.commit_ts
    if status.commit_ts:
        work.committed.append((request.start_version, status.commit_ts))


def _start_version(request: Any) -> int:
    start_ts: int = request.start_version
    return start_ts


def _keys(request: Any) -> Sequence[bytes]:
    keys: Sequence[bytes] = request.keys
    return keys


WRITES: Final[dict[str, WriteCommand]] = {
    "KvPrewrite": WriteCommand(keys_of, _start_version, _prewrite, kvrpcpb.PrewriteResponse, limits_keys=True),
    "KvFlush": WriteCommand(keys_of, lambda r: r.start_ts, _flush, kvrpcpb.FlushResponse, limits_keys=True),
    "KvCommit": WriteCommand(_keys, _start_version, _commit, kvrpcpb.CommitResponse),
    "KvBatchRollback": WriteCommand(_keys, _start_version, _batch_rollback, kvrpcpb.BatchRollbackResponse),
    "KvCleanup": WriteCommand(lambda r: (r.key,), _start_version, _cleanup, kvrpcpb.CleanupResponse),
    "KVPessimisticRollback": WriteCommand(
        _keys, _start_version, _pessimistic_rollback, kvrpcpb.PessimisticRollbackResponse
    ),
    "KvResolveLock": WriteCommand(_keys, _start_version, _resolve_lock_lite, kvrpcpb.ResolveLockResponse),
    "KvTxnHeartBeat": WriteCommand(
        lambda r: (r.primary_lock,), _start_version, _txn_heart_beat, kvrpcpb.TxnHeartBeatResponse
    ),
    "KvCheckTxnStatus": WriteCommand(
        lambda r: (r.primary_key,), lambda r: r.lock_ts, _check_txn_status, kvrpcpb.CheckTxnStatusResponse
    ),
    "KvCheckSecondaryLocks": WriteCommand(
        _keys, _start_version, _check_secondary_locks, kvrpcpb.CheckSecondaryLocksResponse
    ),
}
"""The commands by the names of their RPCs. The two that may come without keys are given some here."""
