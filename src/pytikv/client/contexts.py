"""The `kvrpcpb.Context` of requests, as bytes made ready beforehand.

A context has three parts, each a serialized piece of the same message (pieces of one message may be joined): which
region, epoch and peer; what the client's options say (the same for every request of one set of options); and what
changes from call to call, max_execution_duration_ms and is_retry_request. For a call with the whole `rpc_timeout`
before it, which is the common one, all three are joined once and kept with the route to the replica, at most
`_CONTEXTS_KEPT` a route; the others are joined as they come.

Requests name their cluster: a store of another cluster at the same address then refuses them.
"""

from __future__ import annotations

from typing import Final

from pytikv.client.region_cache import Route
from pytikv.codec.api import KeyCodec
from pytikv.codec.hot_raw import context_field, varint
from pytikv.config import ClientConfig
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.types import Peer, Region

__all__ = ["DEFAULT_REQUEST_SOURCE", "ContextMaker", "rpc_timeout_s"]

DEFAULT_REQUEST_SOURCE: Final = "external_pytikv"
_CONTEXTS_KEPT: Final = 16
_ROUNDING_S: Final = 0.001
_PRIORITIES: Final = {"normal": kvrpcpb.Normal, "low": kvrpcpb.Low, "high": kvrpcpb.High}
_MAX_EXECUTION_MS: Final = b"\x70"  # field 14, varint
_IS_RETRY: Final = b"\xa0\x01\x01"  # field 20, true


def rpc_timeout_s(config: ClientConfig) -> float:
    """Return the seconds that one RPC may take: never more than the whole call."""
    return min(config.rpc_timeout, config.timeout)


class ContextMaker:
    """Makes the contexts of one set of options. Immutable; safe for many threads."""

    def __init__(self, config: ClientConfig, codec: KeyCodec, cluster_id: int) -> None:
        self._rpc_timeout_s = rpc_timeout_s(config)
        self._leader_options = self._encode_options(config, codec, cluster_id, is_replica_read=False)
        self._replica_options = self._encode_options(config, codec, cluster_id, is_replica_read=True)
        self._usual = _MAX_EXECUTION_MS + varint(max(1, int(self._rpc_timeout_s * 1000)))
        self.key = self._leader_options + self._usual
        """Names these options among the contexts kept with a route, for requests to the leader; equal options share."""

    @staticmethod
    def _encode_options(config: ClientConfig, codec: KeyCodec, cluster_id: int, *, is_replica_read: bool) -> bytes:
        context = kvrpcpb.Context(
            api_version=kvrpcpb.V2 if codec.api_version == 2 else kvrpcpb.V1,
            cluster_id=cluster_id,
            keyspace_id=codec.keyspace_id,
            priority=_PRIORITIES[config.priority],
            request_source=config.request_source or DEFAULT_REQUEST_SOURCE,
            resource_group_tag=config.resource_group_tag,
            replica_read=is_replica_read,
        )
        if codec.api_version == 2 and config.keyspace:
            context.keyspace_name = config.keyspace
        if config.resource_group:
            context.resource_control_context.resource_group_name = config.resource_group
        return context.SerializeToString()

    def kept(self, region: Region, route: Route) -> bytes:
        """Return the context field of an ordinary request to the leader, from the route or made and kept there."""
        context = route.contexts.get(self.key)
        if context is None:
            context = self._keep(region, route, self.key, self._leader_options)
        return context

    def kept_for_replica(self, region: Region, route: Route) -> bytes:
        """As `kept`, for a read that a follower may serve."""
        key = (self.key,)
        context = route.contexts.get(key)
        return self._keep(region, route, key, self._replica_options) if context is None else context

    def _keep(self, region: Region, route: Route, key: object, options: bytes) -> bytes:
        context = context_field(_encode_place(region, route.peer) + options + self._usual)
        if len(route.contexts) >= _CONTEXTS_KEPT:
            route.contexts.clear()
        route.contexts[key] = context
        return context

    def make(
        self, region: Region, route: Route, seconds: float, *, is_replica_read: bool = False, is_retry: bool = False
    ) -> bytes:
        """Return the context field of a request that has `seconds` left."""
        if not is_retry and seconds >= self._rpc_timeout_s - _ROUNDING_S:
            return self.kept_for_replica(region, route) if is_replica_read else self.kept(region, route)
        options = self._replica_options if is_replica_read else self._leader_options
        limit = _MAX_EXECUTION_MS + varint(max(1, int(seconds * 1000)))
        return context_field(_encode_place(region, route.peer) + options + limit + (_IS_RETRY if is_retry else b""))


def _encode_place(region: Region, peer: Peer) -> bytes:
    place = kvrpcpb.Context(region_id=region.id)
    place.region_epoch.conf_ver, place.region_epoch.version = region.conf_ver, region.version
    place.peer.id, place.peer.store_id = peer.id, peer.store_id
    place.peer.role = peer.role  # type: ignore[assignment]  # the stub knows the enum's members only
    return place.SerializeToString()
