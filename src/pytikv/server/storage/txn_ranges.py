"""Transactional commands over ranges: region-wide ResolveLock and PessimisticRollback, deleting, safe timestamps.

The first two go over the locks of a region in steps: find some hundred locks, latch their keys, end them, go on behind.
A lock that changes hands between finding and latching is looked at anew under the latch. Each step is one write of its
own; a step that fails ends the command, and what earlier steps did stays done, as in TiKV.

Deleting a range takes no latches: whoever deletes one knows that nobody works in it.

Sources: TiKV src/storage/txn/commands/{resolve_lock,pessimistic_rollback}*.rs, src/server/gc_worker,
components/resolved_ts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

from pytikv.codec import memcomparable
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.engine.interface import CF_DEFAULT, CF_LOCK, CF_WRITE, WriteBatch
from pytikv.server.mvcc.errors import MvccError
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import Lock
from pytikv.server.storage.actions.pessimistic_rollback import pessimistic_rollback_all, scan_pessimistic_locks
from pytikv.server.storage.actions.resolve_lock import resolve_locks, scan_locks_to_resolve
from pytikv.server.storage.errors import InvalidKeyRanges
from pytikv.server.storage.txn_runner import TxnRunner
from pytikv.server.storage.txn_waits import Done
from pytikv.server.storage.txn_writes import Work
from pytikv.types import KeyRange

__all__ = ["TxnRanges"]

_STEP_LOCKS: Final = 256


class TxnRanges:
    """The commands of one store."""

    def __init__(self, runner: TxnRunner, current_ts: Callable[[], int]) -> None:
        self._runner = runner
        self._current_ts = current_ts

    def resolve_lock(self, request: kvrpcpb.ResolveLockRequest, within: KeyRange) -> Done:
        """Answer KvResolveLock without keys: end the locks of one transaction, or of all in `txn_infos`."""
        if request.start_version:
            statuses = {request.start_version: request.commit_version}
        else:
            statuses = {info.txn: info.status for info in request.txn_infos}
        response = kvrpcpb.ResolveLockResponse()
        start: bytes | None = within.start_key
        ticket = 0
        while start is not None:
            reader = MvccReader(self._runner.engine)
            found, start = scan_locks_to_resolve(reader, statuses, start, within.end_key, _STEP_LOCKS)
            if not found:
                continue
            try:
                step = functools.partial(_resolve, statuses=statuses, found=found)
                stopped, step_ticket = self._runner.run([key for key, _ in found], 0, step)
            except MvccError as error:
                response.error.CopyFrom(error.key_error())
                return Done(response, ticket)
            ticket = max(ticket, step_ticket)
            start = start if stopped is None else stopped
        return Done(response, ticket)

    def pessimistic_rollback(self, request: kvrpcpb.PessimisticRollbackRequest, within: KeyRange) -> Done:
        """Answer KVPessimisticRollback without keys: drop the transaction's pessimistic locks of the region."""
        start_ts, for_update_ts = request.start_version, request.for_update_ts
        start: bytes | None = within.start_key
        ticket = 0
        while start is not None:
            reader = MvccReader(self._runner.engine)
            keys, start = scan_pessimistic_locks(reader, start_ts, for_update_ts, start, within.end_key, _STEP_LOCKS)
            if keys:
                step = functools.partial(_drop, keys=keys, for_update_ts=for_update_ts)
                _, step_ticket = self._runner.run(keys, start_ts, step)
                ticket = max(ticket, step_ticket)
        return Done(kvrpcpb.PessimisticRollbackResponse(), ticket)

    def delete_range(self, request: kvrpcpb.DeleteRangeRequest) -> Done:
        """Answer KvDeleteRange: remove locks, versions and values of `[start_key, end_key)`."""
        ticket = 0 if request.notify_only else self._delete(request.start_key, request.end_key)
        return Done(kvrpcpb.DeleteRangeResponse(), ticket)

    def unsafe_destroy_range(self, request: kvrpcpb.UnsafeDestroyRangeRequest) -> Done:
        """Answer UnsafeDestroyRange, whatever regions lie there. Raises InvalidKeyRanges without both bounds."""
        if not request.start_key or not request.end_key:
            raise InvalidKeyRanges
        return Done(kvrpcpb.UnsafeDestroyRangeResponse(), self._delete(request.start_key, request.end_key))

    def _delete(self, start_key: bytes, end_key: bytes) -> int:
        start, end = memcomparable.encode(start_key), memcomparable.encode_border(end_key)
        batch = WriteBatch()
        for cf in (CF_LOCK, CF_WRITE, CF_DEFAULT):
            batch.delete_range(cf, start, end)
        return self._runner.engine.write(batch)

    def safe_ts(self, within: KeyRange) -> int:
        """Return a timestamp up to which what is in the range will never change, for reads that look at no lock.

        Every transaction that is not committed yet gets a commit_ts above it: those that have locks began there or
        later; those that have none get theirs from PD later, or above max_ts, which is raised here.
        """
        now = self._current_ts()
        self._runner.concurrency.update_max_ts(now)
        locks = [lock for _, lock in self._runner.concurrency.locks_in(within.start_key, within.end_key)]
        reader = MvccReader(self._runner.engine)
        found, _ = reader.scan_locks(within.start_key, within.end_key, lambda _, lock: not lock.is_pessimistic_lock)
        locks += [lock for _, either in found for lock in (either.members or (either,))]
        return min((self._holds_back(lock) for lock in locks), default=now)

    def _holds_back(self, lock: Lock) -> int:
        """Return what must be below the commit_ts of the lock's transaction."""
        return max(lock.start_ts, self._runner.statuses.min_commit_ts(lock.start_ts) - 1)


def _resolve(work: Work, statuses: dict[int, int], found: list[tuple[bytes, Lock]]) -> bytes | None:
    stopped = resolve_locks(work.txn, work.reader, statuses, found)
    ended = {lock.start_ts: statuses[lock.start_ts] for _, lock in found}
    work.committed.extend((start_ts, commit_ts) for start_ts, commit_ts in ended.items() if commit_ts)
    return stopped


def _drop(work: Work, keys: list[bytes], for_update_ts: int) -> None:
    pessimistic_rollback_all(work.txn, work.reader, keys, for_update_ts)
