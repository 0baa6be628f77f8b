"""The stores of a cluster: who they are, where they are, and when they were last heard of.

The table is replaced, never changed in place, so that readers need no lock. Metadata is durable when `put` returns;
heartbeats live in memory. Source: PD server/cluster/cluster.go `PutMetaStore`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager

from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.storage import STORE_PREFIX, MetaStorage, u64_key

__all__ = ["StoreInfo", "StoreTable"]


@dataclasses.dataclass(frozen=True, slots=True)
class StoreInfo:
    """A store: its metadata, its last heartbeat's statistics and when that came (Unix ns; 0: never in this life)."""

    meta: metapb.Store
    stats: pdpb.StoreStats | None = None
    last_heartbeat_ns: int = 0


class StoreTable:
    """Stores by id. Reads what `storage` has at once. `time`: Unix seconds."""

    def __init__(self, storage: MetaStorage, writer: AbstractContextManager[object], time: Callable[[], float]) -> None:
        self._storage = storage
        self._writer = writer
        self._time = time
        found = (metapb.Store.FromString(data) for _, data in storage.scan(STORE_PREFIX))
        self._stores = {store.id: StoreInfo(store) for store in found}

    def put(self, store: metapb.Store) -> None:
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
            merged = metapb.Store()
            merged.CopyFrom(store)
            merged.state = known.meta.state if known is not None else metapb.Up
            merged.node_state = known.meta.node_state if known is not None else metapb.Serving
            self._storage.write({u64_key(STORE_PREFIX, store.id): merged.SerializeToString()}, sync=True)
            last = known or StoreInfo(merged)
            self._stores = {**self._stores, store.id: dataclasses.replace(last, meta=merged)}

    def heartbeat(self, stats: pdpb.StoreStats) -> None:
        """Take in a store's statistics. Raises PdError for a store that is unknown or a tombstone."""
        with self._writer:
            known = self._stores.get(stats.store_id)
            if known is None:
                raise PdError(f"invalid store ID {stats.store_id}, not found", type=pdpb.UNKNOWN)
            if known.meta.state == metapb.Tombstone:
                raise PdError("store is tombstone", type=pdpb.STORE_TOMBSTONE)
            seen = dataclasses.replace(known, stats=stats, last_heartbeat_ns=int(self._time() * 1e9))
            self._stores = {**self._stores, stats.store_id: seen}

    def get(self, store_id: int) -> StoreInfo:
        """Return a store. Raises PdError whose text clients match."""
        store = self._stores.get(store_id)
        if store is None:
            raise PdError(f"invalid store ID {store_id}, not found", type=pdpb.UNKNOWN)
        return store

    def all(self, *, exclude_tombstones: bool = False) -> list[StoreInfo]:
        """Return all stores, ordered by id."""
        stores = [self._stores[store_id] for store_id in sorted(self._stores)]
        return [s for s in stores if not exclude_tombstones or s.meta.state != metapb.Tombstone]

    def add_first(self, store: metapb.Store) -> None:
        """Take in the store of the bootstrap, which is on disk already."""
        self._stores = {**self._stores, store.id: StoreInfo(store)}
