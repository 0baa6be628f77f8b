"""PD as an object: what a store in the same process calls, and what the gRPC and HTTP services show.

Parts, each with its own state: `oracle` (timestamps), `regions`, `stores`, `keyspaces`, `resource_groups`, the GC
states and the ids.
Every change goes through one mutex, `_writer`, which is held while the storage writes: changes reach the disk and the
memory in the same order, and memory never shows what the disk refused (regions excepted, which only copy what stores
report). Reading never waits for the disk.

Durable at return: cluster id, bootstrap, stores, ids, timestamps' bound, keyspaces, GC states, settings of resource
groups.

All methods may be called from any thread. Those that write the disk say so; a loop calls them through `run_blocking`.
Sources: PD server/cluster, pkg/tso, pkg/id; kvproto pdpb for the messages.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from pytikv.errors import StorageError
from pytikv.proto import keyspacepb_pb2 as keyspacepb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.locks import mutex
from pytikv.server.pd import storage as keys
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.gc import Advance, Barrier, GcStates, ServiceSafePoint
from pytikv.server.pd.ids import IdAllocator
from pytikv.server.pd.keyspaces import DEFAULT_KEYSPACE, Keyspaces
from pytikv.server.pd.oracle import TimestampOracle
from pytikv.server.pd.region_map import RegionMap
from pytikv.server.pd.regions import RegionInfo
from pytikv.server.pd.resource_groups import ResourceGroups
from pytikv.server.pd.storage import MetaStorage, load_number, u64_key
from pytikv.server.pd.stores import StoreTable
from pytikv.types import Timestamp

__all__ = ["PdConfig", "PdServer"]

_FORMAT: Final = 1
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


class PdServer:
    """One PD. `time` is the wall clock (Unix seconds), `getrandbits` a source for ids. Reads `storage` at once.

    Raises StorageError when the storage was written by a newer version, PdError for a bad name in `config.keyspaces`,
    and what the storage raises.
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
        self.started_at_s = time()
        self._cluster = self._load_cluster(getrandbits)
        self.oracle = TimestampOracle(storage, self._writer, time)
        self.stores = StoreTable(storage, self._writer, time)
        self.regions = RegionMap(storage, self._writer)
        self._ids = IdAllocator(load_number(storage.get(keys.ID_KEY)))
        self._gc = GcStates.load(storage.get(keys.GC_KEY))
        self.region_heartbeats: Counter[int] = Counter()
        """By store: how many reports of regions it has sent."""
        self.resource_groups = ResourceGroups(storage, self._writer, time)
        self.keyspaces = Keyspaces()
        self._load_keyspaces()

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

    def _load_keyspaces(self) -> None:
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

    # --- what a store calls -------------------------------------------------------------------------------------------

    def get_ts(self, count: int = 1) -> Timestamp:
        """Take `count` timestamps (1 to 2^18 - 1); return the last. Writes the disk about every 1.5 s of use."""
        return self.oracle.get(count)

    def alloc_id(self, count: int = 1) -> int:
        """Take `count` consecutive ids; return the last. Writes the disk once in 1000 ids."""
        with self._writer:
            end = self._ids.needs_end(count)
            if end is not None:
                self._storage.write({keys.ID_KEY: end.to_bytes(8, "big")}, sync=True)
                self._ids.end_saved(end)
            return self._ids.allocate(count)

    @property
    def last_id(self) -> int:
        """The last id that was given out."""
        return self._ids.last

    def bootstrap(self, store: metapb.Store, region: metapb.Region) -> None:
        """Give the cluster its first store and region. Writes the disk. Raises PdError ALREADY_BOOTSTRAPPED.

        The messages are kept: the caller must not change them afterwards.
        """
        with self._writer:
            if self.is_bootstrapped:
                raise PdError("cluster is already bootstrapped", type=pdpb.ALREADY_BOOTSTRAPPED)
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
            self.stores.add_first(store)
            self.regions.add_first(region)

    def put_store(self, store: metapb.Store) -> None:
        """Register a store or take in its new addresses, labels and version. Writes the disk. Raises PdError."""
        self.stores.put(store)

    def store_heartbeat(self, stats: pdpb.StoreStats) -> None:
        """Take in a store's statistics. Raises PdError for a store that is unknown or a tombstone."""
        self.stores.heartbeat(stats)

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
        if leader is not None:
            self.region_heartbeats[leader.store_id] += 1
        peers = tuple(down_peers), tuple(pending_peers)
        self.regions.report(RegionInfo(region, leader, *peers, approximate_size_mib, approximate_keys, term))

    def ask_batch_split(self, region: metapb.Region, count: int) -> list[tuple[int, list[int]]]:
        """Return ids for `count` regions split off `region`: a region id, and a peer id for each of its peers."""
        each = 1 + len(region.peers)
        first = self.alloc_id(count * each) - count * each + 1
        return [(i, list(range(i + 1, i + each))) for i in range(first, first + count * each, each)]

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

    @property
    def gc_safe_point(self) -> int:
        """The GC safe point."""
        return self._gc.gc_safe_point

    def update_gc_safe_point(self, safe_point: int) -> int:
        """Raise the GC safe point; return the present one. Writes the disk. Raises PdError above the txn safe point."""
        return self._change_gc(lambda states: states.update_gc_safe_point(safe_point))

    def update_service_gc_safe_point(self, service_id: str, ttl_s: int, safe_point: int) -> ServiceSafePoint:
        """Set or remove what a service holds back. Writes the disk. Raises PdError for what PD refuses."""
        now_s = int(self._time())
        return self._change_gc(lambda states: states.update_service(service_id, ttl_s, safe_point, now_s))

    def advance_txn_safe_point(self, target: int) -> Advance:
        """Raise the txn safe point as far as barriers allow. Writes the disk. Raises PdError for a lower target."""
        now_s = int(self._time())
        return self._change_gc(lambda states: states.advance_txn_safe_point(target, now_s))

    def advance_gc_safe_point(self, target: int) -> Advance:
        """Raise the GC safe point. Writes the disk. Raises PdError: lower, or above the txn safe point."""
        return self._change_gc(lambda states: states.advance_gc_safe_point(target))

    def set_gc_barrier(self, barrier_id: str, ts: int, ttl_s: int) -> Barrier:
        """Set or move a barrier. Writes the disk. Raises PdError for what PD refuses."""
        now_s = int(self._time())
        return self._change_gc(lambda states: states.set_barrier(barrier_id, ts, ttl_s, now_s))

    def delete_gc_barrier(self, barrier_id: str) -> Barrier | None:
        """Remove a barrier and return it, None if there is none. Writes the disk. Raises PdError."""
        now_s = int(self._time())
        return self._change_gc(lambda states: states.delete_barrier(barrier_id, now_s))

    def _change_gc(self, change: Callable[[GcStates], _T]) -> _T:
        with self._writer:
            before = self._gc.dump()
            states = GcStates.load(before)  # a copy: the change must reach the disk before anyone sees it
            result = change(states)
            after = states.dump()
            if after != before:
                self._storage.write({keys.GC_KEY: after}, sync=True)
                self._gc = states
            return result
