"""The commit of one transaction, from its mutations to its outcome.

    2PC            prewrite everywhere -> commit_ts from PD -> commit the primary: the commit point -> the rest behind
    async commit   min_commit_ts from PD -> prewrite everywhere: the commit point -> commit all keys behind
    1PC            min_commit_ts from PD -> one prewrite that writes the records: the commit point

What lies behind the commit point runs in the background, after the caller has its answer; so does clean-up after a
commit that failed. A pipelined transaction (`pipelined`) comes with its locks written and is committed as in 2PC, but
for the locks behind, which are resolved by their range. With `causal` the first request to PD is left out. Async commit
and 1PC turn into 2PC where a store cannot keep up with them (`prewrite`), without the caller noticing more than a round
trip.

*The outcome* is kept whatever ends the commit, cancellation and KeyboardInterrupt included, which pass through as they
are. It is NOT_APPLIED until something that may commit is under way, UNDETERMINED while it is, and definite again with a
definite answer: success, or a refusal that proves that the transaction cannot be committed. A TikvError that ends a
commit in doubt becomes CommitUndetermined with the error as its cause; nothing is rolled back then, and nothing
repeated.

*The commit timestamp* exceeds start_ts, the min_commit_ts that readers pushed (a store refuses a lower one by
CommitTsExpired: a new one is taken, unless the store wants one more than an hour ahead, which no sound clock does) and
what `commit_wait_until` says.

Time: the call's deadline for all of it. Elapsed time is measured by the monotonic clock, so a wrong wall clock has no
say. Sources: client-go txnkv/transaction/2pc.go, commit.go, txn.go.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import CoroutineType
from typing import Any, Final, NamedTuple

from pytikv.client import backoff
from pytikv.client.backoff import Backoffer
from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.rpcs import KV_CHECK_TXN_STATUS, KV_COMMIT, SPLIT_REGION
from pytikv.client.txn.backend import TxnBackend, send_to_key
from pytikv.client.txn.background import Background
from pytikv.client.txn.cleanup import commit_keys, commit_request, release_locks, resolve_range, roll_back_keys
from pytikv.client.txn.heartbeat import Beat, HeartBeats
from pytikv.client.txn.key_errors import key_error
from pytikv.client.txn.options import TxnOptions
from pytikv.client.txn.plan import (
    HEARTBEAT_BYTES,
    Mutation,
    Terms,
    batches,
    choose_protocol,
    is_committed,
    max_commit_ts,
    secondaries,
    split_keys,
    write_size,
)
from pytikv.client.txn.prewrite import Prewrite
from pytikv.errors import (
    ClientClosed,
    CommitUndetermined,
    InvalidArgument,
    Outcome,
    TikvError,
    TransactionAborted,
    TransactionError,
)
from pytikv.observe.telemetry import as_step
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.types import Timestamp

__all__ = ["Committer", "Flushed"]

_COMMIT_TS_LEAP: Final = Timestamp.compose(3_600_000)
_AGE_MAX_S: Final = 24 * 3600.0

logger: Final = logging.getLogger("pytikv")


class Flushed(NamedTuple):
    """A range that holds all locks of a pipelined transaction, in wire form."""

    start_key: bytes
    end_key: bytes


class Committer:
    """One commit; `run` once. `outcome` and `commit_ts` tell how it ended, also when `run` raised."""

    def __init__(
        self,
        backend: TxnBackend,
        options: TxnOptions,
        terms: Terms,
        mutations: Sequence[Mutation],
        *,
        begun_s: float,
        beat: Beat | None = None,
        broken: TransactionError | None = None,
        flushed: Flushed | None = None,
    ) -> None:
        """Make one.

        Args:
            backend: where to send.
            options: of the transaction.
            terms: primary, start_ts, for_update_ts and TTL of the locks; the rest is set here.
            mutations: what to write, at least one, in key order, with wire keys.
            begun_s: when the transaction began (`rt.now()`).
            beat: its heartbeat, where it has one.
            broken: an assertion known to be broken; raised instead of committing, if no store finds a better reason.
            flushed: where the locks of a pipelined transaction lie, all written; `mutations` is the primary alone.
        """
        self._backend = backend
        self._options = options
        self._terms = terms
        self._mutations = mutations
        self._begun_s = begun_s
        self._beat = beat
        self._broken = broken
        self._flushed = flushed
        self._context = options.write_context()
        self._prewrite = Prewrite(backend, terms, mutations, self._context, self._on_primary)
        self._is_in_doubt = False
        self._keys = [mutation.key for mutation in mutations if is_committed(mutation)]
        self.outcome = Outcome.NOT_APPLIED
        self.commit_ts: Timestamp | None = None

    async def run(self, call: Call) -> None:
        """Commit. Raises the TikvError that says why not, or CommitUndetermined."""
        try:
            await self._run(call)
        except TikvError as error:
            await self._end_failed()
            if self.outcome is Outcome.APPLIED:
                logger.info("transaction %d is committed; behind it failed: %s", self._terms.start_ts, error)
                return
            if self.outcome is Outcome.UNDETERMINED:
                raise self._undetermined(error) from error
            error.outcome = Outcome.NOT_APPLIED
            raise
        except BaseException:
            await self._end_failed()
            raise
        finally:
            if self._beat is not None:
                HeartBeats.of(self._backend).end(self._beat)
            del self._prewrite  # it refers back: without it, what was written is let go of at once

    # --- the way ------------------------------------------------------------------------------------------------------

    async def _run(self, call: Call) -> None:
        if self._flushed is not None:
            await self._commit_primary(await self._new_commit_ts(call), call)
            await self._resolve_flushed(int(self.commit_ts or 0))
            return
        self._check_age()
        await self._choose_protocol(call)
        groups = await self._backend.group(self._mutations, _key_of, call)
        if len(self._mutations) >= self._options.presplit_keys:
            groups = await self._presplit(groups, call)
        await as_step(self._backend.rt.now, "phase", "prewrite", self._prewrite.run(groups, call))
        if self._broken is not None:
            raise self._broken
        if not self._keys:  # all mutations were checks: they held, and there is nothing to commit
            self.outcome = Outcome.APPLIED
            return
        if self._terms.is_one_pc:
            self._on_committed(self._prewrite.one_pc_commit_ts)
        elif self._prewrite.one_pc_in_doubt and (committed_at := await self._committed_at(call)):
            self._on_committed(committed_at)
        elif self._terms.is_async_commit:
            self._on_committed(self._prewrite.min_commit_ts)
            await self._commit_behind(self._keys)
        else:
            commit_ts = await self._new_commit_ts(call)
            await self._commit_behind(await self._commit_primary(commit_ts, call))

    def _check_age(self) -> None:
        """Refuse what began so long ago that rollback records of it may have been collected. Before anything is sent:
        later, others might commit what this client calls failed."""
        age_s = self._backend.rt.now() - self._begun_s
        if age_s > _AGE_MAX_S:
            raise TransactionAborted(f"the transaction began {age_s / 3600:.0f} hours ago; at most 24 are allowed")

    async def _choose_protocol(self, call: Call) -> None:
        terms, options = self._terms, self._options
        if self._broken is not None:
            return
        terms.is_async_commit, terms.is_one_pc = choose_protocol(self._mutations, options)
        if terms.is_async_commit:
            terms.secondaries = secondaries(self._mutations, terms.primary)
        elif not terms.is_one_pc:
            return
        if not options.causal or options.commit_wait_until is not None:
            # One above a timestamp that is new now: whoever begins after this commit was reported reads at a later one.
            terms.min_commit_ts = await self._timestamp(call) + 1
        elapsed_ms = int((self._backend.rt.now() - self._begun_s) * 1000)
        terms.max_commit_ts = max_commit_ts(terms.start_ts, elapsed_ms, options.async_commit_window_ms)

    async def _presplit(self, groups: list[tuple[Any, Sequence[Mutation]]], call: Call) -> Any:
        """Split regions that would be written to too much at once, and have PD spread them; where it fails, go on."""
        is_split = False
        for region, items in groups:
            keys = split_keys(items) if len(items) >= self._options.presplit_keys else []
            if keys:
                try:
                    request = kvrpcpb.SplitRegionRequest(split_keys=keys)
                    answer = await self._backend.send(SPLIT_REGION, region, request, call, self._context)
                    is_split = True
                    for made in answer.regions:
                        await self._backend.scatter_region(made.id, call.backoffer.deadline)
                except RegionStale:
                    is_split = True
                except TikvError as error:
                    logger.info("a region was not split before a large write: %s", error)
        return await self._backend.group(self._mutations, _key_of, call) if is_split else groups

    def _on_primary(self) -> None:
        """The primary is written: a transaction that takes long to write the rest must keep it alive."""
        if self._beat is None and not self._terms.is_one_pc and self._size > HEARTBEAT_BYTES:
            self._beat = Beat(self._terms.primary, self._terms.start_ts)
            HeartBeats.of(self._backend).begin(self._beat)

    @property
    def _size(self) -> int:
        return sum(map(write_size, self._mutations))

    async def _committed_at(self, call: Call) -> int:
        """Ask the primary when the transaction was committed; 0: it is not, and the primary is locked."""
        terms = self._terms
        request = kvrpcpb.CheckTxnStatusRequest(
            primary_key=terms.primary, lock_ts=terms.start_ts, current_ts=terms.start_ts
        )
        answer = await send_to_key(self._backend, KV_CHECK_TXN_STATUS, terms.primary, request, call, self._context)
        if answer.HasField("error"):
            raise key_error(answer.error, self._backend.codec, terms.start_ts)
        self._prewrite.one_pc_in_doubt = bool(answer.commit_version)
        return int(answer.commit_version)

    # --- the commit timestamp -----------------------------------------------------------------------------------------

    async def _timestamp(self, call: Call) -> Timestamp:
        """Return a new timestamp, above `commit_wait_until`."""
        backend, options, until = self._backend, self._options, self._options.commit_wait_until
        now_ts = await backend.timestamp(call.backoffer.deadline)
        if until is None or now_ts > until:
            return now_ts
        lag_ms = Timestamp(until).physical_ms - now_ts.physical_ms
        if lag_ms > options.commit_wait_timeout_ms:
            raise TransactionAborted(
                f"PD's time lies {lag_ms} ms behind commit_wait_until={until}, more than "
                f"commit_wait_timeout_ms={options.commit_wait_timeout_ms}: the transaction was rolled back"
            )
        until_s = backend.rt.now() + options.commit_wait_timeout_ms / 1000
        waiting = Backoffer(backend.rt, until_s, call.backoffer.rules)
        waiting.deadline = min(waiting.deadline, call.backoffer.deadline)
        while now_ts <= until:
            await waiting.backoff(backoff.COMMIT_TS_LAG, "PD's time lies behind commit_wait_until")
            now_ts = await backend.timestamp(call.backoffer.deadline)
        return now_ts

    async def _new_commit_ts(self, call: Call) -> Timestamp:
        commit_ts = await self._timestamp(call)
        if commit_ts <= self._terms.start_ts:
            raise InvalidArgument(f"start_ts {self._terms.start_ts} lies in the future: PD's time is {int(commit_ts)}")
        check = self._options.commit_ts_check
        if check is not None and not check(commit_ts):
            raise TransactionAborted(f"commit_ts_check refused the commit timestamp {int(commit_ts)}")
        return commit_ts

    # --- the primary --------------------------------------------------------------------------------------------------

    def _commit_primary(self, commit_ts: Timestamp, call: Call) -> CoroutineType[Any, Any, list[bytes]]:
        """Commit the batch that holds the primary; returns the other keys."""
        return as_step(self._backend.rt.now, "phase", "commit", self._insist_on_primary(commit_ts, call))

    async def _insist_on_primary(self, commit_ts: Timestamp, call: Call) -> list[bytes]:
        terms = self._terms
        while True:
            region, batch = await self._primary_batch(call)
            request = commit_request(
                terms.start_ts, commit_ts, batch, terms.primary, is_primary=True, is_async_commit=False
            )
            self._is_in_doubt = True
            try:
                response = await self._backend.send(KV_COMMIT, region, request, call, self._context)
            except RegionStale:
                self._is_in_doubt = call.lost is not None
                continue
            except TikvError as error:
                self._is_in_doubt = error.outcome is not Outcome.NOT_APPLIED
                raise
            self._is_in_doubt = False
            if not response.HasField("error"):
                self._on_committed(commit_ts)
                done = set(batch)
                return [key for key in self._keys if key not in done]
            commit_ts = await self._later_commit_ts(response.error, call)

    async def _primary_batch(self, call: Call) -> tuple[Any, Sequence[bytes]]:
        primary = self._terms.primary
        for region, keys in await self._backend.group(self._keys, None, call):
            if primary in keys:
                return region, next(batch for batch in batches(keys, len) if primary in batch)
        raise AssertionError("the primary is one of the keys")

    async def _later_commit_ts(self, error: kvrpcpb.KeyError, call: Call) -> Timestamp:
        """Return another timestamp where the store wants a later one. Raises what else it says."""
        if not error.HasField("commit_ts_expired"):
            raise key_error(error, self._backend.codec, self._terms.start_ts)
        wanted = error.commit_ts_expired.min_commit_ts
        if wanted - error.commit_ts_expired.attempted_commit_ts > _COMMIT_TS_LEAP:
            raise TransactionAborted(f"the store wants a commit timestamp of at least {wanted}, over an hour ahead")
        while (commit_ts := await self._new_commit_ts(call)) < wanted:
            await call.backoffer.backoff(backoff.COMMIT_TS_LAG, f"the store wants a commit timestamp of {wanted}")
        return commit_ts

    # --- the end ------------------------------------------------------------------------------------------------------

    def _on_committed(self, commit_ts: int) -> None:
        self.commit_ts = Timestamp(commit_ts)
        self.outcome = Outcome.APPLIED

    async def _commit_behind(self, keys: list[bytes]) -> None:
        if not keys:
            return
        backend, terms, commit_ts = self._backend, self._terms, int(self.commit_ts or 0)
        await self._submit(
            lambda: commit_keys(
                backend,
                keys,
                terms.start_ts,
                commit_ts,
                terms.primary,
                self._context,
                is_async_commit=terms.is_async_commit,
            ),
            "commit of secondaries",
        )

    async def _end_failed(self) -> None:
        """Settle the outcome after a failure, and have the locks rolled back where that is safe."""
        if self.outcome is Outcome.APPLIED:
            return
        if self._is_in_doubt or self._prewrite.may_be_committed:
            self.outcome = Outcome.UNDETERMINED
            return
        self.outcome = Outcome.NOT_APPLIED
        if self._flushed is not None:
            await self._resolve_flushed(0)
            return
        backend, terms, keys = self._backend, self._terms, self._keys
        leaves_locks = self._prewrite.was_sent and not terms.is_one_pc
        if keys and leaves_locks:
            await self._submit(lambda: roll_back_keys(backend, keys, terms.start_ts, self._context), "rollback")
        elif keys and terms.for_update_ts:
            await self._submit(
                lambda: release_locks(backend, keys, terms.start_ts, terms.for_update_ts, self._context), "rollback"
            )

    async def _resolve_flushed(self, commit_ts: int) -> None:
        assert self._flushed is not None
        (low, high), backend, start_ts = self._flushed, self._backend, self._terms.start_ts
        await self._submit(
            lambda: resolve_range(backend, low, high, start_ts, commit_ts, self._context), "resolve of flushed locks"
        )

    async def _submit(self, work: Any, name: str) -> None:
        try:
            await Background.of(self._backend).submit(work, name)
        except ClientClosed:
            logger.info("the client was closed: locks of transaction %d are left to others", self._terms.start_ts)

    def _undetermined(self, error: TikvError) -> CommitUndetermined:
        return CommitUndetermined(
            f"the answer to the commit of transaction {self._terms.start_ts} was lost: it may have been applied; "
            f"read before acting. Cause: {error}"
        )


def _key_of(mutation: Mutation) -> bytes:
    return mutation.key
