"""The `kvrpcpb.Context` of requests, as bytes made ready beforehand.

A context has three parts, each a serialized piece of the same message (pieces of one message may be joined): which
region, epoch and peer; what the client's options say (the same for every request of one set of options); and what
changes from call to call, max_execution_duration_ms and is_retry_request. For a call with the whole `rpc_timeout`
before it, which is the common one, all three are joined once and kept with the route to the replica, at most
`_CONTEXTS_KEPT` a route; the others are joined as they come, from the first two parts, which are kept likewise (their
`head`). So what is said for one request alone, a trace id among it, costs a concatenation and puts nothing aside.

What surrounds a call may say something else than the options do (`pytikv.context`, its `fields`), and a request of a
transaction more than both (`Extra`). The fields come in this order, and where one stands twice in a message, the later
one counts.

Requests name their cluster: a store of another cluster at the same address then refuses them.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from pytikv.call_context import CallContext
from pytikv.client.region_cache import Route
from pytikv.codec.api import KeyCodec
from pytikv.codec.hot_raw import context_field, varint
from pytikv.config import ClientConfig, ReplicaRead
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.types import Peer, Region

__all__ = ["DEFAULT_REQUEST_SOURCE", "NO_EXTRA", "PRIORITIES", "ContextMaker", "Extra", "ReadAs", "rpc_timeout_s"]

DEFAULT_REQUEST_SOURCE: Final = "external_pytikv"
_CONTEXTS_KEPT: Final = 16
_ROUNDING_S: Final = 0.001
PRIORITIES: Final = {"normal": kvrpcpb.Normal, "low": kvrpcpb.Low, "high": kvrpcpb.High}
_MAX_EXECUTION_MS: Final = b"\x70"  # field 14, varint
_IS_RETRY: Final = b"\xa0\x01\x01"  # field 20, true


class ReadAs(enum.Enum):
    """What a request must say for the replica it goes to."""

    LEADER = b""
    REPLICA = b"\x60\x01"  # field 12, replica_read: true
    STALE = b"\x88\x01\x01"  # field 17, stale_read: true


class Extra(NamedTuple):
    """What a request says beyond the options: serialized fields of its context, and which replicas may serve it."""

    fields: bytes = b""
    replica_read: ReplicaRead | None = None
    """None: as the option says."""
    is_stale_read: bool = False
    is_kept: bool = True
    """Whether contexts that say this will be wanted again."""


NO_EXTRA: Final = Extra()


def rpc_timeout_s(config: ClientConfig) -> float:
    """Return the seconds that one RPC may take: never more than the whole call."""
    return min(config.rpc_timeout, config.timeout)


class ContextMaker:
    """Makes the contexts of one set of options. Immutable; safe for many threads."""

    def __init__(self, config: ClientConfig, codec: KeyCodec, cluster_id: int) -> None:
        self._rpc_timeout_s = rpc_timeout_s(config)
        self._options = self._encode_options(config, codec, cluster_id)
        self._head_key = b"head" + self._options
        self._usual = _MAX_EXECUTION_MS + varint(max(1, int(self._rpc_timeout_s * 1000)))
        self.key = self._options + self._usual
        """Names these options among the contexts kept with a route, for requests to the leader; equal options share."""

    @staticmethod
    def _encode_options(config: ClientConfig, codec: KeyCodec, cluster_id: int) -> bytes:
        context = kvrpcpb.Context(
            api_version=kvrpcpb.V2 if codec.api_version == 2 else kvrpcpb.V1,
            cluster_id=cluster_id,
            keyspace_id=codec.keyspace_id,
            priority=PRIORITIES[config.priority],
            request_source=config.request_source or DEFAULT_REQUEST_SOURCE,
            resource_group_tag=config.resource_group_tag,
        )
        if codec.api_version == 2 and config.keyspace:
            context.keyspace_name = config.keyspace
        if config.resource_group:
            context.resource_control_context.resource_group_name = config.resource_group
        return context.SerializeToString()

    def kept(self, region: Region, route: Route, extra: bytes = b"") -> bytes:
        """Return the context field of an ordinary request to the leader, from the route or made and kept there."""
        key = (self.key, extra) if extra else self.key
        context = route.contexts.get(key)
        return self._keep(region, route, key, extra) if context is None else context

    def _keep(self, region: Region, route: Route, key: object, more: bytes) -> bytes:
        context = context_field(_encode_place(region, route.peer) + self._options + self._usual + more)
        return self._put(route, key, context)

    @staticmethod
    def _put(route: Route, key: object, data: bytes) -> bytes:
        if len(route.contexts) >= _CONTEXTS_KEPT:
            route.contexts.clear()
        route.contexts[key] = data
        return data

    def make(
        self,
        region: Region,
        route: Route,
        seconds: float,
        *,
        read_as: ReadAs = ReadAs.LEADER,
        is_retry: bool = False,
        extra: Extra = NO_EXTRA,
        whose: CallContext | None = None,
    ) -> bytes:
        """Return the context field of a request that has `seconds` left, made on behalf of `whose`."""
        more = extra.fields if read_as is ReadAs.LEADER else read_as.value + extra.fields
        if whose is None:
            if extra.is_kept and not is_retry and self.is_usual(seconds):
                return self.kept(region, route, more)
        else:
            more = whose.fields + more
        return self.once(region, route, seconds, more, is_retry=is_retry)

    def is_usual(self, seconds: float) -> bool:
        """Tell whether contexts that are kept say that so much time is left."""
        return -_ROUNDING_S <= seconds - self._rpc_timeout_s <= _ROUNDING_S

    def once(self, region: Region, route: Route, seconds: float, more: bytes, *, is_retry: bool = False) -> bytes:
        """Return the context field of a request that says `more`, which nobody else will."""
        return context_field(self._head(region, route) + self._changing(seconds, is_retry) + more)

    def _head(self, region: Region, route: Route) -> bytes:
        head = route.contexts.get(self._head_key)
        if head is None:
            head = self._put(route, self._head_key, _encode_place(region, route.peer) + self._options)
        return head

    def make_for_store(self, seconds: float, *, is_retry: bool, whose: CallContext | None = None) -> bytes:
        """Return the context field of a request to a store as a whole."""
        return context_field(self._options + self._changing(seconds, is_retry) + (whose.fields if whose else b""))

    @staticmethod
    def _changing(seconds: float, is_retry: bool) -> bytes:
        return _MAX_EXECUTION_MS + varint(max(1, int(seconds * 1000))) + (_IS_RETRY if is_retry else b"")


def _encode_place(region: Region, peer: Peer) -> bytes:
    place = kvrpcpb.Context(region_id=region.id)
    place.region_epoch.conf_ver, place.region_epoch.version = region.conf_ver, region.version
    place.peer.id, place.peer.store_id = peer.id, peer.store_id
    place.peer.role = peer.role  # type: ignore[assignment]  # the stub knows the enum's members only
    return place.SerializeToString()
