"""PD as an object: what a store in the same process calls, and what the gRPC and HTTP services show.

State, and who may touch it: timestamps (`_tso`, under its own mutex, never held while the disk is written), the region
map (under `_map`, for memory only) and the rest, which is replaced, never changed in place, so that readers need no
lock. Every change goes through `_writer`, which is held while the storage writes: changes reach the disk and the memory
in the same order, and memory never shows what the disk refused.

Durable at return: cluster id, bootstrap, stores, ids, timestamps' bound, keyspaces, GC states. Regions are written
without a sync: they are a copy of what the stores know and report again.

All methods may be called from any thread. Those that write the disk say so; a loop calls them through `run_blocking`.
Sources: PD server/cluster, pkg/tso, pkg/id; kvproto pdpb for the messages.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from pytikv.errors import StorageError
from pytikv.proto import keyspacepb_pb2 as keyspacepb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.locks import mutex
from pytikv.server.pd import storage as keys
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.gc import GcStates, ServiceSafePoint
from pytikv.server.pd.ids import IdAllocator
from pytikv.server.pd.keyspaces import DEFAULT_KEYSPACE, Keyspaces
from pytikv.server.pd.regions import MAX_SCAN, RegionInfo, RegionTree, StaleRegion
from pytikv.server.pd.storage import MetaStorage, u64_key
from pytikv.server.pd.tso import BoundReached, TsoAllocator
from pytikv.types import Timestamp

__all__ = ["PdConfig", "PdServer", "StoreInfo"]

_FORMAT: Final = 1
_TSO_WIDTH: Final = 8
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class PdConfig:
    """How a PD presents itself. URLs have a scheme; `keyspaces` are made at start where they are missing."""

    name: str = "pd"
    client_urls: tuple[str, ...] = ("http://127.0.0.1:2379",)
    peer_urls: tuple[str, ...] = ("http://127.0.0.1:2380",)
    data_dir: str = ""
    max_replicas: int = 1
    keyspaces: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class StoreInfo:
    """A store: its metadata, its last heartbeat's statistics and when that came (Unix ns; 0: never in this life)."""

    meta: metapb.Store
    stats: pdpb.StoreStats | None = None
    last_heartbeat_ns: int = 0


