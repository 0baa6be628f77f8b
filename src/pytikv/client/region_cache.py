"""The regions this client knows, ordered by start key: what finds the replica for a key in about a microsecond.

Keys are in *region form* throughout (codec.api), the form that PD keeps borders in. So one cache serves raw and
transactional keys, and every API version, of one cluster; the caller encodes.

**Shape.** A two-level sorted list: chunks of at most 64 regions, found by the separators before them. A chunk and the
separators are never changed once published: a writer builds the new chunk and puts it in place with one store. So any
number of threads reads without a lock while one writes; writers exclude each other. An insert copies one chunk (a few
microseconds), and once in some hundred also the separators.

**Epochs.** A region is taken only if it is not older than what it would push out: not of a lower version than any
region it overlaps, not of a lower version or conf_ver than a region of the same id. What it overlaps is dropped.

**Life.** `locate` finds valid regions only. A region expires 600 s (and up to 60 s of jitter) after it was last used;
one with a down peer does so after it was loaded, so that the peer's return is seen. `invalidate` takes it out of use at
once but keeps it in place for 10 s as a guard: an answer of PD that is older than what is known to be outdated must not
come back. Expired regions are removed by later inserts, a chunk for every 16 of them: an idle client does nothing.

**Bound.** `max_regions` (2^20; a region takes about a kilobyte): past it the chunk under the sweeping hand is emptied.

Times are given by the caller (`now`, a value of `rt.now()`). Borders: `[start_key, end_key)`, `b""` unbounded.

Source: client-go internal/locate/region_cache.go for the times and the rules of insertion.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from pytikv.client.store_cache import CachedStore
from pytikv.rt.locks import mutex
from pytikv.types import Peer, Region

__all__ = ["CachedRegion", "RegionCache", "Route"]

TTL_S: Final = 600.0
JITTER_S: Final = 60.0
GUARD_S: Final = 10.0
MAX_REGIONS: Final = 1 << 20
_CHUNK: Final = 64
_SWEEP_EVERY: Final = 16  # a growing cache splits a chunk every 32 inserts: the hand must outrun that
_SECONDS_KEPT: Final = 4096
_NEVER: Final = float("-inf")


class Route:
    """One replica of a region as requests go to it: the peer, its store, and the request contexts made for it so far.

    `contexts` belongs to the request sender: encoded kvrpcpb.Context bytes by whatever options they depend on.
    """

    __slots__ = ("contexts", "peer", "store")

    def __init__(self, peer: Peer, store: CachedStore) -> None:
        self.peer = peer
        self.store = store
        self.contexts: dict[Any, bytes] = {}

    def __repr__(self) -> str:
        return f"Route(peer {self.peer.id} on store {self.store.id} at {self.store.address!r})"


class CachedRegion:
    """A region in the cache. `leader` changes, and `valid` may turn False; the rest stays as loaded.

    A new epoch is a new object, so a caller may hold on to one for the length of a request.
    """

    __slots__ = (
        "end_key",
        "expires_at",
        "guard_until",
        "id",
        "leader",
        "meta",
        "renew_at",
        "routes",
        "start_key",
        "valid",
    )

    def __init__(self, meta: Region, routes: tuple[Route, ...], leader: Route) -> None:
        self.id = meta.id
        self.start_key = meta.start_key
        self.end_key = meta.end_key
        self.meta = meta
        """The region as PD or a store described it; its `leader` is that of the time of loading."""
        self.routes = routes
        """One for each peer, in the order of `meta.peers`."""
        self.leader = leader
        """The route to the leader, as far as is known; one of `routes`."""
        self.valid = True
        self.expires_at = _NEVER
        self.renew_at = _NEVER
        self.guard_until = _NEVER

    def contains(self, key: bytes) -> bool:
        """Tell whether `key` (region form) lies in the region."""
        return self.start_key <= key and (not self.end_key or key < self.end_key)

    def contains_end(self, key: bytes) -> bool:
        """Tell whether the keys just below `key` (`b""`: the very last) lie in the region."""
        if not key:
            return not self.end_key
        return self.start_key < key and (not self.end_key or key <= self.end_key)

    def route_to(self, store_id: int) -> Route | None:
        """Return the route to the replica on a store."""
        return next((route for route in self.routes if route.peer.store_id == store_id), None)

    @property
    def epoch(self) -> tuple[int, int]:
        """`(version, conf_ver)`."""
        return self.meta.version, self.meta.conf_ver

    def __repr__(self) -> str:
        return (
            f"CachedRegion({self.id}, version={self.meta.version}, conf_ver={self.meta.conf_ver}, valid={self.valid})"
        )


_Chunk = tuple[tuple[bytes, ...], tuple[CachedRegion, ...]]
_Index = tuple[list[bytes], list[_Chunk]]


class RegionCache:
    """The ordered cache; see the module's docstring for shape and rules. Safe for many threads."""

    def __init__(
        self,
        store_of: Callable[[int], CachedStore],
        rng: random.Random,
        *,
        ttl_s: float = TTL_S,
        max_regions: int = MAX_REGIONS,
    ) -> None:
        self._store_of = store_of
        self._rng = rng
        self._max_regions = max_regions
        self._ttl_s = ttl_s
        self._lock = mutex()
        self._by_id: dict[int, CachedRegion] = {}
        # Separator i is at or below every start key of chunk i and above every one of chunk i - 1; the first is b"".
        self._index: _Index = ([b""], [((), ())])
        self._hand = 0
        self._inserts = 0
        self._seconds: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[CachedRegion]:
        """Walk over all entries in key order, invalid and expired ones too; safe beside writers."""
        for _, regions in self._index[1]:
            yield from regions

    # --- reading ------------------------------------------------------------------------------------------------------

    def locate(self, key: bytes, now: float) -> CachedRegion | None:
        """Return the valid region that holds `key`, and count that as a use of it; None when it must be loaded."""
        separators, chunks = self._index
        at = bisect_right(separators, key) - 1
        starts, regions = chunks[at]
        position = bisect_right(starts, key) - 1
        region = regions[position] if position >= 0 else self._last_before(chunks, at)
        if region is None or (region.end_key and key >= region.end_key):
            return None
        if now >= region.renew_at and not self._renew(region, now):
            return None
        return region

    def locate_end(self, key: bytes, now: float) -> CachedRegion | None:
        """Return the valid region that holds the keys just below `key` (`b""`: the very last); for reverse scans."""
        region = self._entry_before(key)
        if region is None or not region.contains_end(key):
            return None
        if now >= region.renew_at and not self._renew(region, now):
            return None
        return region

    def get(self, region_id: int) -> CachedRegion | None:
        """Return the entry with this id, valid or not."""
        return self._by_id.get(region_id)

    def replicas_of(self, region_id: int) -> int:
        """Return how many peers a region has; 1 for one that is not known."""
        region = self.get(region_id)
        return 1 if region is None else len(region.meta.peers)

    def hint(self, key: bytes, *, reverse: bool = False) -> CachedRegion | None:
        """Return the entry that covers `key`, even an outdated one: callers in want of one region share it."""
        if reverse:
            region = self._entry_before(key)
            return region if region is not None and region.contains_end(key) else None
        separators, chunks = self._index
        at = bisect_right(separators, key) - 1
        starts, regions = chunks[at]
        position = bisect_right(starts, key) - 1
        region = regions[position] if position >= 0 else self._last_before(chunks, at)
        return region if region is not None and region.contains(key) else None

    def _entry_before(self, key: bytes) -> CachedRegion | None:
        """Return the entry with the greatest start key below `key`; `b""` is above all keys."""
        separators, chunks = self._index
        if not key:
            return self._last_before(chunks, len(chunks))
        at = max(bisect_left(separators, key) - 1, 0)
        starts, regions = chunks[at]
        position = bisect_left(starts, key) - 1
        return regions[position] if position >= 0 else self._last_before(chunks, at)

    @staticmethod
    def _last_before(chunks: list[_Chunk], at: int) -> CachedRegion | None:
        for i in range(at - 1, -1, -1):
            regions = chunks[i][1]
            if regions:
                return regions[-1]
        return None

    def _renew(self, region: CachedRegion, now: float) -> bool:
        """Tell whether the region is still good, and push its expiry out if so."""
        if not region.valid or now >= region.expires_at:
            return False
        if not region.meta.down_peer_ids:
            self._set_expiry(region, now)
            if not region.valid:  # invalidated by another thread in this moment: let no look-up find it
                region.renew_at = region.expires_at = _NEVER
                return False
        return True

    def _set_expiry(self, region: CachedRegion, now: float) -> None:
        # Renewing costs a little, so it is done at most once per jitter and region, not at each use.
        jitter_s = self._rng.random() * JITTER_S
        region.expires_at = self._shared(now + self._ttl_s + jitter_s)
        region.renew_at = self._shared(now + jitter_s if not region.meta.down_peer_ids else now + self._ttl_s)

    def _shared(self, when: float) -> float:
        """Return the object for a time, to the second: regions that share it spare look-ups a wait for memory."""
        second = int(when)
        shared = self._seconds.get(second)
        if shared is None:
            if len(self._seconds) > _SECONDS_KEPT:
                self._seconds = {}
            shared = self._seconds[second] = float(second)
        return shared

    # --- writing ------------------------------------------------------------------------------------------------------

    def insert(self, meta: Region, now: float, *, leader_store_id: int | None = None) -> CachedRegion | None:
        """Take in a region, dropping what it overlaps. None when it is older than what is known, or has no peers.

        `leader_store_id` names the store to be taken for the leader's where `meta.leader` is None.
        """
        region = self._build(meta, leader_store_id)
        if region is None:
            return None
        with self._lock:
            low, high = self._overlapping(meta.start_key, meta.end_key)
            old = list(self._between(low, high))
            same = self._by_id.get(meta.id)
            if any(_is_newer(entry, meta, now) for entry in old) or (same is not None and _is_newer(same, meta, now)):
                return None
            for entry in old:
                self._drop(entry)
            self._set_expiry(region, now)
            self._splice(low, high, region)
            if same is not None and self._by_id.get(meta.id) is same:
                self._remove(same)  # the same region at a far range of long ago
            self._by_id[meta.id] = region
            self._inserts += 1
            if self._inserts % _SWEEP_EVERY == 0 or len(self._by_id) > self._max_regions:
                self._sweep(now, keep=region)
        return region

    def insert_all(self, metas: Iterable[Region], now: float) -> list[CachedRegion]:
        """Take in several regions; those refused are left out of the answer."""
        return [region for meta in metas if (region := self.insert(meta, now)) is not None]

    def invalidate(self, region: CachedRegion, now: float) -> None:
        """Take a region out of use; the next look-up loads it anew."""
        region.guard_until = now + GUARD_S
        region.valid = False
        region.renew_at = region.expires_at = _NEVER

    def switch_leader(self, region: CachedRegion, peer: Peer, now: float) -> bool:
        """Follow a NotLeader hint. False, and the region is invalidated, when the peer is not known to it."""
        for route in region.routes:
            if route.peer.id == peer.id and route.peer.store_id == peer.store_id:
                region.leader = route
                return True
        self.invalidate(region, now)
        return False

    def apply_epoch_not_match(self, region: CachedRegion, current: Sequence[Region], store_id: int, now: float) -> bool:
        """Take in the regions that came with EpochNotMatch from the store `store_id`.

        True: the store is behind, what is cached is newer than its answer and stays; wait and ask again. False: the
        cache was mended, `region` is out of use: locate the keys anew.
        """
        if any(meta.id == region.id and _older(meta, region.meta) for meta in current):
            return True
        for meta in current:
            self.insert(meta, now, leader_store_id=store_id)
        if region.valid:
            self.invalidate(region, now)
        return False

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            for entry in self._by_id.values():
                entry.valid = False
                entry.renew_at = entry.expires_at = _NEVER
            self._by_id = {}
            self._index = ([b""], [((), ())])

    def _build(self, meta: Region, leader_store_id: int | None) -> CachedRegion | None:
        routes = tuple(Route(peer, self._store_of(peer.store_id)) for peer in meta.peers)
        if not routes:
            return None
        wanted = meta.leader.store_id if meta.leader is not None else leader_store_id
        leader = next((route for route in routes if route.peer.store_id == wanted), None)
        return CachedRegion(meta, routes, leader or min(routes, key=lambda route: _unfitness(route, meta)))

    # --- positions: (chunk, place in it); all with the lock held ------------------------------------------------------

    def _overlapping(self, start_key: bytes, end_key: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the position of the first entry that overlaps the range, and the one after the last that does."""
        separators, chunks = self._index
        at = bisect_right(separators, start_key) - 1
        place = bisect_right(chunks[at][0], start_key) - 1
        while place < 0 and at > 0:
            at -= 1
            place = len(chunks[at][1]) - 1
        low = (at, max(place, 0))
        if place >= 0:
            end = chunks[at][1][place].end_key
            if end and end <= start_key:
                low = (at, place + 1)
        if not end_key:
            return low, (len(chunks) - 1, len(chunks[-1][1]))
        at = max(bisect_left(separators, end_key) - 1, 0)
        return low, max(low, (at, bisect_left(chunks[at][0], end_key)))

    def _between(self, low: tuple[int, int], high: tuple[int, int]) -> Iterator[CachedRegion]:
        chunks = self._index[1]
        for at in range(low[0], high[0] + 1):
            regions = chunks[at][1]
            yield from regions[low[1] if at == low[0] else 0 : high[1] if at == high[0] else len(regions)]

    def _splice(self, low: tuple[int, int], high: tuple[int, int], region: CachedRegion | None) -> None:
        """Put `region` in the place of the entries between two positions."""
        separators, chunks = self._index
        first_starts, first_regions = chunks[low[0]]
        last_starts, last_regions = chunks[high[0]]
        regions, starts = last_regions[high[1] :], last_starts[high[1] :]
        if region is not None:
            regions, starts = (region, *regions), (region.start_key, *starts)
        regions, starts = first_regions[: low[1]] + regions, first_starts[: low[1]] + starts
        stays_sorted = not regions or low[0] + 1 == len(separators) or starts[-1] < separators[low[0] + 1]
        if low[0] == high[0] and len(regions) <= _CHUNK and stays_sorted and (regions or len(chunks) == 1):
            chunks[low[0]] = (starts, regions)  # one store: a reader sees the old chunk or the new one
            return
        size = len(regions) if len(regions) <= _CHUNK else _CHUNK // 2
        made = [_packed(regions[i : i + size]) for i in range(0, len(regions), size or 1)]
        marks = [separators[low[0]], *(chunk[0][0] for chunk in made[1:])][: len(made)]
        separators = [*separators[: low[0]], *marks, *separators[high[0] + 1 :]]
        chunks = [*chunks[: low[0]], *made, *chunks[high[0] + 1 :]]
        if not chunks:
            separators, chunks = [b""], [((), ())]
        separators[0] = b""
        self._index = (separators, chunks)

    def _drop(self, entry: CachedRegion) -> None:
        entry.valid = False
        entry.renew_at = entry.expires_at = _NEVER
        if self._by_id.get(entry.id) is entry:
            del self._by_id[entry.id]

    def _remove(self, entry: CachedRegion) -> None:
        separators, chunks = self._index
        self._drop(entry)
        at = bisect_right(separators, entry.start_key) - 1
        place = bisect_left(chunks[at][0], entry.start_key)
        if place < len(chunks[at][1]) and chunks[at][1][place] is entry:
            self._splice((at, place), (at, place + 1), None)

    def _sweep(self, now: float, *, keep: CachedRegion) -> None:
        """Remove what expired from the chunk under the hand, or all of it when the cache is over its bound."""
        chunks = self._index[1]
        self._hand = (self._hand + 1) % len(chunks)
        regions = chunks[self._hand][1]
        evict = len(self._by_id) > self._max_regions
        kept: list[CachedRegion] = []
        for entry in regions:
            if entry is keep or (not evict and (now < entry.expires_at or now < entry.guard_until)):
                kept.append(entry)
            else:
                self._drop(entry)
        if kept or len(chunks) == 1:
            chunks[self._hand] = _packed(kept)
        else:
            self._splice((self._hand, 0), (self._hand, len(regions)), None)


def _packed(regions: Sequence[CachedRegion]) -> _Chunk:
    """Make a chunk with copies of its keys: made in one go, they lie side by side.

    At 10^6 regions a look-up waits for memory most of the time; keys on few pages instead of many help.
    """
    return tuple([bytes(bytearray(region.start_key)) for region in regions]), tuple(regions)


def _older(meta: Region, than: Region) -> bool:
    return meta.version < than.version or meta.conf_ver < than.conf_ver


def _is_newer(entry: CachedRegion, meta: Region, now: float) -> bool:
    """Tell whether `entry` keeps `meta` out: it is in use or guards its place, and knows a later epoch."""
    if now >= entry.expires_at and now >= entry.guard_until:
        return False
    if entry.id == meta.id:
        return _older(meta, entry.meta)
    return meta.version < entry.meta.version


def _unfitness(route: Route, meta: Region) -> int:
    """Rank the peers by how unlikely each is to lead, for a region that came without its leader."""
    peer = route.peer
    return (
        8 * peer.is_witness
        + 4 * (peer.role == 1)  # a learner
        + 2 * (peer.id in meta.down_peer_ids or route.store.is_tombstone)
        + (peer.id in meta.pending_peer_ids)
    )
