"""What raw and transactional data over the wire have in common: the caches, the sender, and the fast path for one key.

Single keys take a *fast path* as long as nothing is amiss: the region is in the cache and the leader's store in good
standing. Then a call is one look-up, one concatenation, one command on a channel, and a look at the answer's first
byte. Its context bytes lie ready on the route to the leader, unless something surrounds the call (`pytikv.deadline`,
`pytikv.context`, a service class): then they are joined anew, with the time that is left and what is said of the call.

Whatever else happens falls through to the general loop (`request_sender`), which is told what was met, so that nothing
is lost of the account of the write. A call that carries a user's token begins there: it goes by itself, with metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from pytikv.ambient import Ambient, current_ambient, end_of_call
from pytikv.client.by_region import RegionMap
from pytikv.client.cluster import Cluster
from pytikv.client.contexts import NO_EXTRA, ContextMaker, Extra, rpc_timeout_s
from pytikv.client.lanes import AnyChannel, AnyPool
from pytikv.client.region_cache import CachedRegion, Route
from pytikv.client.request_sender import Call, RegionStale, RequestSender
from pytikv.client.rpcs import REGION_ERROR, Rpc
from pytikv.codec.api import KeyCodec
from pytikv.config import ClientConfig
from pytikv.errors import ConnectionFailed, TikvError
from pytikv.observe.state import ClusterStats
from pytikv.wire.errors import RpcError

__all__ = ["RemoteView", "Way"]

Way = tuple[CachedRegion, Route, bytes, float]
"""Region, its leader, the request's context field, and the deadline of the RPC."""

_NOTHING: Final = Ambient()


class RemoteView:
    """The data of a cluster as a client of one set of options sees it. State is shared through the cluster's caches."""

    def __init__(self, cluster: Cluster, config: ClientConfig, codec: KeyCodec) -> None:
        self.config = config
        self._cluster = cluster
        self._codec = codec
        contexts = ContextMaker(config, codec, cluster.cluster_id)
        self._sender = RequestSender(
            cluster.rt, config, contexts, cluster.pool, cluster.regions, cluster.stores, cluster.guards
        )
        self._map = RegionMap(cluster.rt, codec, cluster.regions, cluster.locator)
        # What the fast path reads, one attribute deep.
        self._now = cluster.rt.now
        # The time of a service class may change with every call: such a view never takes the shortest way.
        self._ambient = current_ambient if config.service_class is None else _surrounded
        self._rpc_timeout_s = rpc_timeout_s(config)
        self._region_key = codec.region_key if codec.is_memcomparable else None
        self._find_cached = cluster.regions.locate
        self._channel: Callable[[str, float], Coroutine[Any, Any, AnyChannel]] = cluster.pool.channel
        self._contexts = contexts
        self._context_key = contexts.key
        self._reads_at_leader = config.replica_read == "leader" and config.hedge_after_ms is None
        cluster.follow(self)

    def use_pool(self, pool: AnyPool) -> None:
        """Send what is sent from now on by way of `pool` (see `Cluster.observe`)."""
        self._channel = pool.channel
        self._sender.use_pool(pool)

    def observe(self, is_observed: bool) -> None:
        """Have requests report to `current_record()`, or no longer."""
        self._cluster.observe(is_observed)

    def stats(self, target: str) -> ClusterStats:
        """Return what the client holds at present. `target`: what was connected to."""
        return self._cluster.stats(target)

    async def close(self) -> None:
        """Close the cluster's connections."""
        await self._cluster.close()

    def abandon(self, *, forked: bool) -> None:
        """Let go of the cluster's connections."""
        self._cluster.abandon(forked=forked)

    def _call(self, began: float | None = None) -> Call:
        return self._sender.call(end_of_call(self._now() if began is None else began, self.config))

    def _way(self, wire_key: bytes, now: float, extra: bytes = b"") -> Way | None:
        """Return the region, the route to its leader and the context if the fast path is open for a key."""
        if self._region_key is not None:
            wire_key = self._region_key(wire_key)
        region = self._find_cached(wire_key, now)
        if region is None:
            return None
        route = region.leader
        if not route.store.is_sound(now):
            return None
        ambient = self._ambient()
        if ambient is not None:
            return self._surrounded_way(region, route, now, ambient, extra)
        if extra:
            return region, route, self._contexts.kept(region.meta, route, extra), now + self._rpc_timeout_s
        return (
            region,
            route,
            route.contexts.get(self._context_key) or self._contexts.kept(region.meta, route),
            now + self._rpc_timeout_s,
        )

    def _surrounded_way(
        self, region: CachedRegion, route: Route, now: float, ambient: Ambient, extra: bytes
    ) -> Way | None:
        """Return the way of a call that something surrounds; None when it must go by the general loop."""
        deadline = now + self.config.rpc_timeout
        end = end_of_call(now, self.config)
        if end < deadline:
            deadline = end
        whose, contexts = ambient.context, self._contexts
        if whose is not None:
            if whose.user_token is not None:
                return None
            extra = whose.fields + extra
        elif contexts.is_usual(deadline - now):
            return region, route, contexts.kept(region.meta, route, extra), deadline
        if deadline <= now:
            return None
        return region, route, contexts.once(region.meta, route, deadline - now, extra), deadline

    async def _send_fast(self, rpc: Rpc, slot: int, wire_key: bytes, body: bytes) -> bytes:
        """Send a command for one key to the leader, on the fast path if it is open; returns the answer's bytes."""
        now = self._now()
        way = self._way(wire_key, now)
        if way is None:
            return await self._send_key(rpc, wire_key, body, self._call())
        _, route, context, deadline = way
        try:
            channel = await self._channel(route.store.address, deadline)
            data = await channel.batch(slot, context + body, deadline)
        except (RpcError, ConnectionFailed) as error:
            return await self._go_on(rpc, wire_key, body, way, error, now)
        if data and data[0] == REGION_ERROR:
            return await self._go_on(rpc, wire_key, body, way, data, now)
        return data

    async def _go_on(
        self,
        rpc: Rpc,
        wire_key: bytes,
        body: bytes,
        way: Way,
        met: Exception | bytes,
        began: float,
        extra: Extra = NO_EXTRA,
    ) -> bytes:
        """Leave the fast path for the general loop, which is told what was met: a failure, or a region error.

        `began`: when the call did; its time goes on running.
        """
        call = self._call(began)
        await self._digest(rpc, way, met, call)
        return await self._send_key(rpc, wire_key, body, call, extra)

    async def _digest(self, rpc: Rpc, way: Way, met: Exception | bytes, call: Call) -> None:
        """Tell the general loop what was met on the fast path."""
        region, route, _, _ = way
        if isinstance(met, bytes):
            await self._sender.take(rpc, region, route.peer, met, call)
        elif isinstance(met, RpcError):
            await self._sender.take_failure(rpc, route.peer, met, call)

    async def _send_key(self, rpc: Rpc, wire_key: bytes, body: bytes, call: Call, extra: Extra = NO_EXTRA) -> bytes:
        """Send a request for one key by the general loop."""
        try:
            while True:
                region = await self._map.find(wire_key, call)
                try:
                    return await self._sender.send(rpc, region, body, call, extra)
                except RegionStale:
                    continue
        except TikvError as error:
            call.settle(error)
            raise


def _surrounded() -> Ambient:
    return current_ambient() or _NOTHING
