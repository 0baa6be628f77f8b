"""PD: where regions and stores are, the cluster's id, keyspaces, and (through `tso`) timestamps.

A `PdClient` finds the leader among the endpoints and the members they name, sends it unary requests, and looks for the
leader anew when one fails: the first repetition is immediate (a new leader is often there already), later ones wait as
`pdRPC` says, until the caller's deadline. PD calls are safe to repeat. One request takes at most `timeout_s`, and at
most half of what the caller has left, so that a leader that hangs leaves time to find another.

The cluster id is fixed by the first answer, sent with every request and compared with every answer: another cluster's
PD is a ConfigError and its data is never used. At `connect` all endpoints get a quarter of a second to speak, so that
endpoints of two clusters are noticed. While requests are made, the members are asked again once a minute, in the
background.

Identical look-ups under way at the same time are one request, across threads and tasks. With `use_query_region` all
look-ups of single regions are joined on one stream (`pd_query`). BatchScanRegions and QueryRegion are tried once and,
where PD lacks them, replaced by ScanRegions and unary look-ups for good.

Requests carry the metadata of whom they are made for (`pytikv.context`); one that several wait for, that of the first.

Keys here are in region form (codec.api). Errors: ConnectionFailed with each address and its reason when no member
could be reached in time, DeadlineExceeded where that time was too short to tell (less than `timeout_s`, once
connected); RegionUnavailable while the cluster is not bootstrapped; ConfigError, ServerError.

Sources: pd client/ and server/grpc_service.go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.message import DecodeError

from pytikv.ambient import current_context
from pytikv.client import backoff
from pytikv.client.backoff import Backoffer, RetryRules
from pytikv.client.flights import Flights
from pytikv.client.lanes import AnyPool
from pytikv.client.pd_discovery import Round, ask_members
from pytikv.client.pd_members import Members
from pytikv.client.pd_messages import region_from, regions_from_scan, store_from
from pytikv.client.pd_query import RegionQueries, RegionQuery
from pytikv.client.pd_status import accuses_leader, check_header, fatal_status, header_error
from pytikv.client.pool import ConnectionPool
from pytikv.client.resilience.guard import Guards, Refused
from pytikv.client.tso import TsoClient
from pytikv.errors import (
    ClientClosed,
    ConfigError,
    ConnectionFailed,
    DeadlineExceeded,
    Overloaded,
    ServerError,
    TikvError,
    UnsupportedByServer,
)
from pytikv.proto import keyspacepb_pb2 as keyspacepb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.interface import Runtime
from pytikv.types import KeyRange, Region, Store
from pytikv.wire.errors import RpcError, Status

__all__ = ["PdClient"]

_PD: Final = "/pdpb.PD/"
_KEYSPACE: Final = "/keyspacepb.Keyspace/"
_REFRESH_S: Final = 60.0
_GRACE_S: Final = 0.25
_CONNECT_PATIENCE_S: Final = 2.0
_TOMBSTONE: Final = 2


class _Response(Protocol):
    @property
    def header(self) -> pdpb.ResponseHeader: ...


R = TypeVar("R", bound=_Response)


class PdClient:
    """One cluster's PD. Safe for many threads and tasks. `connect` must have returned before any look-up."""

    def __init__(
        self,
        rt: Runtime,
        pool: ConnectionPool,
        endpoints: Sequence[str],
        *,
        timeout_s: float = 3.0,
        cluster_id: int = 0,
        use_query_region: bool = False,
        rules: RetryRules | None = None,
        guards: Guards | None = None,
    ) -> None:
        """Make a client; nothing is sent yet.

        Args:
            rt: the runtime.
            pool: where channels come from; it knows whether TLS is used.
            endpoints: `host:port`, `http://host:port` or `https://host:port` of some members, at least one.
            timeout_s: seconds that one request may take.
            cluster_id: the cluster that must be there; 0 takes the one that is.
            use_query_region: join look-ups of regions on a stream. Pays with many at once; one alone is no faster.
            rules: how requests are retried.
            guards: of the members, for what goes over streams; other requests pass theirs in the pool's lanes.

        Raises ConfigError for an endpoint that is none.
        """
        self._rt = rt
        self._rules = rules
        self._pool: AnyPool = pool
        self._timeout_s = timeout_s
        self._members = Members(endpoints, uses_tls=pool.uses_tls, cluster_id=cluster_id)
        self._flights = Flights(rt)
        self._refresh_at = float("inf")
        self._heard_at = float("-inf")
        self._has_batch_scan = True
        self._closed = False
        self.header = pdpb.RequestHeader(cluster_id=cluster_id)
        """What every request carries."""
        self.tso = TsoClient(rt, pool, self, timeout_s=timeout_s, rules=rules, guards=guards)
        """The timestamp oracle."""
        self._queries = RegionQueries(rt, pool, self, timeout_s=timeout_s) if use_query_region else None

    def use_pool(self, pool: AnyPool) -> None:
        """Send unary requests by way of `pool` from now on; streams stay with the pool that was given first."""
        self._pool = pool

    @property
    def cluster_id(self) -> int:
        """The cluster's id; 0 before `connect`."""
        return self._members.cluster_id

    @property
    def endpoints(self) -> list[str]:
        """The addresses known, that of the leader first."""
        return self._members.candidates()

    async def connect(self, deadline: float) -> None:
        """Find the members, the leader and the cluster's id.

        Gives up before the deadline when for two seconds everyone refused, and at once when waiting cannot help
        (certificates, a port that speaks something else). Raises ConnectionFailed, ConfigError.
        """
        patience = self._rt.now() + _CONNECT_PATIENCE_S
        await self._find_leader(deadline, grace_s=_GRACE_S, patience=patience)
        self._refresh_at = self._rt.now() + _REFRESH_S

    def close(self) -> None:
        """End the timestamp stream; the pool is its owner's to close. Idempotent."""
        self._closed = True
        self.tso.close()
        if self._queries is not None:
            self._queries.close()

    # --- the leader ---------------------------------------------------------------------------------------------------

    async def leader(self, deadline: float) -> str:
        """Return the leader's address, looking for it where it is not known. Raises ConnectionFailed, ConfigError."""
        leader = self._members.leader
        if leader is not None:
            return leader
        await self._flights.run("leader", lambda: self._find_leader(deadline), deadline)
        return self._members.leader or self.endpoints[0]

    def leader_failed(self, address: str) -> None:
        """Look for the leader before the next request: `address` did not serve one."""
        self._members.leader_failed(address)

    def check_cluster(self, address: str, header: pdpb.ResponseHeader) -> None:
        """Raise ConfigError when an answer comes from another cluster. An answer without an id passes."""
        if header.cluster_id:
            self._members.check_cluster(address, header.cluster_id)

    async def _find_leader(self, deadline: float, *, grace_s: float = 0.0, patience: float = float("inf")) -> None:
        rt = self._rt
        backoffer = Backoffer(rt, deadline, self._rules)
        fair_at = rt.now() + (0.0 if grace_s else self._timeout_s)  # at connect the time is what the user gave PD
        while True:
            addresses = self._members.candidates()
            found = await ask_members(rt, self._pool, addresses, deadline, timeout_s=self._timeout_s, grace_s=grace_s)
            if grace_s:
                Members.check_same(found.answers)
            self._take(found)
            if found.leader is not None:
                return
            if found.refused is not None and found.refusals == len(addresses):
                raise found.refused
            is_hopeless = found.hopeless == len(addresses)
            if is_hopeless or rt.now() >= min(deadline, patience):
                raise self._unreachable(found, is_fair=rt.now() >= fair_at)
            try:
                await backoffer.backoff(backoff.PD_RPC, "no leader of PD is known")
            except (ConnectionFailed, DeadlineExceeded) as error:
                raise self._unreachable(found, is_fair=rt.now() >= fair_at) from error

    def _take(self, found: Round) -> None:
        """Take over a round's answers: the one that names the leader last, so that its members count."""
        leader = found.leader
        for answer in found.answers:
            if answer is not leader:
                self._members.check_cluster(answer.asked, answer.cluster_id)
        for answer in [leader] if leader is not None else found.answers:
            self._members.take(answer)
        if self._members.cluster_id != self.header.cluster_id:
            self.header = pdpb.RequestHeader(cluster_id=self._members.cluster_id)

    @staticmethod
    def _unreachable(found: Round, *, is_fair: bool) -> TikvError:
        """Return what to raise. Silence says nothing of PD where it had no fair time to answer."""
        if found.timeouts == len(found.failures) > 0 and not is_fair:
            return DeadlineExceeded(f"the time for the call ran out before PD's leader was found: {found.reasons()}")
        return ConnectionFailed(f"no leader of PD could be reached: {found.reasons()}")

    async def _refresh(self) -> None:
        """Ask for the members again; trouble is left to the next request."""
        addresses = self._members.candidates()
        deadline = self._rt.now() + self._timeout_s
        try:
            found = await ask_members(self._rt, self._pool, addresses, deadline, timeout_s=self._timeout_s, grace_s=0.0)
            self._take(found)
        except ClientClosed:
            pass  # it was closed meanwhile: there is no next request
        except ConfigError:
            self._members.leader = None  # the next request finds out, and tells its caller

    # --- requests -----------------------------------------------------------------------------------------------------

    async def call(self, path: str, request: Any, response: Callable[[bytes], R], deadline: float) -> R:
        """Send a request to the leader until it is answered. `response` parses the answer."""
        method = path.rpartition("/")[2]
        rt = self._rt
        backoffer = Backoffer(rt, deadline, self._rules)
        failures = silences = 0
        fair_at = rt.now() + self._timeout_s
        while True:
            leader = self._members.leader or await self.leader(deadline)
            request.header.CopyFrom(self.header)
            is_accused = True
            try:
                answer = await self._ask(leader, path, request.SerializeToString(), response, deadline)
                self._check(answer, method, leader)
                return answer
            except Refused as error:
                if failures:  # another leader was looked for, and there is none
                    raise error.error from None
                cause: object = error
            except RpcError as error:
                fatal = fatal_status(error, method, leader)
                if fatal is not None:
                    raise fatal from error
                silences += error.status == Status.DEADLINE_EXCEEDED
                is_accused = accuses_leader(error, rt.now() - self._heard_at)
                cause = f"{leader}: {method}: {error}"
            except (ConnectionFailed, Overloaded) as error:
                cause = error
            except _NotBootstrapped as error:
                await backoffer.backoff(backoff.PD_NOT_READY, error)
                continue
            failures += 1
            if is_accused:
                self._members.leader_failed(leader)
            if failures == 1 and rt.now() < deadline:
                backoffer.note(cause)
                continue
            try:
                await backoffer.backoff(backoff.PD_RPC, cause)
            except ConnectionFailed as error:
                if silences == failures and rt.now() < fair_at:
                    raise DeadlineExceeded(f"the time for the call ran out at PD; {error}") from None
                raise

    async def _ask(self, leader: str, path: str, request: bytes, response: Callable[[bytes], R], deadline: float) -> R:
        now = self._rt.now()
        until = now + min(self._timeout_s, (deadline - now) / 2)
        channel = await self._pool.channel(leader, until)
        whose = current_context()
        metadata = () if whose is None else whose.metadata
        data = await channel.unary(path.encode(), request, deadline=until, metadata=metadata)
        self._heard_at = self._rt.now()
        if now >= self._refresh_at and not self._closed:
            self._refresh_at = now + _REFRESH_S
            self._rt.spawn(self._refresh(), name="refresh PD's members")
        try:
            return response(data)
        except DecodeError:
            raise ServerError(f"PD's answer to {path.rpartition('/')[2]} could not be read") from None

    def _check(self, answer: _Response, method: str, leader: str) -> None:
        self.check_cluster(leader, answer.header)
        error = header_error(answer.header)
        if error is None or error.type in _LEFT_TO_METHODS:
            return
        if error.type == pdpb.NOT_BOOTSTRAPPED:
            raise _NotBootstrapped(error.message or "the cluster is not bootstrapped")
        if method != "GetStore":
            check_header(answer.header, method)

    # --- regions ------------------------------------------------------------------------------------------------------

    async def get_region(self, region_key: bytes, deadline: float) -> Region | None:
        """Return the region that holds a key; None while PD knows of none (a split is being reported)."""
        return await self._get_region("GetRegion", region_key, RegionQuery(key=region_key), deadline)

    async def get_prev_region(self, region_key: bytes, deadline: float) -> Region | None:
        """Return the region before the one that holds a key; None where there is none."""
        return await self._get_region("GetPrevRegion", region_key, RegionQuery(prev_key=region_key), deadline)

    async def _get_region(self, method: str, region_key: bytes, query: RegionQuery, deadline: float) -> Region | None:
        async def load() -> Region | None:
            if self._queries is not None:
                answer = await self._query(self._queries, query, deadline)
                if answer is not _NO_ANSWER:
                    return answer
            request = pdpb.GetRegionRequest(region_key=region_key)
            return region_from(await self.call(_PD + method, request, pdpb.GetRegionResponse.FromString, deadline))

        return await self._flights.run((method, region_key), load, deadline)

    async def get_region_by_id(self, region_id: int, deadline: float) -> Region | None:
        """Return a region by its id; None when there is none."""

        async def load() -> Region | None:
            if self._queries is not None:
                found = await self._query(self._queries, RegionQuery(region_id=region_id), deadline)
                if found is not _NO_ANSWER:
                    return found
            request = pdpb.GetRegionByIDRequest(region_id=region_id)
            answer = await self.call(_PD + "GetRegionByID", request, pdpb.GetRegionResponse.FromString, deadline)
            return region_from(answer)

        return await self._flights.run(("GetRegionByID", region_id), load, deadline)

    async def _query(self, queries: RegionQueries, query: RegionQuery, deadline: float) -> Region | None:
        """Look up on the stream; `_NO_ANSWER` where the unary way must be gone."""
        try:
            return await queries.get(query, deadline)
        except RpcError as error:
            if error.status == Status.UNIMPLEMENTED:
                self._queries = None
        except (ConnectionFailed, Overloaded, TimeoutError, ServerError):
            pass
        return _NO_ANSWER

    async def scan_regions(self, start_key: bytes, end_key: bytes, limit: int, deadline: float) -> list[Region]:
        """Return the regions that overlap `[start_key, end_key)`, in order, at most `limit`. There may be holes."""

        async def load() -> list[Region]:
            request = pdpb.ScanRegionsRequest(start_key=start_key, end_key=end_key, limit=limit)
            answer = await self.call(_PD + "ScanRegions", request, pdpb.ScanRegionsResponse.FromString, deadline)
            return regions_from_scan(answer)

        return await self._flights.run(("ScanRegions", start_key, end_key, limit), load, deadline)

    async def batch_scan_regions(self, ranges: Sequence[KeyRange], limit: int, deadline: float) -> list[Region]:
        """Return the regions that overlap any of `ranges` (sorted, not overlapping), in order, at most `limit`."""
        if self._has_batch_scan and len(ranges) > 1:
            try:
                return await self._batch_scan(ranges, limit, deadline)
            except UnsupportedByServer:
                self._has_batch_scan = False
        regions: list[Region] = []
        for start_key, end_key in ranges:
            if len(regions) >= limit:
                break
            if regions and (not regions[-1].end_key or (end_key and regions[-1].end_key >= end_key)):
                continue  # the last region covers this range too
            start_key = max(start_key, regions[-1].end_key) if regions else start_key
            regions += await self.scan_regions(start_key, end_key, limit - len(regions), deadline)
        return regions

    async def _batch_scan(self, ranges: Sequence[KeyRange], limit: int, deadline: float) -> list[Region]:
        wanted = [pdpb.KeyRange(start_key=start_key, end_key=end_key) for start_key, end_key in ranges]
        request = pdpb.BatchScanRegionsRequest(ranges=wanted, limit=limit)
        answer = await self.call(_PD + "BatchScanRegions", request, pdpb.BatchScanRegionsResponse.FromString, deadline)
        return [region for found in answer.regions if (region := region_from(found)) is not None]

    # --- stores and keyspaces -----------------------------------------------------------------------------------------

    async def get_store(self, store_id: int, deadline: float) -> Store | None:
        """Return a store; None when PD does not know it. A store that has left comes with `state` 2."""
        request = pdpb.GetStoreRequest(store_id=store_id)
        answer = await self.call(_PD + "GetStore", request, pdpb.GetStoreResponse.FromString, deadline)
        error = header_error(answer.header)
        if error is None:
            return store_from(answer.store) if answer.store.id else None
        if error.type == pdpb.STORE_TOMBSTONE:
            return Store(store_id, "", state=_TOMBSTONE)
        if "not found" in error.message:
            return None
        check_header(answer.header, "GetStore")
        return None

    async def get_all_stores(self, deadline: float, *, with_tombstones: bool = False) -> list[Store]:
        """Return all stores, by id."""

        async def load() -> list[Store]:
            request = pdpb.GetAllStoresRequest(exclude_tombstone_stores=not with_tombstones)
            answer = await self.call(_PD + "GetAllStores", request, pdpb.GetAllStoresResponse.FromString, deadline)
            return sorted((store_from(store) for store in answer.stores), key=lambda store: store.id)

        return await self._flights.run(("GetAllStores", with_tombstones), load, deadline)

    async def load_keyspace(self, name: str, deadline: float) -> int:
        """Return the id of a keyspace. Raises ConfigError when there is none of this name or it is not enabled."""
        request = keyspacepb.LoadKeyspaceRequest(name=name)
        path = _KEYSPACE + "LoadKeyspace"
        answer = await self.call(path, request, keyspacepb.LoadKeyspaceResponse.FromString, deadline)
        error = header_error(answer.header)
        if error is not None:
            raise ConfigError(
                f"keyspace {name!r} could not be loaded: {error.message or 'no such keyspace'}; "
                "it is made in PD, or by `pytikv serve --keyspace NAME`"
            )
        if answer.keyspace.state != keyspacepb.ENABLED:
            state = keyspacepb.KeyspaceState.Name(answer.keyspace.state)
            raise ConfigError(f"keyspace {name!r} is {state.lower()}")
        return answer.keyspace.id


_NO_ANSWER: Final = Region(0, b"", b"", 0, 0, ())
_LEFT_TO_METHODS: Final = frozenset({pdpb.REGION_NOT_FOUND, pdpb.ENTRY_NOT_FOUND, pdpb.STORE_TOMBSTONE})


class _NotBootstrapped(TikvError):
    """The cluster has no store yet; never leaves this module."""
