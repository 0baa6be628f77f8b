"""What a client that died leaves behind: prewrites, pessimistic locks, commits of the primary alone, at a live store.

It stands on the protocol below our client's transactions (`pytikv.client.txn.backend`), so it sends what our client
sends, to any store, remote or embedded, and stops where it is told to. A transaction's first key is its primary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytikv.client.base import client_config
from pytikv.client.request_sender import Call
from pytikv.client.rpcs import KV_COMMIT, KV_PESSIMISTIC_LOCK, KV_PREWRITE, Rpc
from pytikv.client.txn.backend import open_txn_backend
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.rt.caller import CallerRuntime

_PATIENCE_S = 60.0
_PAUSE_S = 0.01
_BATCH = 1_000


class DeadClient:
    """Makes transactions that stop half way, in the calling thread. Keys and values are users'."""

    def __init__(self, target: str, **options: Any) -> None:
        self._rt = CallerRuntime()
        place, config = client_config(target, options)
        self._backend = self._rt.run(open_txn_backend(self._rt, place, config))

    def prewrite(self, pairs: Mapping[bytes, bytes], *, ttl_ms: int, async_commit: bool = False) -> int:
        """Write locks with values, and die. With async commit it is committed by that. Returns start_ts."""
        return self._rt.run(self._prewrite(pairs, ttl_ms, async_commit))

    def commit_primary(self, key: bytes, start_ts: int) -> int:
        """Commit the primary of a prewritten transaction, and die before its secondaries. Returns the commit_ts."""
        return self._rt.run(self._commit_primary(key, start_ts))

    def lock(self, keys: Sequence[bytes], *, ttl_ms: int) -> int:
        """Lock keys as a pessimistic transaction does, and die. Returns its start_ts."""
        return self._rt.run(self._lock(keys, ttl_ms))

    def allow_gc(self, age_s: int) -> None:
        """Move PD's transaction safe point, as GC does first, to what is `age_s` seconds old, and die."""
        self._rt.run(self._allow_gc(age_s))

    def close(self) -> None:
        """End the connections."""
        self._rt.run(self._backend.close())
        self._rt.close()

    def _call(self) -> Call:
        return self._backend.call(self._rt.now() + _PATIENCE_S)

    async def _timestamp(self) -> int:
        return await self._backend.timestamp(self._rt.now() + _PATIENCE_S)

    async def _prewrite(self, pairs: Mapping[bytes, bytes], ttl_ms: int, async_commit: bool) -> int:
        wire = self._backend.codec.encode_key
        values = {wire(key): value for key, value in pairs.items()}
        primary, *secondaries = values
        start_ts = await self._timestamp()
        for region, keys in await self._batches(list(values)):
            request = kvrpcpb.PrewriteRequest(
                mutations=[kvrpcpb.Mutation(op=kvrpcpb.Put, key=key, value=values[key]) for key in keys],
                primary_lock=primary,
                start_version=start_ts,
                lock_ttl=ttl_ms,
                txn_size=len(values),
                min_commit_ts=start_ts + 1,
                use_async_commit=async_commit,
                secondaries=secondaries if async_commit and primary in keys else [],
            )
            await self._send(KV_PREWRITE, region, request)
        return start_ts

    async def _commit_primary(self, key: bytes, start_ts: int) -> int:
        call, wire_key = self._call(), self._backend.codec.encode_key(key)
        commit_ts = await self._timestamp()
        request = kvrpcpb.CommitRequest(keys=[wire_key], start_version=start_ts, commit_version=commit_ts)
        response = await self._backend.send(KV_COMMIT, await self._backend.find(wire_key, call), request, call)
        if response.HasField("error"):
            raise RuntimeError(f"KvCommit: {response.error}")
        return commit_ts

    async def _lock(self, keys: Sequence[bytes], ttl_ms: int) -> int:
        wire_keys = [self._backend.codec.encode_key(key) for key in keys]
        start_ts = await self._timestamp()
        for region, part in await self._batches(wire_keys):
            request = kvrpcpb.PessimisticLockRequest(
                mutations=[kvrpcpb.Mutation(op=kvrpcpb.PessimisticLock, key=key) for key in part],
                primary_lock=wire_keys[0],
                start_version=start_ts,
                lock_ttl=ttl_ms,
                for_update_ts=start_ts,
                min_commit_ts=start_ts + 1,
            )
            await self._send(KV_PESSIMISTIC_LOCK, region, request)
        return start_ts

    async def _allow_gc(self, age_s: int) -> None:
        target = await self._timestamp() - (age_s * 1000 << 18)
        await self._backend.advance_txn_safe_point(target, self._rt.now() + _PATIENCE_S)

    async def _batches(self, keys: list[bytes]) -> Iterator[tuple[Any, Sequence[bytes]]]:
        groups = await self._backend.group(keys, None, self._call())
        return ((region, part[i : i + _BATCH]) for region, part in groups for i in range(0, len(part), _BATCH))

    async def _send(self, rpc: Rpc, region: Any, request: Any) -> None:
        """Send, again and again while locks stand in the way: of a transaction just committed they go by themselves."""
        call = self._call()
        until = self._rt.now() + _PATIENCE_S
        while (response := await self._backend.send(rpc, region, request, call)).errors:
            is_locked = all(error.HasField("locked") for error in response.errors)
            if not is_locked or self._rt.now() > until:
                raise RuntimeError(f"{rpc.name}: {response.errors[0]}")
            await self._rt.sleep(_PAUSE_S)
