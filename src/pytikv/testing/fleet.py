"""A simulated cluster of several stores and one PD, each a process of its own, to be hurt one by one.

What runs is the real code of both halves: PD's services, the store's services and wire, the clients. What is simulated
beneath is the machine (`sim`), the time that commands cost (`capacity`) and what Raft would do:

* All stores share one engine, and a write is lost with none of them: the engine stands for what the replicas have
  agreed on. A read at a replica therefore sees every write that was answered, by construction, wherever it is read.
  (A real follower asks its leader for the read index first; it is as slow as the leader's Raft, not as its read pool.)
* Each region has a leader, which alone serves writes and plain reads; the others say NotLeader, unless the request is a
  replica read. A leader stays one, even when its process is dead, until `Fleet.lead` moves it. No elections.
* Stores talk to PD by plain calls; that wire is not what is tested. Their data needs no flush (`sync` is off).

Troubles: `Fleet.trouble(number)` makes a store slow or silent, `crash` and `revive` end and start it, the world's
network partitions it. PD browns out by `Fleet.pd_trouble` and `Fleet.pd_refuses` (it says that it is not the leader).

Clients connect to `URL`. `Fleet.tallies` count what each store has seen.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from pytikv.codec import memcomparable
from pytikv.proto import errorpb_pb2 as errorpb
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.meta import EngineMeta
from pytikv.server.health import health_routes
from pytikv.server.pd.members import VERSION
from pytikv.server.pd.server import PdConfig, PdServer
from pytikv.server.pd.services import pd_routes
from pytikv.server.regions import Claim, RegionEntry, RegionError, RegionTable
from pytikv.server.services.kv_service import Handler, KvService
from pytikv.server.services.outcome import Blocking, Durable, Outcome, Waits
from pytikv.server.services.tikv import AsyncKvService, routes_of
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.storage.causal_ts import CausalTs
from pytikv.server.storage.raw import open_raw
from pytikv.server.storage.txn_storage import TxnStorage
from pytikv.server.store import SplitLimits, Store
from pytikv.testing.capacity import Capacity, Station, Tally, Trouble
from pytikv.wire.errors import RpcError, Status
from pytikv.wire.server import CallInfo, Route, ServerConnection, Unary

if TYPE_CHECKING:
    from pytikv.testing.sim import SimRuntime, World

__all__ = ["PD", "URL", "Fleet", "store_name"]

PD: Final = "pd"
URL: Final = "tikv://pd:2379"
_PD_PORT: Final = 2379
_STORE_PORT: Final = 20160
_CAUSAL_BLOCK: Final = 256
_FIRST_STORE_ID: Final = 1
_RAW_DEFAULT_KEYSPACE: Final = b"r\x00\x00\x00"


def store_name(number: int) -> str:
    """Return the name of a store's process and host; stores are numbered from 1, and that is their id."""
    return f"store-{number}"


class Leaders:
    """Who leads each region: store ids by region id. One for all stores."""

    def __init__(self) -> None:
        self.by_region: dict[int, int] = {}

    def not_leader(self, region: RegionEntry) -> RegionError:
        """Return the answer of a store that does not lead `region`."""
        error = errorpb.Error(message=f"peer is not leader for region {region.id}")
        error.not_leader.region_id = region.id
        error.not_leader.leader.CopyFrom(self.peer(region.meta))
        return RegionError(error)

    def peer(self, region: metapb.Region) -> metapb.Peer:
        """Return the peer that leads."""
        store_id = self.by_region[region.id]
        return next(peer for peer in region.peers if peer.store_id == store_id)


class _ReplicaTable(RegionTable):
    """The regions of one store of several: it has a replica of each and leads some."""

    def __init__(self, engine: MemoryEngine, store_id: int, regions: Sequence[metapb.Region], leaders: Leaders) -> None:
        super().__init__(engine, store_id, regions)
        self._leaders = leaders

    def check(self, context: kvrpcpb.Context) -> Claim:
        claim = super().check(context)
        leads = self._leaders.by_region[claim.region.id] == self._store_id
        if not leads and not context.replica_read and not context.stale_read:
            raise self._leaders.not_leader(claim.region)
        return claim

    def replace(self, regions: Sequence[metapb.Region]) -> None:
        """Take over the regions as they are now; forgets what was remembered of contexts."""
        self._install(RegionEntry(region, self._store_id) for region in regions)


@dataclasses.dataclass(frozen=True, slots=True)
class _Queued(Blocking):
    """A command that has to wait for its worker before it is even looked at."""

    handler: Handler
    data: bytes


