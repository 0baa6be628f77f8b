"""The first phase: the lock of every mutation is written, in all regions at once; the answers say how it goes on.

Each batch is sent until it is answered. Its region gone: its keys are grouped anew. A lock in the way: it is resolved,
or waited for (an optimistic transaction that meets a younger one's lock gives up at once: it could only conflict). The
first failure cancels the batches under way.

*Falling back.* A store that cannot keep within `max_commit_ts` answers 0 for the timestamp: then the whole transaction
goes on as two-phase commit, and requests still to be sent no longer ask for more. Once fallen back, always.

*What a failure means.* With 1PC and async commit the transaction is committed when the last mutation has been
prewritten, whether or not anyone heard of it. `may_be_committed` says, after a failure or a cancellation, whether that
can be: not if a store definitely refused some batch, not if some batch was never sent, not after falling back. Only
then may the locks be rolled back.

Sources: client-go txnkv/transaction/prewrite.go. Differences: where one batch was refused for good, the failure counts
as definite even if the answer to another one was lost; client-go reports every lost answer as undetermined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pytikv.client import backoff
from pytikv.client.by_region import run_bounded
from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.rpcs import KV_PREWRITE
from pytikv.client.txn.backend import RequestContext, TxnBackend
from pytikv.client.txn.key_batches import COMMITTER_CONCURRENCY
from pytikv.client.txn.key_errors import key_error, locks_met, refused_entry
from pytikv.client.txn.lock_resolver import LockResolver
from pytikv.client.txn.plan import UNKNOWN_TXN_SIZE, Mutation, Terms, batches, prewrite_request, sizes, write_size
from pytikv.errors import InvalidArgument, Outcome, TikvError, WriteConflict, format_key
from pytikv.observe.telemetry import as_step
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

__all__ = ["Prewrite"]


class Prewrite:
    """One run of the phase; see the module. `one_pc_commit_ts` and `min_commit_ts` (0: none) hold its answers.

    `one_pc_in_doubt`: the answer to 1PC was lost, and when it was asked for again the keys lay in several regions. The
    transaction went on as another protocol, but may have been committed by that first request: every key then answers
    that it is prewritten, and only its records know at which timestamp.
    """

    def __init__(
        self,
        backend: TxnBackend,
        terms: Terms,
        mutations: Sequence[Mutation],
        context: RequestContext,
        on_primary: Callable[[], None],
    ) -> None:
        """Make one.

        Args:
            backend: where to send.
            terms: what the requests say; falling back is noted in it.
            mutations: what to write, at least one, in key order.
            context: of the requests.
            on_primary: called when the primary has been written.
        """
        self._backend = backend
        self._terms = terms
        self._mutations = mutations
        self._context = context
        self._on_primary = on_primary
        self._unsent = len(mutations)
        self._is_refused = False
        self.one_pc_in_doubt = False
        self.one_pc_commit_ts = 0
        self.min_commit_ts = 0

    @property
    def was_sent(self) -> bool:
        """Whether anything was sent."""
        return self._unsent < len(self._mutations)

    @property
    def may_be_committed(self) -> bool:
        """Whether the transaction can be committed without another step of this client."""
        by_itself = self._terms.is_async_commit or self._terms.is_one_pc or self.one_pc_in_doubt
        return by_itself and not self._is_refused and self._unsent == 0

    async def run(
        self, groups: Sequence[tuple[Any, Sequence[Mutation]]], call: Call, *, is_again: bool = False
    ) -> None:
        """Prewrite mutations, grouped by region: all of them, or a part again whose region has changed.

        Raises the TikvError that ends the commit.
        """
        parts: list[tuple[Any, Sequence[Mutation], int]] = []
        limit = self._backend.prewrite_bytes
        for region, items in groups:
            # After a change of regions nobody knows how many keys lie in one: a store must not resolve them one by one.
            txn_size = UNKNOWN_TXN_SIZE if is_again else len(items)
            parts += [(region, batch, txn_size) for batch in batches(items, write_size, limit)]
        if len(parts) == 1:
            await self._send(*parts[0], call, is_again)
            return
        self._terms.is_one_pc = False
        jobs = [
            partial(self._send, region, batch, txn_size, call.fork(), is_again) for region, batch, txn_size in parts
        ]
        await run_bounded(self._backend.rt, jobs, COMMITTER_CONCURRENCY)

    async def _send(self, region: Any, batch: Sequence[Mutation], txn_size: int, call: Call, is_again: bool) -> None:
        try:
            while True:
                request = prewrite_request(self._terms, batch, txn_size)
                if not is_again:
                    is_again = True
                    self._unsent -= len(batch)
                response = await self._backend.send(KV_PREWRITE, region, request, call, self._context)
                if not response.errors:
                    self._take(request, response, batch)
                    return
                await self._on_errors(response.errors, call)
        except RegionStale:
            if self._terms.is_one_pc and call.lost is not None:
                self.one_pc_in_doubt = True
        except TikvError as error:
            self._note_failure(error, call)
            if isinstance(error, InvalidArgument):
                raise refused_entry(error, sizes(batch), self._backend.codec) from error
            raise
        try:
            groups = await self._backend.group(batch, _key_of, call)
        except TikvError as error:
            self._note_failure(error, call)
            raise
        await self.run(groups, call, is_again=is_again)

    def _note_failure(self, error: TikvError, call: Call) -> None:
        call.settle(error)
        if error.outcome is Outcome.NOT_APPLIED:
            self._is_refused = True

    def _take(
        self, request: kvrpcpb.PrewriteRequest, response: kvrpcpb.PrewriteResponse, batch: Sequence[Mutation]
    ) -> None:
        """Read the answer to a batch that was written."""
        terms = self._terms
        if request.try_one_pc:
            if response.one_pc_commit_ts:
                self.one_pc_commit_ts = response.one_pc_commit_ts
                return
            terms.is_one_pc = terms.is_async_commit = False
        elif request.use_async_commit:
            if response.min_commit_ts:
                self.min_commit_ts = max(self.min_commit_ts, response.min_commit_ts)
            else:
                terms.is_async_commit = False
        if any(mutation.key == terms.primary for mutation in batch):
            self._on_primary()

    async def _on_errors(self, errors: Sequence[kvrpcpb.KeyError], call: Call) -> None:
        """Resolve or wait for the locks met. Raises what is no lock."""
        terms = self._terms
        for error in errors:
            if error.HasField("commit_ts_too_large"):
                terms.is_one_pc = terms.is_async_commit = False
                return
            if not error.HasField("locked"):
                raise key_error(error, self._backend.codec, terms.start_ts)
        locks = locks_met(errors)
        if not terms.for_update_ts:
            for lock in locks:
                if lock.lock_version > terms.start_ts:
                    raise self._conflict(lock)
        await as_step(self._backend.rt.now, "lock_wait", "write", self._settle(locks, call))

    async def _settle(self, locks: Sequence[kvrpcpb.LockInfo], call: Call) -> None:
        """Resolve locks, and wait where they live."""
        wait_ms = await LockResolver.of(self._backend).resolve_for_write(
            locks, self._terms.start_ts, call, resolve_pessimistic_region=True
        )
        if wait_ms > 0:
            key = format_key(self._backend.codec.decode_key(locks[0].key))
            cause = f"prewrite met {len(locks)} locks, the first on {key} of transaction {locks[0].lock_version}"
            await call.backoffer.backoff(backoff.TXN_LOCK, cause, at_most_s=wait_ms / 1000)

    def _conflict(self, lock: kvrpcpb.LockInfo) -> WriteConflict:
        key = self._backend.codec.decode_key(lock.key)
        return WriteConflict(
            f"key {format_key(key)} is being written by transaction {lock.lock_version}, which began after this one "
            f"({self._terms.start_ts}): run the transaction again",
            key=key,
            start_ts=self._terms.start_ts,
            conflict_start_ts=lock.lock_version,
            reason="Optimistic",
        )


def _key_of(mutation: Mutation) -> bytes:
    return mutation.key
