"""Transactional data in a cluster: the backend that speaks to stores and to PD.

Requests and answers are kvproto's messages, but for the two that reads are made of: KvGet goes by hand-made bytes on
the fast path of `client.remote_view`, KvBatchGet is read by loops in C (`codec.hot_txn`).

What a request says beyond the client's options (`RequestContext`) is encoded once and kept, `_EXTRAS_KEPT` of them.
Those that name locks are not kept with the routes to the replicas: each is used by one reader, for a moment.

Requests to all stores (UnsafeDestroyRange) go to whoever is not a tombstone and not TiFlash, each sent again until it
is answered or the call's time is up; they may take longer than `rpc_timeout`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from google.protobuf.message import Message

from pytikv.ambient import end_of_call
from pytikv.client import backoff, rpcs
from pytikv.client.cluster import Cluster, cluster_config, connect_cluster
from pytikv.client.contexts import NO_EXTRA, PRIORITIES, Extra
from pytikv.client.remote_view import RemoteView
from pytikv.client.replica_selector import is_tiflash
from pytikv.client.request_sender import Call
from pytikv.client.resilience.guard import Refused
from pytikv.client.rpc_errors import fatal_error, is_transient
from pytikv.client.rpcs import REGION_ERROR, Rpc
from pytikv.client.store_cache import CachedStore
from pytikv.client.txn.backend import DEFAULT_CONTEXT, GcState, ItemT, RequestContext, TxnPiece
from pytikv.client.txn.pd_gc import PdGc
from pytikv.client.txn.plan import BATCH_BYTES
from pytikv.codec.api import KeyCodec
from pytikv.codec.hot_raw import UNUSUAL
from pytikv.codec.hot_txn import decode_get, decode_pairs, encode_get
from pytikv.config import ClientConfig
from pytikv.errors import ConnectionFailed, TikvError, UnsupportedByServer
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.rt.interface import Runtime
from pytikv.types import Consistency, Timestamp
from pytikv.url import Target
from pytikv.wire.errors import RpcError

__all__ = ["RemoteTxn", "open_txn"]

_EXTRAS_KEPT: Final = 256


@functools.lru_cache(_EXTRAS_KEPT)
def _encode_extra(context: RequestContext) -> Extra:
    fields = kvrpcpb.Context(
        isolation_level=context.isolation,  # type: ignore[arg-type]  # the stub knows the enum's members only
        not_fill_cache=context.not_fill_cache,
        task_id=context.task_id,
        txn_source=context.txn_source,
        disk_full_opt=context.disk_full_opt,  # type: ignore[arg-type]
        resolved_locks=context.resolved_locks,
        committed_locks=context.committed_locks,
    )
    data = fields.SerializeToString()
    if context.priority is not None:
        data += b"\x30" + bytes((PRIORITIES[context.priority],))  # field 6: also "normal", against another option
    over = kvrpcpb.Context(
        request_source=context.request_source or "", resource_group_tag=context.resource_group_tag or b""
    )
    is_kept = not context.resolved_locks and not context.committed_locks
    return Extra(data + over.SerializeToString(), context.replica_read, context.stale_read, is_kept)


class RemoteTxn(RemoteView):
    """`TxnBackend` over the wire, for one set of options. All state is shared through the cluster's caches."""

    prewrite_bytes = BATCH_BYTES

    def __init__(self, cluster: Cluster, config: ClientConfig, codec: KeyCodec, shared: dict[str, Any]) -> None:
        super().__init__(cluster, config, codec)
        self.rt: Runtime = cluster.rt
        self.codec = codec
        self.shared = shared
        self._gc = PdGc(cluster.pd, codec.keyspace_id)
        self._last_extra = (DEFAULT_CONTEXT, NO_EXTRA)

    def with_config(self, config: ClientConfig) -> RemoteTxn:
        """Return a view with other options."""
        return RemoteTxn(self._cluster, config, self._codec, self.shared)

    # --- time ---------------------------------------------------------------------------------------------------------

    def timestamp(self, deadline: float) -> Coroutine[Any, Any, Timestamp]:
        """See `TxnBackend`."""
        return self._cluster.pd.tso.get(deadline)

    async def low_resolution_timestamp(self, max_age_s: float, deadline: float) -> Timestamp:
        """See `TxnBackend`."""
        return await self._cluster.pd.tso.low_resolution(max_age_s, deadline)

    async def validate_read_ts(self, read_ts: int, deadline: float) -> None:
        """See `TxnBackend`."""
        await self._cluster.pd.tso.validate_read_ts(read_ts, deadline)

    # --- the way to the data ------------------------------------------------------------------------------------------

    def call(self, deadline: float | None = None) -> Call:
        """See `TxnBackend`."""
        return self._sender.call(end_of_call(self._now(), self.config) if deadline is None else deadline)

    async def find(self, key: bytes, call: Call) -> Any:
        """See `TxnBackend`."""
        return await self._map.find(key, call)

    async def group(
        self, items: Sequence[ItemT], key_of: Callable[[ItemT], bytes] | None, call: Call
    ) -> list[tuple[Any, Sequence[ItemT]]]:
        """See `TxnBackend`."""
        return await self._map.group(items, key_of, call)

    async def pieces(self, start_key: bytes, end_key: bytes, call: Call) -> list[TxnPiece]:
        """See `TxnBackend`."""
        return [TxnPiece(*piece) for piece in await self._map.pieces(start_key, end_key, call)]

    async def first_piece(self, start_key: bytes, end_key: bytes, call: Call, *, reverse: bool = False) -> TxnPiece:
        """See `TxnBackend`."""
        if reverse:
            region = await self._map.find_below(end_key, call)
            return TxnPiece(region, max(start_key, self._map.border(region.start_key)), end_key)
        region = await self._map.find(start_key, call)
        border = self._map.border(region.end_key)
        return TxnPiece(region, start_key, border if border and (not end_key or border < end_key) else end_key)

    def _extra(self, context: RequestContext) -> Extra:
        last = self._last_extra
        if last[0] is context:
            return last[1]
        extra = NO_EXTRA if context == DEFAULT_CONTEXT else _encode_extra(context)
        self._last_extra = (context, extra)
        return extra

    def _is_at_leader(self, extra: Extra) -> bool:
        if extra.is_stale_read or not extra.is_kept:
            return False
        return self._reads_at_leader if extra.replica_read is None else extra.replica_read == "leader"

    async def get(
        self,
        key: bytes,
        version: int,
        call: Call | None,
        context: RequestContext = DEFAULT_CONTEXT,
        *,
        need_commit_ts: bool = False,
    ) -> Any:
        """See `TxnBackend`. The fast path of `_send_fast`, once more: a coroutine less for the call that counts."""
        if context is DEFAULT_CONTEXT:
            extra, at_leader = NO_EXTRA, self._reads_at_leader
        else:
            extra = self._extra(context)
            at_leader = self._is_at_leader(extra)
        body = encode_get(key, version, need_commit_ts)
        now = self._now()
        way = self._way(key, now, extra.fields) if call is None and at_leader else None
        if way is None:
            data = await self._send_key(rpcs.KV_GET, key, body, call or self._call(), extra)
        else:
            _, route, fields, deadline = way
            try:
                channel = await self._channel(route.store.address, deadline)
                data = await channel.batch(1, fields + body, deadline)
            except (RpcError, ConnectionFailed) as error:
                data = await self._go_on(rpcs.KV_GET, key, body, way, error, now, extra)
            if data and data[0] == REGION_ERROR:
                data = await self._go_on(rpcs.KV_GET, key, body, way, data, now, extra)
        value = UNUSUAL if need_commit_ts else decode_get(data)
        return kvrpcpb.GetResponse.FromString(data) if value is UNUSUAL else value

    async def batch_get(
        self,
        region: Any,
        keys: Sequence[bytes],
        version: int,
        call: Call,
        context: RequestContext = DEFAULT_CONTEXT,
        *,
        need_commit_ts: bool = False,
    ) -> Any:
        """See `TxnBackend`."""
        request = kvrpcpb.BatchGetRequest(keys=keys, version=version, need_commit_ts=need_commit_ts)
        body = request.SerializeToString()
        data = await self._sender.send(rpcs.KV_BATCH_GET, region, body, call, self._extra(context))
        pairs = UNUSUAL if need_commit_ts else decode_pairs(data)
        return kvrpcpb.BatchGetResponse.FromString(data) if pairs is UNUSUAL else pairs

    async def send(
        self, rpc: Rpc, region: Any, request: Message, call: Call, context: RequestContext = DEFAULT_CONTEXT
    ) -> Any:
        """See `TxnBackend`."""
        extra = NO_EXTRA if context is DEFAULT_CONTEXT else self._extra(context)
        return rpc.response.FromString(await self._sender.send(rpc, region, request.SerializeToString(), call, extra))

    async def send_to_all_stores(self, rpc: Rpc, request: Message, call: Call) -> list[tuple[str, Any]]:
        """See `TxnBackend`."""
        stores = await self._cluster.stores.refresh_all(call.backoffer.deadline)
        stores = [store for store in stores if store.address and not is_tiflash(store.labels)]
        body = request.SerializeToString()

        async def one(store: CachedStore) -> tuple[str, Any]:
            try:
                return store.address, await self._send_to_store(rpc, store, body, call.fork())
            except TikvError as error:
                return store.address, error

        return await self.rt.gather(*(one(store) for store in stores))

    async def _send_to_store(self, rpc: Rpc, store: CachedStore, body: bytes, call: Call) -> Any:
        deadline = call.backoffer.deadline
        while True:
            context = self._contexts.make_for_store(
                deadline - self._now(), is_retry=call.lost is not None, whose=call.context
            )
            try:
                channel = await self._cluster.pool.channel(store.address, deadline)
                data = await channel.unary(rpc.path, context + body, deadline=deadline, metadata=call.metadata)
                return rpc.response.FromString(data)
            except ConnectionFailed as error:
                cause: Exception = error
            except Refused as error:  # by the client's own guard of that store: nothing was sent
                call.settle(error.error)
                raise error.error from None
            except RpcError as error:
                if not is_transient(error):
                    raise fatal_error(error, rpc.name, store.address) from None
                if rpc.is_write and not error.not_processed:
                    call.lost = str(error)
                cause = error
            try:
                await call.backoffer.backoff(backoff.TIKV_RPC, f"{rpc.name} at {store.address}: {cause}")
            except TikvError as error:
                call.settle(error)
                raise

    # --- PD -----------------------------------------------------------------------------------------------------------

    async def gc_state(self, deadline: float) -> GcState:
        """See `TxnBackend`."""
        return await self._gc.state(deadline)

    async def advance_txn_safe_point(self, target: int, deadline: float) -> GcState:
        """See `TxnBackend`."""
        return await self._gc.advance_txn_safe_point(target, deadline)

    async def advance_gc_safe_point(self, target: int, deadline: float) -> GcState:
        """See `TxnBackend`."""
        return await self._gc.advance_gc_safe_point(target, deadline)

    async def set_gc_barrier(self, barrier_id: str, barrier_ts: int, ttl_s: int, deadline: float) -> None:
        """See `TxnBackend`."""
        await self._gc.set_barrier(barrier_id, barrier_ts, ttl_s, deadline)

    async def delete_gc_barrier(self, barrier_id: str, deadline: float) -> None:
        """See `TxnBackend`."""
        await self._gc.delete_barrier(barrier_id, deadline)

    async def scatter_region(self, region_id: int, deadline: float) -> None:
        """See `TxnBackend`."""
        await self._gc.scatter_region(region_id, deadline)

    async def is_scattered(self, region_id: int, deadline: float) -> bool:
        """See `TxnBackend`."""
        return await self._gc.is_scattered(region_id, deadline)

    async def check_consistency(self) -> Consistency:
        """See `TxnBackend`."""
        raise UnsupportedByServer("consistency is checked where the store is: open its path as embedded:///PATH")


async def open_txn(rt: Runtime, target: Target, config: ClientConfig) -> RemoteTxn:
    """Connect to the cluster at `target`; the opener that `backend.open_txn_backend` calls."""
    config = cluster_config(config)
    cluster, codec = await connect_cluster(rt, target, config, is_raw=False)
    return RemoteTxn(cluster, config, codec, {})