class _QueuedKv(AsyncKvService):
    """A store's service behind a `Station`."""

    def __init__(self, rt: SimRuntime, service: KvService, station: Station) -> None:
        super().__init__(rt, service)
        self._station = station
        service.handlers = {name: _queued(handler) for name, handler in service.handlers.items()}
        service.slots = {slot: _queued(handler) for slot, handler in service.slots.items()}

    async def complete(self, outcome: Blocking | Waits) -> bytes | Durable:
        if not isinstance(outcome, _Queued):
            return await super().complete(outcome)
        refusal = await self._station.pass_through()
        if refusal is not None:
            return refusal
        result = outcome.handler(outcome.data)
        return result if isinstance(result, (bytes, Durable)) else await super().complete(result)


def _queued(handler: Handler) -> Handler:
    def enqueue(data: bytes) -> Outcome:
        return _Queued(_never, handler, data)

    return enqueue


def _never() -> bytes:
    raise AssertionError("a queued command is run by its station")


class Fleet:
    """PD and `stores` stores in a world. Make it, then `start`; clients connect to `URL`."""

    def __init__(
        self,
        world: World,
        *,
        stores: int = 3,
        borders: Sequence[bytes] = (),
        capacity: Capacity | None = None,
        api_version: str = "1",
    ) -> None:
        """Make a fleet; nothing runs yet.

        Args:
            world: where it lives.
            stores: how many.
            borders: raw keys at which regions begin, beside the first. Region i is led by store 1 + i modulo `stores`.
            capacity: of each store; None: commands cost no time.
            api_version: "1", "1ttl" or "2" (raw data of the default keyspace).
        """
        self.world = world
        self.numbers = range(_FIRST_STORE_ID, _FIRST_STORE_ID + stores)
        self.engine = MemoryEngine()
        self.pd_trouble = Trouble()
        self.pd_refuses = False
        self.tallies = {number: Tally() for number in self.numbers}
        self._troubles = {number: Trouble() for number in self.numbers}
        self._capacity = capacity
        self._api = ApiVersion(api_version)
        self._borders = [self._border(key) for key in sorted(borders)]
        self._leaders = Leaders()
        self._tables: dict[int, _ReplicaTable] = {}
        self._stations: dict[int, Station] = {}
        self._pd: PdServer
        self._causal_ts: CausalTs
        self._regions: list[metapb.Region] = []

    def _border(self, key: bytes) -> bytes:
        return memcomparable.encode(_RAW_DEFAULT_KEYSPACE + key) if self._api is ApiVersion.V2 else key

    # --- start --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start PD and all stores; from here on clients may come."""
        rt = self.world.process(PD)
        url = (f"http://{PD}:{_PD_PORT}",)
        config = PdConfig(client_urls=url, peer_urls=url, max_replicas=len(self.numbers))
        self._pd = PdServer(EngineMeta(self.engine), config, time=rt.time, getrandbits=rt.rng.getrandbits)
        # One for all: a leader that moves must not bring older timestamps (TiKV fetches new ones then).
        self._causal_ts = CausalTs(self._pd.get_ts, _CAUSAL_BLOCK)
        self._bootstrap()
        routes = {path: self._browned(rt, route) for path, route in pd_routes(rt, self._pd).items()}
        self._listen(rt, _PD_PORT, routes)
        for number in self.numbers:
            self._start_store(self.world.process(store_name(number)), number)

    def _bootstrap(self) -> None:
        borders = [b"", *self._borders, b""]
        self._regions = [
            metapb.Region(
                id=self._pd.alloc_id() + 100,  # above the ids of the stores, which are their numbers
                start_key=start,
                end_key=end,
                region_epoch=metapb.RegionEpoch(conf_ver=1, version=1),
                peers=[metapb.Peer(id=self._pd.alloc_id() + 100, store_id=number) for number in self.numbers],
            )
            for start, end in itertools.pairwise(borders)
        ]
        for index, region in enumerate(self._regions):
            self._leaders.by_region[region.id] = self.numbers[index % len(self.numbers)]
        self._pd.bootstrap(self._meta(self.numbers[0]), _copy(self._regions[0]))
        for number in self.numbers:
            self._pd.put_store(self._meta(number))
        self._report()

    def _meta(self, number: int) -> metapb.Store:
        address = f"{store_name(number)}:{_STORE_PORT}"
        return metapb.Store(id=number, address=address, peer_address=address, version=VERSION)

    def _report(self) -> None:
        for region in self._regions:
            self._pd.region_heartbeat(_copy(region), self._leaders.peer(region))

    def _start_store(self, rt: SimRuntime, number: int) -> None:
        engine, pd = self.engine, self._pd
        table = self._tables[number] = _ReplicaTable(engine, number, self._regions, self._leaders)
        raw = open_raw(engine, self._api, now_s=rt.time, causal_ts=self._causal_ts)
        txn = TxnStorage(engine, self._api, now_s=rt.time, current_ts=lambda: pd.get_ts(1))
        store = Store(number, pd.cluster_id, engine, self._api, raw, txn, table, pd, SplitLimits())
        rng = self.world.rng.child(f"station {number}")
        station = Station(rt, rng, self._capacity, self._troubles[number], self.tallies[number])
        self._stations[number] = station
        health = {path: _suffering(route, station) for path, route in health_routes().items()}
        on_loop = _QueuedKv(rt, KvService(store, sync=False, now=rt.now), station)
        self._listen(rt, _STORE_PORT, {**routes_of(on_loop), **health})

    @staticmethod
    def _listen(rt: SimRuntime, port: int, routes: dict[bytes, Route]) -> None:
        rt.world.network.bind(rt, rt.name, port, lambda: ServerConnection(rt, routes))

    def _browned(self, rt: SimRuntime, route: Route) -> Route:
        """Return a route of PD's as it is during a brown-out."""
        station = Station(rt, self.world.rng.child("pd"), None, self.pd_trouble, Tally())

        async def before() -> None:
            await station.suffer()
            if self.pd_refuses:
                raise RpcError(Status.UNAVAILABLE, "not leader")

        return _guarded(route, before)

    # --- troubles -----------------------------------------------------------------------------------------------------

    @property
    def pd(self) -> PdServer:
        """PD itself, to look at or to set up."""
        return self._pd

    def trouble(self, number: int) -> Trouble:
        """Return what is the matter with a store, to be changed."""
        return self._troubles[number]

    @property
    def queued(self) -> int:
        """Commands that wait for a worker, of all stores together."""
        return sum(station.queued for station in self._stations.values())

    def is_up(self, number: int) -> bool:
        """Tell whether a store's process lives."""
        return not self.world.process(store_name(number)).dead

    def crash(self, number: int, *, silent: bool = False) -> None:
        """Kill a store's process. `silent`: with its machine, so that nobody hears of it."""
        self.world.crash(store_name(number), silent=silent)

    def revive(self, number: int) -> None:
        """Start a store that is dead."""
        if not self.is_up(number):
            self._start_store(self.world.restart(store_name(number)), number)

    def heal(self) -> None:
        """End all troubles, start what is dead and let go on what is paused."""
        self.heal_pd()
        for number in self.numbers:
            self._troubles[number].heal()
            self.world.resume(store_name(number))
            self.revive(number)

    def heal_pd(self) -> None:
        """End PD's brown-out."""
        self.pd_trouble.heal()
        self.pd_refuses = False

    def lead(self, key: bytes, number: int) -> None:
        """Make a store the leader of the region that holds a raw key, and tell PD."""
        region = next(r for r in self._regions if _holds(r, self._border(key)))
        self._leaders.by_region[region.id] = number
        self._publish()

    def split(self, key: bytes) -> bool:
        """Split the region that holds a raw key there; False where a region begins there already."""
        border = self._border(key)
        region = next(r for r in self._regions if _holds(r, border))
        if region.start_key == border:
            return False
        left, right = _copy(region), _copy(region)
        [(left.id, peer_ids)] = self._pd.ask_batch_split(region, 1)
        left.id += 100
        for peer, ident in zip(left.peers, peer_ids, strict=True):
            peer.id = ident + 100
        left.end_key = right.start_key = border
        left.region_epoch.version = right.region_epoch.version = region.region_epoch.version + 1
        self._leaders.by_region[left.id] = self._leaders.by_region[region.id]
        self._regions = [left, right, *(r for r in self._regions if r is not region)]
        self._publish()
        return True

    def _publish(self) -> None:
        for table in self._tables.values():
            table.replace(self._regions)
        self._report()


def _copy(region: metapb.Region) -> metapb.Region:
    """Return a region that PD may keep."""
    copy = metapb.Region()
    copy.CopyFrom(region)
    return copy


def _holds(region: metapb.Region, key: bytes) -> bool:
    return region.start_key <= key and (not region.end_key or key < region.end_key)


def _suffering(route: Route, station: Station) -> Route:
    return _guarded(route, station.suffer)


def _guarded(route: Route, before: Callable[[], Awaitable[None]]) -> Route:
    """Return the route with `before` awaited first. Streams are left as they are: raw data uses none of them."""
    if not isinstance(route, Unary):
        return route

    async def handle(inner: Unary, request: bytes, info: CallInfo) -> bytes:
        await before()
        answer = inner.handler(request, info)
        return answer if isinstance(answer, bytes) else await answer

    return Unary(partial(handle, route))
