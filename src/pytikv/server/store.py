"""A store: its engine, its identity, its regions and the commands on them.

Opening one compares the directory with the API version asked for, then takes the identity from it, or makes a new one:
ids from PD, one region over all keys, written before PD is told of them (`bootstrap` is then repeated after a crash in
between). The store tells PD its regions at every start and after every split.

`SplitChecker` splits what has grown: writes are counted per region, and a region that took in a sixteenth of the limit
since it was last looked at is measured, a bounded number of keys at a time, over ``default`` and ``write``. Versions of
one key stay together: what looks like an encoded key with a timestamp is cut before its first version, raw or not.

Source: TiKV components/server node.rs (bootstrap), raftstore coprocessor/split_check.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable
from typing import Final, Protocol

from pytikv.codec import memcomparable
from pytikv.errors import StorageError
from pytikv.proto import metapb_pb2 as metapb
from pytikv.server.engine.interface import CF_DEFAULT, CF_WRITE, Engine
from pytikv.server.engine.meta import EngineMeta, check_format
from pytikv.server.mvcc.keys import TS_BYTES
from pytikv.server.regions import PdHandle, RegionEntry, RegionError, RegionTable
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.storage.causal_ts import CausalTs
from pytikv.server.storage.raw import RawStorage, open_raw
from pytikv.server.storage.txn_storage import TxnStorage

__all__ = ["SplitChecker", "SplitLimits", "Store", "StorePd", "open_store"]

_STORE_ID_KEY: Final = b"store/id"
_CAUSAL_BLOCK: Final = 256
_WATCH_SHARE: Final = 16
_STEP_KEYS: Final = 4096


class StorePd(PdHandle, Protocol):
    """What opening a store needs of PD, beside what its regions need."""

    @property
    def cluster_id(self) -> int:
        """The cluster's id."""
        ...

    @property
    def is_bootstrapped(self) -> bool:
        """Whether the cluster has its first store."""
        ...

    @property
    def gc_safe_point(self) -> int:
        """Versions below this timestamp may be removed."""
        ...

    def alloc_id(self) -> int:
        """Take an id."""
        ...

    def bootstrap(self, store: metapb.Store, region: metapb.Region) -> None:
        """Register the first store and region."""
        ...

    def put_store(self, store: metapb.Store) -> None:
        """Register a store, or its new address."""
        ...

    def get_ts(self, count: int) -> int:
        """Take `count` timestamps; return the last."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class SplitLimits:
    """When a region is split: over so many bytes of keys and values, or over so many keys."""

    size_bytes: int = 256 << 20
    keys: int = 2_560_000


@dataclasses.dataclass(frozen=True, slots=True)
class Store:
    """An open store. `close` is the engine's."""

    id: int
    cluster_id: int
    engine: Engine
    api_version: ApiVersion
    raw: RawStorage
    txn: TxnStorage
    regions: RegionTable
    pd: StorePd
    split_limits: SplitLimits

    def split(self, region: RegionEntry, keys: list[bytes]) -> list[metapb.Region]:
        """Split a region at region keys. Writes the disk. Raises RegionError."""
        return self.regions.split(region, keys, self.pd)


