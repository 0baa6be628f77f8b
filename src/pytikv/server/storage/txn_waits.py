"""Pessimistic lock requests: locked at once, refused, or made to wait for another transaction's lock.

A request that waits is a `Waiting`: it answers itself when it is woken, resumed, chosen as the victim of a deadlock, or
expired by whoever watches its time. There is no clock here: the store lets a wait last `deadline_s` from its beginning,
and its owner calls `expire` then.

What an answer looks like depends on the mode. *Normal*: `errors`, or values as asked for. *Force-lock*: one entry in
`results`; where locking came to nothing after waiting, or for want of waiting, a failed entry beside the error.

Sources: TiKV src/storage/txn/commands/acquire_pessimistic_lock{,_resumed}.rs, src/storage/types.rs,
src/storage/lock_manager/lock_wait_context.rs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

from google.protobuf.message import Message

from pytikv.codec import memcomparable
from pytikv.errors import TikvError
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.rt.locks import mutex
from pytikv.server.mvcc.errors import (
    DeadlockError,
    InvalidCommandError,
    KeyIsLocked,
    MvccError,
    WriteConflictError,
)
from pytikv.server.mvcc.keys import wire_key
from pytikv.server.storage.actions.acquire_pessimistic_lock import (
    KeyToLock,
    LockedKey,
    PessimisticLockParameters,
    reads_data,
)
from pytikv.server.storage.actions.commands import Blocked, lock_all
from pytikv.server.storage.lock_waiting import (
    Deadlocked,
    Effect,
    Expired,
    Resumed,
    Waiter,
    Woken,
    wait_limit_s,
)
from pytikv.server.storage.spent import Spent
from pytikv.server.storage.txn_runner import TxnRunner
from pytikv.server.storage.txn_writes import Work

__all__ = ["Done", "Waiting", "acquire_pessimistic_lock"]

_PESSIMISTIC_RETRY: Final = kvrpcpb.WriteConflict.Reason.PessimisticRetry
_FAILED: Final = kvrpcpb.PessimisticLockKeyResultType.LockResultFailed


@dataclasses.dataclass(slots=True)
class Done:
    """An answer, and the ticket of the change it speaks of (0: nothing was written). Treat it as a value."""

    response: Message
    ticket: int = 0


class Waiting:
    """A lock request that waits. Safe for threads; answered exactly once, or cancelled.

    `deadline_s`: how many seconds the store lets it wait, from its beginning.
    """

    def __init__(self, runner: TxnRunner, request: _LockRequest, waiter: Waiter, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._runner = runner
        self._request = request
        self._waiter = waiter
        self._mutex = mutex()
        self._done: Done | None = None
        self._tell: Callable[[Done], object] | None = None

    def on_done(self, tell: Callable[[Done], object]) -> None:
        """Call `tell` with the answer, from whichever thread brings it; at once when it is there. One `tell` only."""
        with self._mutex:
            self._tell = tell
            done = self._done
        if done is not None:
            tell(done)

    def expire(self) -> None:
        """Answer now that the time is over. Without effect when it is answered; late when it is being resumed."""
        effect = self._runner.queues.expire(self._waiter, self._runner.now_s())
        if effect is not None:
            self.carry_out(effect)

    def cancel(self) -> None:
        """Stop waiting and answer nobody; a lock that was just taken stays until its time to live is over."""
        with self._mutex:
            self._tell = None
        self._runner.queues.expire(self._waiter, self._runner.now_s())

    def carry_out(self, effect: Effect) -> list[Effect]:
        """See `txn_runner.Sleeper`."""
        request = self._request
        if isinstance(effect, Resumed):
            return self._resume()
        if isinstance(effect, Woken):
            self._answer(Done(request.failure(request.conflict(effect, self._waiter.wire_key))))
        elif isinstance(effect, Deadlocked | Expired):
            self._answer(Done(request.refusal(effect)))
        return []

    def _resume(self) -> list[Effect]:
        """Try again, in force-lock mode; wait again when there is a lock again."""
        waiter, request = self._waiter, self._request
        try:
            outcome, ticket, effects = self._runner.run_quietly([waiter.key], waiter.start_ts, self._try_again)
        except (MvccError, TikvError) as error:
            self._runner.queues.finish(waiter)
            self._answer(Done(request.failure(error)))
            return self._runner.queues.wake_next(waiter.key)
        if outcome is not None:
            self._answer(Done(outcome, ticket))
        return effects

    def _try_again(self, work: Work) -> Message | None:
        request = self._request
        found = lock_all(work.txn, work.reader, [request.wanted(self._waiter.key)], request.params)
        if found.blocked is not None:
            queues = self._runner.queues
            refused = queues.push(self._waiter, found.blocked.error.lock_info, self._runner.now_s())
            return None if refused is None else request.refusal(refused)
        self._runner.queues.finish(self._waiter)
        if found.shrinking is not None:
            return request.failure(found.shrinking)
        return request.success(found.keys)

    def _answer(self, done: Done) -> None:
        with self._mutex:
            self._done = done
            tell = self._tell
        if tell is not None:
            tell(done)


class _LockRequest:
    """A request, taken apart, and its answers."""

    def __init__(self, request: kvrpcpb.PessimisticLockRequest) -> None:
        self._request = request
        self.is_forced = request.wake_up_mode == kvrpcpb.PessimisticLockWakeUpMode.WakeUpModeForceLock
        self.params = PessimisticLockParameters(
            request.start_version,
            request.primary_lock,
            request.for_update_ts,
            request.lock_ttl,
            request.min_commit_ts,
            request.return_values,
            request.check_existence,
            request.lock_only_if_exists,
            self.is_forced,
        )
        self.keys = [_key_to_lock(mutation) for mutation in request.mutations]

    @property
    def limit_s(self) -> float | None:
        """How long it may wait; None: not at all."""
        return wait_limit_s(self._request.wait_timeout)

    def wanted(self, key: bytes) -> KeyToLock:
        """Return what is wanted of one key."""
        return next(wanted for wanted in self.keys if wanted.key == key)

    def waiter(self, blocked: Blocked) -> Waiter:
        """Return a waiter for the key that is locked."""
        request, key = self._request, blocked.wanted.key
        return Waiter(
            key,
            wire_key(key),
            request.start_version,
            is_resumable=self.is_forced,
            is_first_lock=request.is_first_lock,
            wants_shared=blocked.wanted.is_shared,
            resource_group_tag=request.context.resource_group_tag,
        )

    def success(self, keys: list[LockedKey]) -> kvrpcpb.PessimisticLockResponse:
        """Return the answer when all keys are locked."""
        response = kvrpcpb.PessimisticLockResponse()
        if self.is_forced:
            response.results.extend([key.key_result(self.params) for key in keys])
            return response
        if self.params.return_values:
            response.values.extend([key.value or b"" for key in keys])
        if self.params.return_values or self.params.check_existence:
            response.not_founds.extend([key.value is None for key in keys])
        return response

    def error(self, error: MvccError) -> kvrpcpb.PessimisticLockResponse:
        """Return the answer of a request that was refused as a whole."""
        return kvrpcpb.PessimisticLockResponse(errors=[error.key_error()])

    def failure(self, error: MvccError | TikvError) -> kvrpcpb.PessimisticLockResponse:
        """Return the answer of a request that has waited, or did not want to."""
        key_error = error.key_error() if isinstance(error, MvccError) else kvrpcpb.KeyError(abort=str(error))
        response = kvrpcpb.PessimisticLockResponse(errors=[key_error])
        if self.is_forced:
            response.results.add(type=_FAILED)
        return response

    def refusal(self, effect: Deadlocked | Expired) -> kvrpcpb.PessimisticLockResponse:
        """Return the answer of a wait that must not begin, or has ended."""
        if isinstance(effect, Expired):
            return self.failure(KeyIsLocked(effect.lock))
        found = effect.deadlock
        start_ts = effect.waiter.start_ts
        return self.failure(
            DeadlockError(start_ts, found.lock_ts, found.lock_key, found.deadlock_key_hash, found.wait_chain)
        )

    def conflict(self, woken: Woken, key: bytes) -> WriteConflictError:
        """Return the conflict that a waiter in normal mode is woken with."""
        params = self.params
        return WriteConflictError(
            params.start_ts, woken.conflict_start_ts, woken.conflict_commit_ts, key, params.primary, _PESSIMISTIC_RETRY
        )


def _key_to_lock(mutation: kvrpcpb.Mutation) -> KeyToLock:
    if mutation.op not in (kvrpcpb.Op.PessimisticLock, kvrpcpb.Op.SharedPessimisticLock):
        raise InvalidCommandError(f"{kvrpcpb.Op.Name(mutation.op)} is no pessimistic lock")
    return KeyToLock(
        memcomparable.encode(mutation.key),
        should_not_exist=mutation.assertion == kvrpcpb.Assertion.NotExist,
        is_shared=mutation.op == kvrpcpb.Op.SharedPessimisticLock,
    )


def acquire_pessimistic_lock(
    runner: TxnRunner, request: kvrpcpb.PessimisticLockRequest, spent: Spent | None = None
) -> Done | Waiting:
    """Carry out KvPessimisticLock. Raises StorageError, RaftEntryTooLarge, InvalidMaxTsUpdate."""
    try:
        work = _LockRequest(request)
        if not work.keys:
            raise InvalidCommandError("a lock request without keys")
        if any(reads_data(work.params, key) for key in work.keys):
            runner.concurrency.update_max_ts(work.params.for_update_ts)
        outcome, ticket = runner.run(
            [key.key for key in work.keys], work.params.start_ts, lambda inner: _lock(runner, work, inner), spent
        )
    except MvccError as error:
        return Done(kvrpcpb.PessimisticLockResponse(errors=[error.key_error()]))
    return outcome if isinstance(outcome, Waiting) else Done(outcome, ticket)


def _lock(runner: TxnRunner, request: _LockRequest, work: Work) -> Message | Waiting:
    found = lock_all(work.txn, work.reader, request.keys, request.params)
    if found.shrinking is not None:
        return request.error(found.shrinking)
    if found.blocked is None:
        return request.success(found.keys)
    limit_s = request.limit_s
    if limit_s is None:
        return request.failure(found.blocked.error)
    waiter = request.waiter(found.blocked)
    waiting = waiter.owner = Waiting(runner, request, waiter, limit_s)
    refused = runner.queues.push(waiter, found.blocked.error.lock_info, runner.now_s())
    return waiting if refused is None else request.refusal(refused)