class PdServer:
    """One PD. `time` is the wall clock (Unix seconds), `getrandbits` a source for ids. Reads `storage` at once.

    Raises StorageError when the storage was written by a newer version, and what the storage raises.
    """

    def __init__(
        self,
        storage: MetaStorage,
        config: PdConfig | None = None,
        *,
        time: Callable[[], float],
        getrandbits: Callable[[int], int],
    ) -> None:
        self.config = config or PdConfig()
        self._storage = storage
        self._time = time
        self._writer = mutex()
        self._map = mutex()
        self._tso_mutex = mutex()
        self.started_at_s = time()
        self._cluster = self._load_cluster(getrandbits)
        self._tso = TsoAllocator(_load_number(storage.get(keys.TSO_KEY)))
        self._ids = IdAllocator(_load_number(storage.get(keys.ID_KEY)))
        self._gc = GcStates.load(storage.get(keys.GC_KEY))
        self.keyspaces = Keyspaces()
        self._stores: dict[int, StoreInfo] = {}
        self._regions = RegionTree()
        self._load_maps()

    # --- loading ------------------------------------------------------------------------------------------------------

    def _load_cluster(self, getrandbits: Callable[[int], int]) -> dict[str, Any]:
        data = self._storage.get(keys.CLUSTER_KEY)
        if data is None:
            # As PD does: seconds in the upper half, so that clusters made one after the other differ; within 63 bits,
            # because Java clients read a signed number.
            cluster_id = (int(self._time()) & 0x7FFFFFFF) << 32 | getrandbits(32)
            member_id = getrandbits(62) | 1
            cluster = {"format": _FORMAT, "cluster_id": cluster_id, "member_id": member_id, "bootstrap_s": 0.0}
            self._storage.write({keys.CLUSTER_KEY: json.dumps(cluster).encode()}, sync=True)
            return cluster
        found: dict[str, Any] = json.loads(data)
        if found["format"] != _FORMAT:
            raise StorageError(f"PD's data has format {found['format']}, this version knows format {_FORMAT}")
        return found

    def _load_maps(self) -> None:
        for _, data in self._storage.scan(keys.STORE_PREFIX):
            store = metapb.Store.FromString(data)
            self._stores[store.id] = StoreInfo(store)
        for key, data in self._storage.scan(keys.REGION_PREFIX):
            try:
                self._regions.put(RegionInfo(metapb.Region.FromString(data)))
            except StaleRegion:
                self._storage.write({key: None}, sync=False)
        for _, data in self._storage.scan(keys.KEYSPACE_PREFIX):
            self.keyspaces.add(keyspacepb.KeyspaceMeta.FromString(data))
        known = {meta.name for meta in self.keyspaces.all()}
        for name in (DEFAULT_KEYSPACE, *self.config.keyspaces):
            if name not in known:
                self.create_keyspace(name)
                known.add(name)

    # --- identity -----------------------------------------------------------------------------------------------------

    @property
    def cluster_id(self) -> int:
        """The cluster's id, never 0."""
        return int(self._cluster["cluster_id"])

    @property
    def member_id(self) -> int:
        """This PD's id, never 0."""
        return int(self._cluster["member_id"])

    @property
    def bootstrap_s(self) -> float:
        """When the cluster was bootstrapped (Unix seconds); 0 before."""
        return float(self._cluster["bootstrap_s"])

    @property
    def is_bootstrapped(self) -> bool:
        """Whether the cluster has its first store and region."""
        return self.bootstrap_s > 0

    def now_s(self) -> float:
        """The wall clock, Unix seconds."""
        return self._time()

    # --- timestamps ---------------------------------------------------------------------------------------------------

    def try_ts(self, count: int) -> tuple[int, int]:
        """Take `count` timestamps without touching the disk; return `(physical_ms, last_logical)`.

        Raises BoundReached when `save_tso_bound` must come first, ValueError for a count that is not served.
        """
        with self._tso_mutex:
            return self._tso.allocate(count, int(self._time() * 1000))

    def tso_bound_due(self) -> bool:
        """Whether it is time for `save_tso_bound`, before timestamps must wait for it."""
        with self._tso_mutex:
            return self._tso.next_bound(int(self._time() * 1000)) is not None

    def save_tso_bound(self) -> None:
        """Persist a new bound where one is due. Writes the disk."""
        with self._writer:
            with self._tso_mutex:
                bound_ms = self._tso.next_bound(int(self._time() * 1000))
            if bound_ms is None:
                return
            self._storage.write({keys.TSO_KEY: bound_ms.to_bytes(_TSO_WIDTH, "big")}, sync=True)
            with self._tso_mutex:
                self._tso.bound_saved(bound_ms)

    def get_ts(self, count: int = 1) -> Timestamp:
        """Take `count` timestamps (1 to 2^18 - 1); return the last. Writes the disk about every 1.5 s of use."""
        while True:
            try:
                return Timestamp.compose(*self.try_ts(count))
            except BoundReached:
                self.save_tso_bound()

    # --- ids ----------------------------------------------------------------------------------------------------------

    def alloc_id(self, count: int = 1) -> int:
        """Take `count` consecutive ids; return the last. Writes the disk once in 1000 ids."""
        with self._writer:
            end = self._ids.needs_end(count)
            if end is not None:
                self._storage.write({keys.ID_KEY: end.to_bytes(8, "big")}, sync=True)
                self._ids.end_saved(end)
            return self._ids.allocate(count)

    # --- stores -------------------------------------------------------------------------------------------------------

    def bootstrap(self, store: metapb.Store, region: metapb.Region) -> None:
        """Give the cluster its first store and region. Writes the disk. Raises PdError ALREADY_BOOTSTRAPPED."""
        with self._writer:
            if self.is_bootstrapped:
                raise PdError("cluster is already bootstrapped", type=pdpb.ALREADY_BOOTSTRAPPED)
            store, region = _copy(store), _copy(region)
            store.node_state = metapb.Serving
            cluster = {**self._cluster, "bootstrap_s": self._time()}
            self._storage.write(
                {
                    keys.CLUSTER_KEY: json.dumps(cluster).encode(),
                    u64_key(keys.STORE_PREFIX, store.id): store.SerializeToString(),
                    u64_key(keys.REGION_PREFIX, region.id): region.SerializeToString(),
                },
                sync=True,
            )
            self._cluster = cluster
            self._stores = {**self._stores, store.id: StoreInfo(store)}
            with self._map:
                self._regions.put(RegionInfo(region))

    def put_store(self, store: metapb.Store) -> None:
        """Register a store or take in its new addresses, labels and version. Writes the disk.

        Raises PdError when it is a tombstone, or another living store has its address.
        """
        with self._writer:
            known = self._stores.get(store.id)
            if known is not None and known.meta.state == metapb.Tombstone:
                raise PdError("store is tombstone", type=pdpb.STORE_TOMBSTONE)
            for other in self._stores.values():
                living = other.meta.id != store.id and other.meta.state != metapb.Tombstone
                if living and other.meta.address == store.address:
                    raise PdError(f"duplicated store address: {store.address} is store {other.meta.id}'s")
            merged = _copy(store)
            merged.state = known.meta.state if known is not None else metapb.Up
            merged.node_state = known.meta.node_state if known is not None else metapb.Serving
            self._storage.write({u64_key(keys.STORE_PREFIX, store.id): merged.SerializeToString()}, sync=True)
            last = known or StoreInfo(merged)
            self._stores = {**self._stores, store.id: dataclasses.replace(last, meta=merged)}

    def store_heartbeat(self, stats: pdpb.StoreStats) -> None:
        """Take in a store's statistics. Raises PdError for a store that is unknown or a tombstone."""
        with self._writer:
            known = self._stores.get(stats.store_id)
            if known is None:
                raise PdError(f"invalid store ID {stats.store_id}, not found", type=pdpb.UNKNOWN)
            if known.meta.state == metapb.Tombstone:
                raise PdError("store is tombstone", type=pdpb.STORE_TOMBSTONE)
            seen = dataclasses.replace(known, stats=_copy(stats), last_heartbeat_ns=int(self._time() * 1e9))
            self._stores = {**self._stores, stats.store_id: seen}

    def get_store(self, store_id: int) -> StoreInfo:
        """Return a store. Raises PdError whose text clients match."""
        store = self._stores.get(store_id)
        if store is None:
            raise PdError(f"invalid store ID {store_id}, not found", type=pdpb.UNKNOWN)
        return store

    def get_stores(self, *, exclude_tombstones: bool = False) -> list[StoreInfo]:
        """Return all stores, ordered by id."""
        stores = [self._stores[store_id] for store_id in sorted(self._stores)]
        return [s for s in stores if not exclude_tombstones or s.meta.state != metapb.Tombstone]

    # --- regions ------------------------------------------------------------------------------------------------------

    def region_heartbeat(
        self,
        region: metapb.Region,
        leader: metapb.Peer | None,
        *,
        down_peers: Iterable[pdpb.PeerStats] = (),
        pending_peers: Iterable[metapb.Peer] = (),
        approximate_size_mib: int = 0,
        approximate_keys: int = 0,
        term: int = 0,
    ) -> None:
        """Take in a leader's report. A report older than what is known is ignored, as PD does.

        The messages are kept: the caller must not change them afterwards. Writes the disk, unsynced, when the region
        changed.
        """
        info = RegionInfo(
            region, leader, tuple(down_peers), tuple(pending_peers), approximate_size_mib, approximate_keys, term
        )
        with self._writer:
            known = self._regions.get(region.id)
            try:
                with self._map:
                    displaced = self._regions.put(info)
            except StaleRegion:
                return
            if known is None or displaced or known.meta != region:
                changes: dict[bytes, bytes | None] = {
                    u64_key(keys.REGION_PREFIX, other.meta.id): None for other in displaced
                }
                changes[u64_key(keys.REGION_PREFIX, region.id)] = region.SerializeToString()
                self._storage.write(changes, sync=False)

    def ask_batch_split(self, region: metapb.Region, count: int) -> list[tuple[int, list[int]]]:
        """Return ids for `count` regions split off `region`: a region id, and a peer id for each of its peers."""
        each = 1 + len(region.peers)
        first = self.alloc_id(count * each) - count * each + 1
        return [(i, list(range(i + 1, i + each))) for i in range(first, first + count * each, each)]

    def get_region(self, key: bytes) -> RegionInfo | None:
        """Return the region that holds `key` (in the form of region borders); None in a gap."""
        with self._map:
            return self._regions.search(key)

    def get_prev_region(self, key: bytes) -> RegionInfo | None:
        """Return the region before the one that holds `key`."""
        with self._map:
            return self._regions.search_prev(key)

    def get_region_by_id(self, region_id: int) -> RegionInfo | None:
        """Return the region with that id."""
        with self._map:
            return self._regions.get(region_id)

    def scan_regions(self, start_key: bytes, end_key: bytes, limit: int = 0) -> list[RegionInfo]:
        """Return regions in order that meet the range; `limit` 0: MAX_SCAN."""
        with self._map:
            return self._regions.scan(start_key, end_key, limit)

    def batch_scan_regions(
        self, ranges: Sequence[tuple[bytes, bytes]], limit: int, *, contain_all: bool
    ) -> list[RegionInfo]:
        """Return the regions that meet any of the ranges, each once, `limit` in all.

        Ranges are sorted and do not overlap, or PdError is raised; with `contain_all` so is a gap in the map.
        """
        _check_ranges(ranges)
        most = min(limit, MAX_SCAN) if limit > 0 else MAX_SCAN
        found: list[RegionInfo] = []
        with self._map:
            for start_key, end_key in ranges:
                part = self._regions.scan(start_key, end_key, most - len(found) + 1)
                if contain_all:
                    _check_gaps(part, start_key, end_key, complete=len(part) <= most - len(found))
                if found and part and found[-1] is part[0]:
                    part = part[1:]
                found += part
                if len(found) >= most:
                    return found[:most]
        return found

    def region_count(self) -> int:
        """Return how many regions are known."""
        return len(self._regions)

    # --- keyspaces and GC ---------------------------------------------------------------------------------------------

    def create_keyspace(self, name: str) -> keyspacepb.KeyspaceMeta:
        """Make a keyspace. Writes the disk. Raises PdError for a bad or taken name."""
        with self._writer:
            meta = self.keyspaces.make(name, int(self._time()))
            self._storage.write({u64_key(keys.KEYSPACE_PREFIX, meta.id): meta.SerializeToString()}, sync=True)
            self.keyspaces.add(meta)
            return meta

    @property
    def gc_states(self) -> GcStates:
        """The present GC states, to be read only."""
        return self._gc

    def update_gc_safe_point(self, safe_point: int) -> int:
        """Raise the GC safe point; return the present one. Writes the disk. Raises PdError above the txn safe point."""
        with self._writer:
            return self._change_gc(lambda states: states.update_gc_safe_point(safe_point))

    def update_service_gc_safe_point(self, service_id: str, ttl_s: int, safe_point: int) -> ServiceSafePoint:
        """Set or remove what a service holds back. Writes the disk. Raises PdError for what PD refuses."""
        now_s = int(self._time())
        with self._writer:
            return self._change_gc(lambda states: states.update_service(service_id, ttl_s, safe_point, now_s))

    def _change_gc(self, change: Callable[[GcStates], _T]) -> _T:
        before = self._gc.dump()
        states = GcStates.load(before)
        result = change(states)
        after = states.dump()
        if after != before:
            self._storage.write({keys.GC_KEY: after}, sync=True)
            self._gc = states
        return result


def _load_number(data: bytes | None) -> int:
    return int.from_bytes(data, "big") if data else 0


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _check_ranges(ranges: Sequence[tuple[bytes, bytes]]) -> None:
    previous_end: bytes | None = None
    for start_key, end_key in ranges:
        # An end of b"" means infinity: nothing may follow it.
        if previous_end is not None and (not previous_end or start_key < previous_end):
            raise PdError("invalid key range, ranges overlapped", type=pdpb.UNKNOWN)
        if end_key and start_key > end_key:
            raise PdError("invalid key range, start key > end key", type=pdpb.UNKNOWN)
        previous_end = end_key


def _check_gaps(regions: Sequence[RegionInfo], start_key: bytes, end_key: bytes, *, complete: bool) -> None:
    position = start_key
    for region in regions:
        if region.meta.start_key > position:
            raise _gap(position, region.meta.start_key)
        position = region.meta.end_key
        if not position:
            return
    if complete and (not end_key or position < end_key):
        raise _gap(position, end_key)


def _gap(start_key: bytes, end_key: bytes) -> PdError:
    text = f"no region holds [{start_key.hex()}, {end_key.hex()})"
    return PdError(text, type=pdpb.REGIONS_NOT_CONTAIN_ALL_KEY_RANGE)