def open_store(
    engine: Engine,
    pd: StorePd,
    api_version: ApiVersion,
    *,
    meta: Callable[[int], metapb.Store],
    now_s: Callable[[], float],
    split_limits: SplitLimits | None = None,
) -> Store:
    """Open the store in `engine`, making it when it is new, and make it known to PD. Writes the disk.

    `meta(store_id)` is how the store presents itself; `now_s` the wall clock that TTLs count against. Raises
    ConfigError (another API version), StorageError.
    """
    check_format(engine, api_version.value)
    ident = EngineMeta(engine)
    stored = ident.get(_STORE_ID_KEY)
    if stored is not None:
        store_id = int(stored)
    elif pd.is_bootstrapped:
        raise StorageError(f"{engine.path or 'the store'} is empty, but PD knows of another store")
    else:
        store_id = pd.alloc_id()
        key, record = RegionTable.record(_first_region(store_id, pd.alloc_id(), pd.alloc_id()))
        ident.write({key: record, _STORE_ID_KEY: b"%d" % store_id}, sync=True)
    regions = RegionTable.load(engine, store_id)
    if pd.is_bootstrapped:
        pd.put_store(meta(store_id))
    else:
        first = metapb.Region()
        first.CopyFrom(regions.entries[0].meta)
        pd.bootstrap(meta(store_id), first)
    regions.report_all(pd)
    raw = open_raw(engine, api_version, now_s=now_s, causal_ts=CausalTs(pd.get_ts, _CAUSAL_BLOCK))
    txn = TxnStorage(engine, api_version, now_s=now_s, current_ts=lambda: pd.get_ts(1))
    return Store(store_id, pd.cluster_id, engine, api_version, raw, txn, regions, pd, split_limits or SplitLimits())


def _first_region(store_id: int, region_id: int, peer_id: int) -> metapb.Region:
    return metapb.Region(
        id=region_id,
        region_epoch=metapb.RegionEpoch(conf_ver=1, version=1),
        peers=[metapb.Peer(id=peer_id, store_id=store_id)],
    )


class SplitChecker:
    """Looks for regions over the limits, in steps. `step` is for a background task, off the loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._region: RegionEntry | None = None
        self._position = b""
        self._bytes = self._keys = 0
        self._cuts: list[bytes] = []

    def due(self) -> bool:
        """Tell whether a region has taken in enough to be measured, or is being measured."""
        return self._region is not None or self._grown() is not None

    def _grown(self) -> RegionEntry | None:
        limits = self._store.split_limits
        for entry in self._store.regions.entries:
            if (
                entry.written_bytes * _WATCH_SHARE >= limits.size_bytes
                or entry.written_keys * _WATCH_SHARE >= limits.keys
            ):
                return entry
        return None

    def step(self) -> list[metapb.Region]:
        """Measure on, over some thousand keys; at a region's end split it if it must be. Returns the new parts."""
        region = self._region
        if region is None:
            region = self._grown()
            if region is None:
                return []
            self._begin(region)
        if self._measure(region):
            return []
        self._region = None
        cuts = self._cuts
        # A last part of less than half a limit is no region of its own.
        limits = self._store.split_limits
        if cuts and self._bytes * 2 < limits.size_bytes and self._keys * 2 < limits.keys:
            cuts.pop()
        try:
            return self._store.split(region, cuts) if cuts else []
        except RegionError:
            return []  # it was split by request meanwhile: its parts are looked at when they have grown

    def _begin(self, region: RegionEntry) -> None:
        region.written_bytes = region.written_keys = 0
        self._region = region
        self._position = region.start_key
        self._bytes = self._keys = 0
        self._cuts = []

    def _measure(self, region: RegionEntry) -> bool:
        """Count one step; False at the end of the region."""
        limits = self._store.split_limits
        left = _STEP_KEYS
        families = [self._store.engine.scan(cf, self._position, region.end_key) for cf in (CF_DEFAULT, CF_WRITE)]
        for key, value in heapq.merge(*families, key=lambda pair: pair[0]):
            if left == 0:
                self._position = key
                return True
            left -= 1
            if self._bytes >= limits.size_bytes or self._keys >= limits.keys:
                border = _border(key)
                if border > (self._cuts[-1] if self._cuts else region.start_key):
                    self._cuts.append(border)
                    self._bytes = self._keys = 0
            self._bytes += len(key) + len(value)
            self._keys += 1
        return False


def _border(stored: bytes) -> bytes:
    """Return the region key of a stored key: without the timestamp, where it looks like having one."""
    try:
        _, rest = memcomparable.decode(stored)
    except ValueError:
        return stored
    return stored[:-TS_BYTES] if len(rest) == TS_BYTES else stored
