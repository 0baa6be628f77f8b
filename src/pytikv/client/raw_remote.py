"""Raw data in a cluster: the backend that speaks to stores.

Single keys and batches within one region take the *fast path* (`client.remote_view`) where it is open.

Ranges go region by region. The unbounded end in API v1, where no keyspace closes it, is written as a key above all
that TiKV accepts: `ABOVE_ALL` in reads; in a deletion, where the bound's length is checked, the largest key allowed,
which is then deleted by itself.

Limits: those of `ClientConfig`; nothing is buffered beyond one batch or one page.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from pytikv.client import rpcs
from pytikv.client.by_region import Batch, Batches, ItemT, Piece, over_range
from pytikv.client.cluster import Cluster, cluster_config, connect_cluster
from pytikv.client.pages import Pair
from pytikv.client.raw_backend import RawPage, Span, Write
from pytikv.client.raw_batches import DeleteBatch, GetBatch, PutBatch
from pytikv.client.remote_view import RemoteView, Way
from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.rpcs import REGION_ERROR, Kind
from pytikv.client.store_errors import raw_error
from pytikv.codec.api import ABOVE_ALL, MAX_KEY_SIZE, KeyCodec
from pytikv.codec.hot_raw import UNUSUAL, decode_get, encode_delete, encode_get, encode_put
from pytikv.config import ClientConfig
from pytikv.errors import ConnectionFailed, Outcome, TikvError, UnsupportedByServer
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.rt.interface import Runtime
from pytikv.types import Checksum, CompareAndSwap, KeyRange
from pytikv.url import Target
from pytikv.wire.errors import RpcError

__all__ = ["RemoteRaw", "open_raw"]

_LARGEST: Final = b"\xff" * MAX_KEY_SIZE
RangeSender = Callable[[Piece, Call], Awaitable[None]]


class RemoteRaw(RemoteView):
    """`RawBackend` over the wire, for one set of options. All state is shared through the cluster's caches."""

    def __init__(self, cluster: Cluster, config: ClientConfig, codec: KeyCodec) -> None:
        super().__init__(cluster, config, codec)
        self._prefix = codec.prefix
        self._prefix_size = len(codec.prefix)
        self._cf = config.cf.encode()

    def with_config(self, config: ClientConfig) -> RemoteRaw:
        """Return a view with other options."""
        return RemoteRaw(self._cluster, config, self._codec)

    # --- single keys --------------------------------------------------------------------------------------------------

    async def get(self, key: bytes) -> bytes | None:
        """See `RawBackend`. The fast path of `_send_fast`, once more: a coroutine less for the call that counts."""
        key = self._prefix + key
        now = self._now()
        way = self._way(key, now) if self._reads_at_leader else None
        body = encode_get(key, self._cf)
        if way is None:
            data = await self._send_key(rpcs.RAW_GET, key, body, self._call())
        else:
            _, route, fields, deadline = way
            try:
                channel = await self._channel(route.store.address, deadline)
                data = await channel.batch(13, fields + body, deadline)
            except (RpcError, ConnectionFailed) as error:
                data = await self._go_on(rpcs.RAW_GET, key, body, way, error, now)
            if data and data[0] == REGION_ERROR:
                data = await self._go_on(rpcs.RAW_GET, key, body, way, data, now)
        value = decode_get(data)
        if value is not UNUSUAL:
            return value
        answer = kvrpcpb.RawGetResponse.FromString(data)
        if answer.error:
            raise raw_error(answer.error)
        return None if answer.not_found else answer.value

    async def put(self, key: bytes, value: bytes, ttl: int) -> None:
        """See `RawBackend`."""
        key = self._prefix + key
        body = encode_put(key, value, ttl, self.config.atomic, self._cf)
        data = await self._send_fast(rpcs.RAW_PUT, 15, key, body)
        if data and (text := kvrpcpb.RawPutResponse.FromString(data).error):
            raise raw_error(text)

    async def delete(self, key: bytes) -> None:
        """See `RawBackend`."""
        key = self._prefix + key
        body = encode_delete(key, self.config.atomic, self._cf)
        data = await self._send_fast(rpcs.RAW_DELETE, 17, key, body)
        if data and (text := kvrpcpb.RawDeleteResponse.FromString(data).error):
            raise raw_error(text)

    async def get_ttl(self, key: bytes) -> int | None:
        """See `RawBackend`. The stores are asked for their configuration first: see `client.store_config`."""
        key = self._prefix + key
        call = self._call()
        body = kvrpcpb.RawGetKeyTTLRequest(key=key, cf=self.config.cf).SerializeToString()
        while True:
            region = await self._map.find(key, call)
            if self.config.api_version != 2:
                stores = [route.store.id for route in region.routes]
                await self._cluster.store_configs.require_ttl(stores, self.config.ttl, call.backoffer.deadline)
            try:
                data = await self._sender.send(rpcs.RAW_GET_KEY_TTL, region, body, call)
                break
            except RegionStale:
                continue
        answer = kvrpcpb.RawGetKeyTTLResponse.FromString(data)
        if answer.error:
            raise raw_error(answer.error)
        return answer.ttl or None

    async def compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes | None, ttl: int
    ) -> CompareAndSwap:
        """See `RawBackend`."""
        key = self._prefix + key
        call = self._call()
        if value is None and not self.config.cas_delete:
            await self._require_cas_delete(key, call)
        request = kvrpcpb.RawCASRequest(
            key=key,
            value=value or b"",
            previous_not_exist=expected is None,
            previous_value=expected or b"",
            cf=self.config.cf,
            ttl=ttl,
            delete=value is None,
        )
        data = await self._send_key(rpcs.RAW_COMPARE_AND_SWAP, key, request.SerializeToString(), call)
        answer = kvrpcpb.RawCASResponse.FromString(data)
        if answer.error:
            raise raw_error(answer.error)
        return CompareAndSwap(answer.succeed, None if answer.previous_not_exist else answer.previous_value)

    async def _require_cas_delete(self, key: bytes, call: Call) -> None:
        region = await self._map.find(key, call)
        stores = [route.store.id for route in region.routes]
        if not await self._cluster.store_configs.know_cas_delete(stores, call.backoffer.deadline):
            raise UnsupportedByServer(
                "the stores are not known to delete by compare_and_swap; one that does not would write an empty value "
                "instead. If yours do (kvproto's RawCASRequest.delete), say so with the option cas_delete=True"
            )

    # --- batches ------------------------------------------------------------------------------------------------------

    async def batch_get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """See `RawBackend`."""
        wire = self._wire(keys)
        batch = GetBatch(self.config, keys, wire, self._prefix_size)
        failed = await self._run(batch, wire)
        if failed:
            raise next(iter(failed.values()))
        return batch.found

    async def batch_put(self, writes: Sequence[Write]) -> dict[bytes, TikvError]:
        """See `RawBackend`."""
        prefix = self._prefix
        if prefix:
            writes = [(prefix + key, value, ttl) for key, value, ttl in writes]
        return self._user(await self._run(PutBatch(self.config), writes))

    async def batch_delete(self, keys: Sequence[bytes]) -> dict[bytes, TikvError]:
        """See `RawBackend`."""
        return self._user(await self._run(DeleteBatch(self.config), self._wire(keys)))

    async def _run(self, batch: Batch[ItemT], items: Sequence[ItemT]) -> dict[bytes, TikvError]:
        """Send a batch: one that is a single request goes by the fast path, if that is open."""
        now = self._now()
        way = self._way_of_all(batch, items, now)
        parts = [] if way is None else list(batch.cut(items))
        if way is None or len(parts) != 1 or batch.rpc.slot is None:
            run = self._batches(batch)
            await run.run(items, self._call())
            return run.failed
        _, route, context, deadline = way
        try:
            channel = await self._channel(route.store.address, deadline)
            data = await channel.batch(batch.rpc.slot, context + batch.encode(items), deadline)
        except (RpcError, ConnectionFailed) as error:
            return await self._go_on_batch(batch, items, way, error, now)
        if data and data[0] == REGION_ERROR:
            return await self._go_on_batch(batch, items, way, data, now)
        try:
            batch.take(data)
        except TikvError as error:
            run = self._batches(batch)
            await run.refused(way[0], items, error, self._call(now))
            return run.failed
        return {}

    def _way_of_all(self, batch: Batch[Any], items: Sequence[Any], now: float) -> Way | None:
        """Return the fast path's way if it is open and leads to one region that holds all keys."""
        if batch.rpc.kind is Kind.READ and not self._reads_at_leader:
            return None
        key_of = batch.key_of
        first = items[0]
        way = self._way(first if key_of is None else key_of(first), now)
        if way is None or (not way[0].start_key and not way[0].end_key):
            return way
        low, high = min(items, key=key_of), max(items, key=key_of)
        if key_of is not None:
            low, high = key_of(low), key_of(high)
        border, end = self._map.border(way[0].start_key), self._map.border(way[0].end_key)
        return way if border <= low and (not end or high < end) else None

    async def _go_on_batch(
        self, batch: Batch[ItemT], items: Sequence[ItemT], way: Way, met: Exception | bytes, began: float
    ) -> dict[bytes, TikvError]:
        """As `_go_on`, for a batch."""
        call, run = self._call(began), self._batches(batch)
        try:
            await self._digest(batch.rpc, way, met, call)
        except TikvError as error:
            await run.refused(way[0], items, error, call)
        else:
            await run.run(items, call)
        return run.failed

    def _batches(self, batch: Batch[ItemT]) -> Batches[ItemT]:
        return Batches(self._cluster.rt, self._sender, self._map, batch, self.config.batch_concurrency)

    def _wire(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        prefix = self._prefix
        return [prefix + key for key in keys] if prefix else keys

    def _user(self, failed: dict[bytes, TikvError]) -> dict[bytes, TikvError]:
        size = self._prefix_size
        return {key[size:]: error for key, error in failed.items()} if size and failed else failed

    # --- ranges -------------------------------------------------------------------------------------------------------

    def span(self, start: bytes, end: bytes) -> Span:
        """See `RawBackend`. A span is a range of wire keys."""
        return self._codec.encode_range(start, end)

    async def scan_page(self, span: Span, limit: int, *, reverse: bool, keys_only: bool) -> RawPage:
        """See `RawBackend`. A page ends at the border of a region."""
        call = self._call()
        while True:
            try:
                scan = self._scan_below if reverse else self._scan_above
                return await scan(span, limit, keys_only, call)
            except RegionStale:
                continue

    async def _scan_above(self, span: Span, limit: int, keys_only: bool, call: Call) -> RawPage:
        low, high = span
        region = await self._map.find(low, call)
        border = self._map.border(region.end_key)
        ends_here = not border or (high != b"" and high <= border)
        request = kvrpcpb.RawScanRequest(
            start_key=low, end_key=high if ends_here else border, limit=limit, key_only=keys_only, cf=self.config.cf
        )
        pairs, last = self._read_page(await self._sender.send(rpcs.RAW_SCAN, region, request.SerializeToString(), call))
        if len(pairs) >= limit:
            return RawPage(pairs, (last + b"\x00", high))
        return RawPage(pairs, None if ends_here else (border, high))

    async def _scan_below(self, span: Span, limit: int, keys_only: bool, call: Call) -> RawPage:
        low, high = span
        region = await self._map.find_below(high, call)
        border = self._map.border(region.start_key)
        ends_here = border <= low
        request = kvrpcpb.RawScanRequest(
            start_key=high or ABOVE_ALL,  # on the wire a reverse scan begins at its upper end
            end_key=low if ends_here else border,
            limit=limit,
            key_only=keys_only,
            cf=self.config.cf,
            reverse=True,
        )
        pairs, last = self._read_page(await self._sender.send(rpcs.RAW_SCAN, region, request.SerializeToString(), call))
        if len(pairs) >= limit:
            return RawPage(pairs, (low, last) if last > low else None)
        return RawPage(pairs, None if ends_here else (low, border))

    def _read_page(self, data: bytes) -> tuple[list[Pair], bytes]:
        """Return the pairs with user keys, and the wire key of the last one."""
        kvs = kvrpcpb.RawScanResponse.FromString(data).kvs
        if not kvs:
            return [], b""
        if kvs[0].HasField("error"):
            raise raw_error(kvs[0].error.abort or str(kvs[0].error).strip())
        size = self._prefix_size
        pairs = [(kv.key[size:], kv.value) for kv in kvs] if size else [(kv.key, kv.value) for kv in kvs]
        return pairs, kvs[-1].key

    async def delete_range(self, start: bytes, end: bytes) -> None:
        """See `RawBackend`."""
        done = 0

        async def send(piece: Piece, call: Call) -> None:
            nonlocal done
            request = kvrpcpb.RawDeleteRangeRequest(
                start_key=piece.start_key, end_key=piece.end_key or _LARGEST, cf=self.config.cf
            )
            if piece.end_key or piece.start_key < _LARGEST:
                data = await self._sender.send(rpcs.RAW_DELETE_RANGE, piece.region, request.SerializeToString(), call)
                if data and (text := kvrpcpb.RawDeleteRangeResponse.FromString(data).error):
                    raise raw_error(text)
                done += 1
            if not piece.end_key:  # unbounded, in API v1: what lies at the bound itself is left
                body = encode_delete(_LARGEST, self.config.atomic, self._cf)
                await self._sender.send(rpcs.RAW_DELETE, piece.region, body, call)

        try:
            await self._over_range(start, end, send)
        except TikvError as error:
            if done and error.outcome is Outcome.NOT_APPLIED:
                error.outcome = Outcome.UNDETERMINED  # other regions of the range are done
            raise

    async def checksum(self, start: bytes, end: bytes) -> Checksum:
        """See `RawBackend`."""
        xor = kvs = size = 0

        async def send(piece: Piece, call: Call) -> None:
            nonlocal xor, kvs, size
            span = kvrpcpb.KeyRange(start_key=piece.start_key, end_key=piece.end_key or ABOVE_ALL)
            request = kvrpcpb.RawChecksumRequest(algorithm=kvrpcpb.Crc64_Xor, ranges=[span])
            data = await self._sender.send(rpcs.RAW_CHECKSUM, piece.region, request.SerializeToString(), call)
            answer = kvrpcpb.RawChecksumResponse.FromString(data)
            if answer.error:
                raise raw_error(answer.error)
            xor ^= answer.checksum
            kvs += answer.total_kvs
            size += answer.total_bytes

        await self._over_range(start, end, send)
        return Checksum(xor, kvs, size)

    async def coprocessor(
        self, name: str, version: str, ranges: Sequence[KeyRange], data: bytes
    ) -> list[tuple[list[KeyRange], bytes]]:
        """See `RawBackend`. A region serves each range of the call by a request of its own."""
        found: list[tuple[bytes, list[KeyRange], bytes]] = []

        async def send(piece: Piece, call: Call) -> None:
            request = kvrpcpb.RawCoprocessorRequest(copr_name=name, copr_version_req=version, data=data)
            request.ranges.add(start_key=piece.start_key, end_key=piece.end_key)
            answer_data = await self._sender.send(rpcs.RAW_COPROCESSOR, piece.region, request.SerializeToString(), call)
            answer = kvrpcpb.RawCoprocessorResponse.FromString(answer_data)
            if answer.error:
                raise raw_error(answer.error)
            found.append((piece.start_key, [self._user_range(piece)], answer.data))

        for span in ranges:
            await self._over_range(span.start_key, span.end_key, send)
        return [(served, answer) for _, served, answer in sorted(found, key=lambda one: one[0])]

    def _user_range(self, piece: Piece) -> KeyRange:
        prefix, end = self._prefix, self._codec.end
        stop = piece.end_key
        return KeyRange(
            piece.start_key.removeprefix(prefix), b"" if prefix and stop == end else stop.removeprefix(prefix)
        )

    async def _over_range(self, start: bytes, end: bytes, send: RangeSender) -> None:
        low, high = self._codec.encode_range(start, end)
        limit = self.config.batch_concurrency
        await over_range(self._cluster.rt, self._map, low, high, self._call(), send, limit)


async def open_raw(rt: Runtime, target: Target, config: ClientConfig) -> RemoteRaw:
    """Connect to the cluster at `target`; the opener that `raw_backend.open_backend` calls."""
    config = cluster_config(config)
    cluster, codec = await connect_cluster(rt, target, config)
    return RemoteRaw(cluster, config, codec)
