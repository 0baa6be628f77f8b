"""Reading at a timestamp: what transactions and snapshots stand on.

A read that meets a lock has it settled (`lock_resolver`), remembers what it may pass over or look behind, and asks
again; with a wait where the lock's transaction lives. `get` is the backend's hot path and nothing besides until that
happens. Keys of a batch go to all their regions at once, and whatever locks they meet are settled together.

What is remembered holds for the reader's timestamp and lasts as long as the reader, at most `_IDS_KEPT` transactions of
each kind. A reader at the greatest timestamp ("the latest") has no moment of its own: it reads single keys only, and
remembers neither locks nor values.

Values that were read are kept for a second reading, up to `CACHE_BYTES`; after that no more are added.

Reads change nothing: every error says NOT_APPLIED, also where resolving a lock ended in doubt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from types import CoroutineType
from typing import Any, Final

from pytikv.ambient import end_of_call
from pytikv.client import backoff
from pytikv.client.by_region import run_bounded
from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.txn.backend import DEFAULT_CONTEXT, RequestContext, TxnBackend
from pytikv.client.txn.key_errors import key_error
from pytikv.client.txn.lock_resolver import LockResolver
from pytikv.client.txn.options import ReadOptions
from pytikv.client.txn.scan import SnapshotScan
from pytikv.client.txn.visibility import Visibility
from pytikv.errors import InvalidArgument, Outcome, TikvError
from pytikv.observe.telemetry import as_step
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.types import MAX_TIMESTAMP

__all__ = ["CACHE_BYTES", "SnapshotReader"]

CACHE_BYTES: Final = 64 << 20
"""Bytes of keys and values that one reader keeps."""
KEYS_PER_REQUEST: Final = 5120  # as client-go, txnkv/txnsnapshot/snapshot.go
_IDS_KEPT: Final = 1024
_ENTRY_BYTES: Final = 100  # what a dict takes for an entry, about
_ONE_BY_ONE: Final = 'the timestamp of "the latest" reads single keys: read many at one of the oracle'


class SnapshotReader:
    """Reads at `start_ts`. Safe for many tasks; what it keeps is only ever added to. Keys are users' keys."""

    def __init__(self, backend: TxnBackend, start_ts: int, options: ReadOptions) -> None:
        self.options = options
        self.start_ts = start_ts
        self.backend = backend
        context = options.context()
        self._context = DEFAULT_CONTEXT if context == DEFAULT_CONTEXT else context
        self._is_latest = start_ts == MAX_TIMESTAMP
        self._resolver: LockResolver | None = None
        self._visibility = Visibility.of(backend)
        self._prefix = backend.codec.prefix
        self._keeps = options.cache and not self._is_latest
        self._cache: dict[bytes, bytes | None] = {}
        self._cache_left = CACHE_BYTES
        self._now = backend.rt.now

    # --- single keys --------------------------------------------------------------------------------------------------

    async def get(self, key: bytes) -> bytes | None:
        """Return the value at the timestamp, None where there is no such key."""
        if key in self._cache:
            return self._cache[key]
        began = self._now()
        wire = self._prefix + key
        answer = await self.backend.get(wire, self.start_ts, None, self._context)
        if answer is not None and type(answer) is not bytes:
            answer = await self._insist(wire, answer, began)
            answer = None if answer.not_found else answer.value
        if not self._visibility.allows(self.start_ts):
            await self._visibility.ensure(self.start_ts, self._deadline(began))
        if self._keeps:
            self._keep(key, answer)
        value: bytes | None = answer
        return value

    async def get_with_commit_ts(self, key: bytes) -> tuple[bytes, int] | None:
        """Return the value and when it was committed, None where there is no such key."""
        began = self._now()
        wire = self._prefix + key
        answer = await self.backend.get(wire, self.start_ts, None, self._context, need_commit_ts=True)
        answer = await self._insist(wire, answer, began, need_commit_ts=True)
        await self._ensure_visible(began)
        return None if answer.not_found else (answer.value, answer.commit_ts)

    async def _insist(self, wire: bytes, answer: Any, began: float, *, need_commit_ts: bool = False) -> Any:
        """Settle what stands in the way of a key until it is answered: the long way, after a first answer."""
        call = self.backend.call(self._deadline(began))
        context = self._context
        while True:
            if not isinstance(answer, kvrpcpb.GetResponse):
                return kvrpcpb.GetResponse(value=answer or b"", not_found=answer is None)
            if not answer.HasField("error"):
                return answer
            locks = [self.lock_in(answer.error)]
            context = await self.meet(locks, call, context, at_once=need_commit_ts)
            answer = await self.backend.get(wire, self.start_ts, call, context, need_commit_ts=need_commit_ts)

    # --- batches ------------------------------------------------------------------------------------------------------

    async def batch_get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the pairs that are there, in the order asked. `keys` are distinct."""
        if self._is_latest and len(keys) > 1:
            raise InvalidArgument(_ONE_BY_ONE)
        cache = self._cache
        missing = [key for key in keys if key not in cache] if cache else keys
        found: dict[bytes, bytes] = {}
        if missing:
            began = self._now()
            prefix = self._prefix
            wire = [prefix + key for key in missing] if prefix else missing
            await self._read(wire, self.backend.call(self._deadline(began)), found)
            await self._ensure_visible(began)
            if self._keeps:
                for key, wire_key in zip(missing, wire, strict=True):
                    self._keep(key, found.get(wire_key))
        return self._in_order(keys, found)

    def _in_order(self, keys: Sequence[bytes], found: dict[bytes, bytes]) -> dict[bytes, bytes]:
        prefix, cache = self._prefix, self._cache
        pairs: dict[bytes, bytes] = {}
        for key in keys:
            value = found.get(prefix + key)
            if value is None:
                value = cache.get(key)
            if value is not None:
                pairs[key] = value
        return pairs

    async def _read(self, wire: Sequence[bytes], call: Call, found: dict[bytes, bytes]) -> None:
        """Read keys into `found`: all regions at once, then the locks that were met, then what they had hidden."""
        context = self._context
        limit = self.backend.config.batch_concurrency
        while wire:
            left: list[bytes] = []
            locks: list[kvrpcpb.LockInfo] = []
            groups = await self.backend.group(wire, None, call)
            parts = [
                (region, group[at : at + KEYS_PER_REQUEST])
                for region, group in groups
                for at in range(0, len(group), KEYS_PER_REQUEST)
            ]
            if len(parts) == 1:
                await self._read_part(*parts[0], call, context, found, left, locks)
            else:
                jobs = [
                    partial(self._read_part, region, part, call.fork(), context, found, left, locks)
                    for region, part in parts
                ]
                await run_bounded(self.backend.rt, jobs, limit)
            if locks:
                context = await self.meet(locks, call, context)
            wire = left

    async def _read_part(
        self,
        region: Any,
        keys: Sequence[bytes],
        call: Call,
        context: RequestContext,
        found: dict[bytes, bytes],
        left: list[bytes],
        locks: list[kvrpcpb.LockInfo],
    ) -> None:
        """Read keys of one region; what must be read again goes to `left`, the locks in its way to `locks`."""
        try:
            answer = await self.backend.batch_get(region, keys, self.start_ts, call, context)
        except RegionStale:
            left.extend(keys)
            return
        if isinstance(answer, tuple):
            found.update(zip(*answer, strict=True))
        elif answer.HasField("error"):  # of the whole: the pairs are not all there
            locks.append(self.lock_in(answer.error))
            left.extend(keys)
        else:
            for pair in answer.pairs:
                if pair.HasField("error"):
                    lock = self.lock_in(pair.error)
                    locks.append(lock)
                    left.append(pair.key or lock.key)
                else:
                    found[pair.key] = pair.value

    # --- scans --------------------------------------------------------------------------------------------------------

    def scan(
        self,
        start: bytes | None,
        end: bytes | None,
        *,
        reverse: bool = False,
        keys_only: bool = False,
        batch_size: int = 256,
        limit: int | None = None,
    ) -> SnapshotScan:
        """Return a scan of `[start, end)`; nothing is sent before its first page is asked for."""
        if self._is_latest:
            raise InvalidArgument(_ONE_BY_ONE)
        return SnapshotScan(
            self,
            start,
            end,
            reverse=reverse,
            keys_only=keys_only or self.options.keys_only,
            batch_size=batch_size,
            limit=limit,
        )

    # --- locks and visibility -----------------------------------------------------------------------------------------

    @property
    def context(self) -> RequestContext:
        """What requests say, with the locks that were met so far."""
        return self._context

    def lock_in(self, error: kvrpcpb.KeyError) -> kvrpcpb.LockInfo:
        """Return the lock that an error of a store is about; raises the error where it is about anything else."""
        if error.HasField("locked"):
            return error.locked
        raise key_error(error, self.backend.codec, self.start_ts)

    def meet(
        self, locks: Sequence[kvrpcpb.LockInfo], call: Call, context: RequestContext, *, at_once: bool = False
    ) -> CoroutineType[Any, Any, RequestContext]:
        """Settle locks, wait where that is needed, and return what to say when reading again."""
        return as_step(self._now, "lock_wait", "read", self._settle(locks, call, context, at_once=at_once))

    async def _settle(
        self, locks: Sequence[kvrpcpb.LockInfo], call: Call, context: RequestContext, *, at_once: bool
    ) -> RequestContext:
        if self._resolver is None:
            self._resolver = LockResolver.of(self.backend)
        known = (len(context.resolved_locks), len(context.committed_locks))
        try:
            found = await self._resolver.resolve_for_read(locks, self.start_ts, call, at_once=at_once)
            context = _with_locks(context, found.ignore, found.access)
            if not self._is_latest:
                self._context = _with_locks(self._context, found.ignore, found.access)
            is_news = known != (len(context.resolved_locks), len(context.committed_locks))
            if found.wait_ms or not is_news:
                cause = f"locked by transaction {locks[0].lock_version}"
                most_s = found.wait_ms / 1000 if found.wait_ms else 0.002
                await call.backoffer.backoff(backoff.TXN_LOCK_FAST, cause, at_most_s=most_s)
        except TikvError as error:
            error.outcome = Outcome.NOT_APPLIED
            raise
        if context.stale_read:  # old data was asked for and a lock is in its way: the leader tells what holds
            context = dataclasses.replace(context, stale_read=False, replica_read="leader")
        return context

    async def _ensure_visible(self, began: float) -> None:
        if not self._visibility.allows(self.start_ts):
            await self._visibility.ensure(self.start_ts, self._deadline(began))

    async def ensure_visible(self, call: Call) -> None:
        """Raise SnapshotTooOld where what was read may not have been all there."""
        if not self._visibility.allows(self.start_ts):
            await self._visibility.ensure(self.start_ts, call.backoffer.deadline)

    def _deadline(self, began: float) -> float:
        return end_of_call(began, self.backend.config)

    # --- what was read ------------------------------------------------------------------------------------------------

    def _keep(self, key: bytes, value: bytes | None) -> None:
        size = len(key) + _ENTRY_BYTES + (len(value) if value is not None else 0)
        if size <= self._cache_left:
            self._cache_left -= size
            self._cache[key] = value


def _with_locks(context: RequestContext, ignore: Sequence[int], access: Sequence[int]) -> RequestContext:
    if not ignore and not access:
        return context
    return dataclasses.replace(
        context,
        resolved_locks=_newest(context.resolved_locks, ignore),
        committed_locks=_newest(context.committed_locks, access),
    )


def _newest(kept: tuple[int, ...], more: Sequence[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys((*kept, *more)))[-_IDS_KEPT:]
