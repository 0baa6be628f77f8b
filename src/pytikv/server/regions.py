"""The regions of a store: who holds which keys, whether a request may touch them, and how one is split.

`RegionTable` is ordered by start key and covers what the store has; with one store that is everything. A region's
metadata is a `metapb.Region` that is never changed: a split replaces it. All tables are replaced together, so that
readers need no lock.

*Checking a request's context*, in TiKV's order, each failure its own kind of region error: no or another store
(store_not_match), no such region (region_not_found), another peer (mismatch_peer_id), an old term (stale_command;
term 0 is unknown and a term one behind is taken), another version in the epoch (epoch_not_match, with the regions that
lie there now; conf_ver is not compared). Contexts that passed are remembered by their bytes until the table changes,
because a client sends the same ones over and over. A replica of one's own is always its leader.

*Splitting*: the part on the right keeps the region's id, as TiKV does; new regions get ids from PD; every part gets the
same new version. The new metadata is durable before anyone sees it, then PD is told.

Sources: TiKV components/raftstore/src/store/{util,peer,fsm/apply}.rs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from pytikv.proto import errorpb_pb2 as errorpb
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import metapb_pb2 as metapb
from pytikv.rt.locks import mutex
from pytikv.server.engine.interface import Engine
from pytikv.server.engine.meta import EngineMeta
from pytikv.types import KeyRange

__all__ = ["Claim", "PdHandle", "RegionEntry", "RegionError", "RegionTable", "check_key_in_region"]

TERM: Final = 6
"""The term of every region: TiKV's first after its initial 5."""

_REGION_PREFIX: Final = b"store/region/"
_MAX_CLAIMS: Final = 4096


class RegionError(Exception):
    """A region error to answer with. Kind and content are in `error`."""

    def __init__(self, error: errorpb.Error) -> None:
        super().__init__(error.message)
        self.error = error


class PdHandle(Protocol):
    """What a store needs of PD (`pd.server.PdServer` in one process)."""

    def ask_batch_split(self, region: metapb.Region, count: int) -> list[tuple[int, list[int]]]:
        """Return ids for `count` new regions and for the peers of each."""
        ...

    def region_heartbeat(self, region: metapb.Region, leader: metapb.Peer | None) -> None:
        """Take in a region's metadata."""
        ...


class RegionEntry:
    """A region as the store keeps it: its metadata and what was written to it since it was last looked at."""

    __slots__ = ("bounds", "end_key", "id", "meta", "peer", "start_key", "version", "written_bytes", "written_keys")

    def __init__(self, meta: metapb.Region, store_id: int) -> None:
        self.meta = meta
        self.id: int = meta.id
        self.start_key: bytes = meta.start_key
        self.end_key: bytes = meta.end_key
        self.bounds = KeyRange(meta.start_key, meta.end_key)
        self.version: int = meta.region_epoch.version
        self.peer = next(peer for peer in meta.peers if peer.store_id == store_id)
        self.written_bytes = 0
        self.written_keys = 0

    def contains(self, key: bytes) -> bool:
        """Tell whether a region key lies in the region."""
        return self.start_key <= key and (not self.end_key or key < self.end_key)


class Claim:
    """A request's context after the check: its region and what else the storage asks of it."""

    __slots__ = ("api_version", "limit_s", "region")

    def __init__(self, region: RegionEntry, api_version: int, limit_s: float = 0.0) -> None:
        self.region = region
        self.api_version = api_version
        self.limit_s = limit_s
        """How long after its arrival the request may be carried out; 0: at any time."""


def check_key_in_region(region: RegionEntry, key: bytes) -> None:
    """Raise RegionError key_not_in_region for a region key that lies outside."""
    if not region.contains(key):
        error = errorpb.Error(message=f"key is not in region {region.id}")
        error.key_not_in_region.key = key
        error.key_not_in_region.region_id = region.id
        error.key_not_in_region.start_key = region.start_key
        error.key_not_in_region.end_key = region.end_key
        raise RegionError(error)


