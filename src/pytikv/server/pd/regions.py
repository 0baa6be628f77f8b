"""The map of regions as PD knows it: ordered by start key, not overlapping, possibly with gaps.

What is known comes from the stores' reports. The epoch decides what is true: a report older than what it overlaps, or
than what is known of the same region, is refused; a newer one removes all that it overlaps (after a split or a merge
the neighbours report themselves). Source: PD pkg/core/region.go `check`, region_tree.go.

Two parallel lists sorted by start key (bisect) and a table by id; a look-up costs a microsecond at 10^6 regions, an
insertion moves pointers only. Limits: MAX_SCAN regions an answer. Pure; not safe for threads.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterator
from typing import Final

from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import pdpb_pb2 as pdpb

__all__ = ["MAX_SCAN", "RegionInfo", "RegionTree", "StaleRegion"]

MAX_SCAN: Final = 100_000
"""Most regions of one answer, whatever limit was asked for: about 10 MB on the wire."""


class StaleRegion(Exception):
    """A report that is older than what is known."""


@dataclasses.dataclass(slots=True)
class RegionInfo:
    """One region: its metadata and what its leader reported. Messages are never changed in place."""

    meta: metapb.Region
    leader: metapb.Peer | None = None
    down_peers: tuple[pdpb.PeerStats, ...] = ()
    pending_peers: tuple[metapb.Peer, ...] = ()
    approximate_size_mib: int = 0
    approximate_keys: int = 0
    term: int = 0

    def contains(self, key: bytes) -> bool:
        """Tell whether `key` lies in the region."""
        meta = self.meta
        return meta.start_key <= key and (not meta.end_key or key < meta.end_key)


class RegionTree:
    """Regions by key and by id."""

    def __init__(self) -> None:
        self._starts: list[bytes] = []
        self._regions: list[RegionInfo] = []
        self._by_id: dict[int, RegionInfo] = {}

    def __len__(self) -> int:
        return len(self._regions)

    def __iter__(self) -> Iterator[RegionInfo]:
        return iter(list(self._regions))

    def get(self, region_id: int) -> RegionInfo | None:
        """Return the region with that id."""
        return self._by_id.get(region_id)

    def search(self, key: bytes) -> RegionInfo | None:
        """Return the region that holds `key`; None in a gap."""
        index = bisect.bisect_right(self._starts, key) - 1
        if index < 0:
            return None
        region = self._regions[index]
        return region if region.contains(key) else None

    def search_prev(self, key: bytes) -> RegionInfo | None:
        """Return the region right before the one that holds `key`; None where either is missing."""
        current = self.search(key)
        if current is None:
            return None
        index = bisect.bisect_left(self._starts, current.meta.start_key) - 1
        if index < 0 or self._regions[index].meta.end_key != current.meta.start_key:
            return None
        return self._regions[index]

    def scan(self, start_key: bytes, end_key: bytes, limit: int) -> list[RegionInfo]:
        """Return regions in order that meet `[start_key, end_key)`, `limit` at most (0 or less: MAX_SCAN)."""
        first = self._first_at(start_key)
        last = bisect.bisect_left(self._starts, end_key) if end_key else len(self._starts)
        most = min(limit, MAX_SCAN) if limit > 0 else MAX_SCAN
        return self._regions[first : min(last, first + most)]

    def put(self, region: RegionInfo) -> list[RegionInfo]:
        """Store a report; return the other regions that it displaced. Raises StaleRegion."""
        overlapping = self._overlapping(region.meta)
        origin = self._by_id.get(region.meta.id)
        _check(region, origin, overlapping)
        if origin is not None:
            self._remove(origin)
        displaced = [other for other in overlapping if other is not origin]
        for other in displaced:
            self._remove(other)
        index = bisect.bisect_left(self._starts, region.meta.start_key)
        self._starts.insert(index, region.meta.start_key)
        self._regions.insert(index, region)
        self._by_id[region.meta.id] = region
        return displaced

    def _remove(self, region: RegionInfo) -> None:
        index = bisect.bisect_left(self._starts, region.meta.start_key)
        del self._starts[index], self._regions[index], self._by_id[region.meta.id]

    def _overlapping(self, meta: metapb.Region) -> list[RegionInfo]:
        first = self._first_at(meta.start_key)
        last = bisect.bisect_left(self._starts, meta.end_key) if meta.end_key else len(self._starts)
        return self._regions[first:last]

    def _first_at(self, key: bytes) -> int:
        """Return the index of the first region that ends after `key`."""
        index = bisect.bisect_right(self._starts, key) - 1
        return index if self._holds(index, key) else index + 1

    def _holds(self, index: int, key: bytes) -> bool:
        return 0 <= index < len(self._regions) and self._regions[index].contains(key)


def _check(region: RegionInfo, origin: RegionInfo | None, overlapping: list[RegionInfo]) -> None:
    epoch = region.meta.region_epoch
    for other in overlapping:
        if epoch.version < other.meta.region_epoch.version:
            raise StaleRegion(f"region {region.meta.id} is older than region {other.meta.id}, which it overlaps")
    if origin is None:
        return
    known = origin.meta.region_epoch
    if epoch.version < known.version or epoch.conf_ver < known.conf_ver or 0 < region.term < origin.term:
        raise StaleRegion(f"region {region.meta.id} is older than what is known of it")
