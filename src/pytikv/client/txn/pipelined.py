"""Pipelined transactions: writes go to the stores while the transaction runs, so its size is not bound by memory.

When the buffer holds `flush_keys` keys and `flush_bytes` bytes (or eight times the bytes alone) it is *flushed*: every
entry becomes a lock with its value (KvFlush), in all regions at once, and the buffer is empty again. Flushes are
numbered by *generation*; where a key is written in several, the highest one counts. The first key flushed is the
primary; its lock is written before all others and kept alive by heartbeats.

Reading own writes: the buffer first, then, for keys between the smallest and the largest one flushed, the stores'
locks (BufferBatchGet), where an empty value stands for a deletion; so empty values are refused here. A key without a
lock may never have been flushed, or its lock was lost: others rolled back a transaction that gave no sign of life.
Which of the two is told by the primary, whose lock goes before all others; it is asked after them, so that what was
read holds. Scans cannot see flushed writes and are refused once there are any. There are no savepoints: what is flushed
cannot be undone by parts.

Commit: the rest is flushed, the primary committed, and the locks behind are resolved by their range in the background.
A transaction that never filled its buffer is committed like any other. A flush that fails ends the transaction.

A store announces the status of such transactions to others in real clusters (BroadcastTxnStatus) to spare readers work;
nothing depends on it, and it is not done here.

Sources: client-go txnkv/transaction/pipelined_flush.go, internal/unionstore/pipelined_memdb.go. Difference: a writer
waits for its flush, so at most one buffer is held in memory. Belongs to one task at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from pytikv.client import backoff
from pytikv.client.by_region import run_bounded
from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.rpcs import KV_BUFFER_BATCH_GET, KV_FLUSH, KV_TXN_HEART_BEAT
from pytikv.client.txn.backend import TxnBackend, send_to_key
from pytikv.client.txn.background import Background
from pytikv.client.txn.buffer import WriteBuffer
from pytikv.client.txn.cleanup import resolve_range
from pytikv.client.txn.committer import Committer, Flushed
from pytikv.client.txn.heartbeat import Beat, HeartBeats
from pytikv.client.txn.key_batches import COMMITTER_CONCURRENCY
from pytikv.client.txn.key_errors import key_error, locks_met, refused_entry
from pytikv.client.txn.lock_resolver import LockResolver
from pytikv.client.txn.options import TxnOptions
from pytikv.client.txn.plan import (
    MANAGED_TTL_MS,
    Mutation,
    Terms,
    batches,
    choose_primary,
    is_committed,
    plan_mutations,
    sizes,
    write_size,
)
from pytikv.errors import InvalidArgument, Outcome, TikvError, TransactionAborted, WriteConflict, format_key
from pytikv.observe.telemetry import as_step
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

__all__ = ["Pipeline"]

_FORCED: Final = 8


class Pipeline:
    """The flushes of one transaction; see the module."""

    def __init__(
        self, backend: TxnBackend, options: TxnOptions, start_ts: int, begun_s: float, buffer: WriteBuffer, level: int
    ) -> None:
        self._backend = backend
        self._options = options
        self._context = options.write_context()
        self._start_ts = start_ts
        self._begun_s = begun_s
        self._buffer = buffer
        self._level = level
        self._generation = 0
        self._primary: bytes | None = None
        self._low = self._high = b""
        self._beat: Beat | None = None
        self._failure: TikvError | None = None

    @property
    def has_flushed(self) -> bool:
        """Whether anything was sent to the stores."""
        return self._primary is not None

    def check(self) -> None:
        """Raise TransactionAborted when a flush failed or the heartbeat was lost."""
        failure = self._failure or (self._beat.failure if self._beat is not None else None)
        if failure is not None:
            raise TransactionAborted(f"a part of the transaction could not be written: {failure}") from failure

    # --- flushing -----------------------------------------------------------------------------------------------------

    def is_due(self) -> bool:
        """Whether the buffer is to be flushed."""
        size, options = self._buffer.byte_count, self._options
        if size < options.flush_bytes:
            return False
        return self._buffer.write_count >= options.flush_keys or size >= options.flush_bytes * _FORCED

    async def flush(self, call: Call) -> None:
        """Write the buffer to the stores and empty it. A failure ends the transaction."""
        self.check()
        mutations = plan_mutations(self._buffer.items(), self._backend.codec.encode_key, is_pessimistic=False)
        if not mutations:
            return
        self._generation += 1
        is_first = self._primary is None
        if is_first:
            if not any(map(is_committed, mutations)):
                self._generation -= 1
                return  # nothing but checks: they wait for a write that can be the primary
            self._primary = choose_primary(mutations, None)
        self._note_range(mutations)
        try:
            if is_first:
                await self._flush_primary(mutations, call)
                mutations = [mutation for mutation in mutations if mutation.key != self._primary]
            if mutations:
                await self._flush_all(mutations, call)
        except BaseException as error:
            self._failure = error if isinstance(error, TikvError) else TransactionAborted("the flush was cancelled")
            if isinstance(error, TikvError):
                error.outcome = Outcome.NOT_APPLIED
            raise
        self._buffer.clear()

    def _note_range(self, mutations: Sequence[Mutation]) -> None:
        first, last = mutations[0].key, mutations[-1].key
        is_first = self._high == b""
        self._low = first if is_first else min(self._low, first)
        self._high = last + b"\x00" if is_first else max(self._high, last + b"\x00")

    async def _flush_primary(self, mutations: Sequence[Mutation], call: Call) -> None:
        assert self._primary is not None
        own = [mutation for mutation in mutations if mutation.key == self._primary]
        await self._flush_all(own, call)
        self._beat = Beat(self._primary, self._start_ts, is_pipelined=True)
        HeartBeats.of(self._backend).begin(self._beat)

    async def _flush_all(self, mutations: Sequence[Mutation], call: Call) -> None:
        groups = await self._backend.group(mutations, _key_of, call)
        parts = [(region, batch) for region, items in groups for batch in batches(items, write_size)]
        jobs = [partial(self._flush_batch, region, batch, call.fork()) for region, batch in parts]
        await run_bounded(self._backend.rt, jobs, COMMITTER_CONCURRENCY)

    async def _flush_batch(self, region: Any, batch: Sequence[Mutation], call: Call) -> None:
        request = self._request(batch)
        while True:
            try:
                response = await self._backend.send(KV_FLUSH, region, request, call, self._context)
                if not response.errors:
                    return
                await self._on_errors(response.errors, call)
            except RegionStale:
                break
            except InvalidArgument as error:
                raise refused_entry(error, sizes(batch), self._backend.codec) from error
        await self._flush_all(batch, call)

    def _request(self, batch: Sequence[Mutation]) -> kvrpcpb.FlushRequest:
        elapsed_ms = int((self._backend.rt.now() - self._begun_s) * 1000)
        request = kvrpcpb.FlushRequest(
            primary_key=self._primary or b"",
            start_ts=self._start_ts,
            min_commit_ts=self._start_ts + 1,
            generation=self._generation,
            lock_ttl=(self._options.lock_ttl_ms or MANAGED_TTL_MS) + elapsed_ms,
            assertion_level=self._level,  # type: ignore[arg-type]  # the stub knows the enum's members only
        )
        for op, key, value, assertion, _, _ in batch:
            request.mutations.add(op=op, key=key, value=value, assertion=assertion)
        return request

    async def _on_errors(self, errors: Sequence[kvrpcpb.KeyError], call: Call) -> None:
        for error in errors:
            if not error.HasField("locked"):
                raise key_error(error, self._backend.codec, self._start_ts)
        locks = locks_met(errors)
        for lock in locks:
            if lock.lock_version > self._start_ts:
                key = self._backend.codec.decode_key(lock.key)
                text = f"key {format_key(key)} is being written by the younger transaction {lock.lock_version}"
                raise WriteConflict(text, key=key, start_ts=self._start_ts, conflict_start_ts=lock.lock_version)
        await as_step(self._backend.rt.now, "lock_wait", "write", self._settle(locks, call))

    async def _settle(self, locks: Sequence[kvrpcpb.LockInfo], call: Call) -> None:
        """Resolve locks, and wait where they live."""
        wait_ms = await LockResolver.of(self._backend).resolve_for_write(locks, self._start_ts, call)
        if wait_ms > 0:
            cause = f"a flush met {len(locks)} locks, the first of transaction {locks[0].lock_version}"
            await call.backoffer.backoff(backoff.TXN_LOCK, cause, at_most_s=wait_ms / 1000)

    # --- reading own writes -------------------------------------------------------------------------------------------

    async def read(self, keys: Sequence[bytes], call: Call) -> dict[bytes, bytes | None]:
        """Return what was flushed for user keys: a value, or None for a deletion; keys not flushed are left out."""
        encode = self._backend.codec.encode_key
        wanted = [wire for key in keys if self._low <= (wire := encode(key)) < self._high]
        found: dict[bytes, bytes | None] = {}
        if wanted:
            await self._read_all(wanted, found, call)
            if len(found) < len(wanted):
                await self._check_primary(call)
        return found

    async def _check_primary(self, call: Call) -> None:
        """Raise TransactionAborted where the primary's lock is gone; a heartbeat that asks for nothing tells."""
        assert self._primary is not None
        request = kvrpcpb.TxnHeartBeatRequest(primary_lock=self._primary, start_version=self._start_ts)
        response = await send_to_key(self._backend, KV_TXN_HEART_BEAT, self._primary, request, call)
        if response.HasField("error"):
            raise key_error(response.error, self._backend.codec, self._start_ts)

    async def _read_all(self, keys: Sequence[bytes], found: dict[bytes, bytes | None], call: Call) -> None:
        groups = await self._backend.group(keys, None, call)
        parts = [(region, batch) for region, group in groups for batch in batches(group, len)]
        jobs = [partial(self._read_batch, region, batch, found, call.fork()) for region, batch in parts]
        await run_bounded(self._backend.rt, jobs, COMMITTER_CONCURRENCY)

    async def _read_batch(
        self, region: Any, keys: Sequence[bytes], found: dict[bytes, bytes | None], call: Call
    ) -> None:
        request = kvrpcpb.BufferBatchGetRequest(keys=keys, version=self._start_ts)
        codec = self._backend.codec
        try:
            response = await self._backend.send(KV_BUFFER_BATCH_GET, region, request, call, self._context)
        except RegionStale:
            await self._read_all(keys, found, call)
            return
        errors = [response.error] if response.HasField("error") else []
        errors += [pair.error for pair in response.pairs if pair.HasField("error")]
        if errors:
            raise key_error(errors[0], codec, self._start_ts)
        for pair in response.pairs:
            found[codec.decode_key(pair.key)] = pair.value or None

    # --- the end ------------------------------------------------------------------------------------------------------

    def committer(self) -> Committer:
        """Return what commits the flushed transaction."""
        assert self._primary is not None
        terms = Terms(self._primary, self._start_ts, MANAGED_TTL_MS)
        return Committer(
            self._backend,
            self._options,
            terms,
            [Mutation(kvrpcpb.Put, self._primary)],
            begun_s=self._begun_s,
            beat=self._beat,
            flushed=Flushed(self._low, self._high),
        )

    async def roll_back(self) -> None:
        """Have the flushed locks removed, in the background."""
        if self._beat is not None:
            HeartBeats.of(self._backend).end(self._beat)
        if self.has_flushed:
            backend, low, high = self._backend, self._low, self._high
            await Background.of(backend).submit(
                lambda: resolve_range(backend, low, high, self._start_ts, 0, self._context), "rollback of flushed locks"
            )


def _key_of(mutation: Mutation) -> bytes:
    return mutation.key