class RegionTable:
    """The regions of one store. Reading is safe from any thread; `split` takes one at a time."""

    def __init__(self, engine: Engine, store_id: int, regions: Iterable[metapb.Region]) -> None:
        self._meta = EngineMeta(engine)
        self._store_id = store_id
        self._splitting = mutex()
        self.splits_tried = self.splits_done = 0
        self._install(RegionEntry(region, store_id) for region in regions)

    @classmethod
    def load(cls, engine: Engine, store_id: int) -> RegionTable:
        """Return the table that is on disk."""
        stored = EngineMeta(engine).scan(_REGION_PREFIX)
        return cls(engine, store_id, (metapb.Region.FromString(data) for _, data in stored))

    @staticmethod
    def record(region: metapb.Region) -> tuple[bytes, bytes]:
        """Return the pair by which the column family ``meta`` keeps a region."""
        return _region_key(region.id), region.SerializeToString()

    def _install(self, entries: Iterable[RegionEntry]) -> None:
        self.entries = sorted(entries, key=lambda entry: entry.start_key)
        self._starts = [entry.start_key for entry in self.entries]
        self._by_id = {entry.id: entry for entry in self.entries}
        self._claims: dict[bytes, Claim] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def search(self, key: bytes) -> RegionEntry | None:
        """Return the region that holds a region key."""
        at = bisect_right(self._starts, key) - 1
        return self.entries[at] if at >= 0 and self.entries[at].contains(key) else None

    # --- checking -----------------------------------------------------------------------------------------------------

    def remembered(self, context: bytes) -> Claim | None:
        """Return the claim of a serialized context that has passed all checks since the table changed."""
        return self._claims.get(context)

    def remember(self, context: bytes, claim: Claim) -> None:
        """Note that a serialized context has passed all checks."""
        claims = self._claims
        if self._by_id.get(claim.region.id) is claim.region:  # a split on another thread may have come in between
            if len(claims) >= _MAX_CLAIMS:
                claims.clear()
            claims[context] = claim

    def check(self, context: kvrpcpb.Context) -> Claim:
        """Check a context. Raises RegionError."""
        peer = context.peer
        if peer.store_id != self._store_id:
            error = errorpb.Error(message="store not match")
            error.store_not_match.request_store_id = peer.store_id
            error.store_not_match.actual_store_id = self._store_id
            raise RegionError(error)
        region = self._by_id.get(context.region_id)
        if region is None:
            error = errorpb.Error(message=f"region {context.region_id} is missing")
            error.region_not_found.region_id = context.region_id
            raise RegionError(error)
        if peer.id != region.peer.id:
            error = errorpb.Error(message="mismatch peer id")
            error.mismatch_peer_id.request_peer_id = peer.id
            error.mismatch_peer_id.store_peer_id = region.peer.id
            raise RegionError(error)
        if context.term and context.term + 1 < TERM:
            error = errorpb.Error(message="stale command")
            error.stale_command.SetInParent()
            raise RegionError(error)
        if context.region_epoch.version != region.version:
            raise RegionError(self._epoch_not_match(region))
        return Claim(region, context.api_version, context.max_execution_duration_ms / 1000)

    def _epoch_not_match(self, region: RegionEntry) -> errorpb.Error:
        """Tell the region as it is now, and its neighbour on the left: what a split took off it lies there."""
        error = errorpb.Error(message=f"epoch of region {region.id} does not match")
        error.epoch_not_match.current_regions.append(region.meta)
        at = bisect_right(self._starts, region.start_key) - 1
        if at > 0:
            error.epoch_not_match.current_regions.append(self.entries[at - 1].meta)
        return error

    # --- splitting ----------------------------------------------------------------------------------------------------

    def split(self, region: RegionEntry, keys: Sequence[bytes], pd: PdHandle) -> list[metapb.Region]:
        """Split `region` at region keys (any order) and return the parts from left to right. Writes the disk.

        Raises RegionError: with a message only for keys at which it cannot be split, epoch_not_match when it has
        changed since it was looked up.
        """
        keys = sorted(keys)
        with self._splitting:
            self.splits_tried += 1
            if self._by_id.get(region.id) is not region:
                present = self._by_id.get(region.id)
                raise RegionError(self._epoch_not_match(present or region))
            _check_split(region, keys)
            parts = self._parts(region.meta, keys, pd.ask_batch_split(region.meta, len(keys)))
            self._meta.write(dict(map(self.record, parts)), sync=True)
            others = (entry for entry in self.entries if entry.id != region.id)
            self._install([*others, *(RegionEntry(part, self._store_id) for part in parts)])
            self.splits_done += 1
        for part in parts:
            pd.region_heartbeat(part, self._by_id[part.id].peer)
        return parts

    @staticmethod
    def _parts(region: metapb.Region, keys: list[bytes], ids: list[tuple[int, list[int]]]) -> list[metapb.Region]:
        borders = [region.start_key, *keys, region.end_key]
        parts = []
        for i in range(len(keys) + 1):
            part = metapb.Region()
            part.CopyFrom(region)
            part.start_key, part.end_key = borders[i], borders[i + 1]
            part.region_epoch.version = region.region_epoch.version + len(keys)
            if i < len(keys):
                part.id, peer_ids = ids[i]
                for peer, peer_id in zip(part.peers, peer_ids, strict=True):
                    peer.id = peer_id
            parts.append(part)
        return parts

    def report_all(self, pd: PdHandle) -> None:
        """Tell PD of every region, as after a start."""
        for entry in self.entries:
            pd.region_heartbeat(entry.meta, entry.peer)


def _region_key(region_id: int) -> bytes:
    return _REGION_PREFIX + region_id.to_bytes(8, "big")


def _check_split(region: RegionEntry, keys: list[bytes]) -> None:
    if not keys:
        raise RegionError(errorpb.Error(message=f"[region {region.id}] no split key is specified."))
    previous = region.start_key
    for key in keys:
        if not key:
            raise RegionError(errorpb.Error(message=f"[region {region.id}] split key should not be empty"))
        if key <= previous or not region.contains(key):
            raise RegionError(errorpb.Error(message=f"[region {region.id}] invalid split key"))
        previous = key
