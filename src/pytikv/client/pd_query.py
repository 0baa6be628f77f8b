"""Region look-ups joined on one stream (QueryRegion): many callers, one message, one answer.

Whoever asks first asks for all who came meanwhile, by key, by the key after, or by id, as with timestamps (`tso`).
An answer names for each key the id of its region, in the order of asking (0: none), and each region once.

PD up to 8.5 lacks the method and says UNIMPLEMENTED: the caller goes back to unary look-ups for good. Other failures
are left to the unary look-up as well, which knows how to find another leader.

Source: pd client/clients/router.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from pytikv.client.pd_messages import region_from
from pytikv.client.pd_status import check_header
from pytikv.client.pd_stream import PdStream
from pytikv.client.pool import ConnectionPool
from pytikv.client.tso import PdSource
from pytikv.errors import ServerError
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.interface import Runtime
from pytikv.rt.shared import Combiner
from pytikv.types import Region

__all__ = ["RegionQueries", "RegionQuery"]

QUERY_PATH: Final = b"/pdpb.PD/QueryRegion"
_MAX_BATCH: Final = 1000


class RegionQuery(NamedTuple):
    """One look-up; exactly one field is set."""

    key: bytes | None = None
    prev_key: bytes | None = None
    region_id: int | None = None


class RegionQueries:
    """The stream and those who wait for it. Safe for many threads and tasks."""

    def __init__(self, rt: Runtime, pool: ConnectionPool, source: PdSource, *, timeout_s: float) -> None:
        self._rt = rt
        self._source = source
        self._timeout_s = timeout_s
        self._stream = PdStream(rt, pool, source, QUERY_PATH)
        self._combiner: Combiner[RegionQuery, Region | None] = Combiner(rt, self._flush, max_batch=_MAX_BATCH)

    async def get(self, query: RegionQuery, deadline: float) -> Region | None:
        """Return the region asked for, None where there is none. One try.

        Raises RpcError, ConnectionFailed, TimeoutError; ServerError and ConfigError for an answer of no use.
        """
        return await self._combiner.submit(query, deadline)

    def close(self) -> None:
        """End the stream. Idempotent."""
        self._stream.close()

    async def _flush(self, queries: list[RegionQuery]) -> list[Region | None]:
        request = pdpb.QueryRegionRequest(
            header=self._source.header,
            keys=[query.key for query in queries if query.key is not None],
            prev_keys=[query.prev_key for query in queries if query.prev_key is not None],
            ids=[query.region_id for query in queries if query.region_id is not None],
        )
        data = await self._stream.exchange(request.SerializeToString(), self._rt.now() + self._timeout_s)
        try:
            response = pdpb.QueryRegionResponse.FromString(data)
        except DecodeError:
            raise ServerError("PD's answer is no QueryRegionResponse") from None
        self._source.check_cluster("the leader", response.header)
        check_header(response.header, "QueryRegion")
        if len(response.key_id_map) != len(request.keys) or len(response.prev_key_id_map) != len(request.prev_keys):
            raise ServerError("PD's answer to QueryRegion does not fit the question")
        by_key, by_prev = iter(response.key_id_map), iter(response.prev_key_id_map)
        found = {region_id: region_from(region) for region_id, region in response.regions_by_id.items()}
        ids = [
            next(by_key) if query.key is not None else next(by_prev) if query.prev_key is not None else query.region_id
            for query in queries
        ]
        return [found.get(region_id or 0) for region_id in ids]
