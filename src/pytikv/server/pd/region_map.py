"""The region map of a PD: the tree, what of it is on disk, and a mutex so that any thread may ask.

Changes go through the writer's mutex, so that they reach the disk in the order in which they were taken; the tree has a
mutex of its own, which is never held while the disk is written. Regions are written without a sync: they are a copy of
what the stores know and report again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.locks import mutex
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.regions import MAX_SCAN, RegionInfo, RegionTree, StaleRegion
from pytikv.server.pd.storage import REGION_PREFIX, MetaStorage, u64_key

__all__ = ["RegionMap"]


class RegionMap:
    """Regions by key and by id. Keys are in the form of region borders. Reads what `storage` has at once."""

    def __init__(self, storage: MetaStorage, writer: AbstractContextManager[object]) -> None:
        self._storage = storage
        self._writer = writer
        self._mutex = mutex()
        self._tree = RegionTree()
        for key, data in storage.scan(REGION_PREFIX):
            try:
                self._tree.put(RegionInfo(metapb.Region.FromString(data)))
            except StaleRegion:
                storage.write({key: None}, sync=False)

    def __len__(self) -> int:
        return len(self._tree)

    def __iter__(self) -> Iterator[RegionInfo]:
        """Go over the regions as they are now, in order."""
        with self._mutex:
            return iter(list(self._tree))

    def report(self, info: RegionInfo) -> bool:
        """Take in a leader's report; False, and no change, when it is older than what is known. Writes, unsynced."""
        region = info.meta
        with self._writer:
            known = self._tree.get(region.id)
            try:
                with self._mutex:
                    displaced = self._tree.put(info)
            except StaleRegion:
                return False
            if known is None or displaced or known.meta != region:
                changes: dict[bytes, bytes | None] = {u64_key(REGION_PREFIX, r.meta.id): None for r in displaced}
                changes[u64_key(REGION_PREFIX, region.id)] = region.SerializeToString()
                self._storage.write(changes, sync=False)
            return True

    def add_first(self, region: metapb.Region) -> None:
        """Take in the region of the bootstrap, which is on disk already."""
        with self._mutex:
            self._tree.put(RegionInfo(region))

    def search(self, key: bytes) -> RegionInfo | None:
        """Return the region that holds `key` (in the form of region borders); None in a gap."""
        with self._mutex:
            return self._tree.search(key)

    def search_prev(self, key: bytes) -> RegionInfo | None:
        """Return the region before the one that holds `key`."""
        with self._mutex:
            return self._tree.search_prev(key)

    def get(self, region_id: int) -> RegionInfo | None:
        """Return the region with that id."""
        with self._mutex:
            return self._tree.get(region_id)

    def scan(self, start_key: bytes, end_key: bytes, limit: int = 0) -> list[RegionInfo]:
        """Return regions in order that meet the range; `limit` 0: MAX_SCAN."""
        with self._mutex:
            return self._tree.scan(start_key, end_key, limit)

    def batch_scan(self, ranges: Sequence[tuple[bytes, bytes]], limit: int, *, contain_all: bool) -> list[RegionInfo]:
        """Return the regions that meet any of the ranges, each once, `limit` in all.

        Ranges are sorted and do not overlap, or PdError is raised; with `contain_all` so is a gap in the map.
        """
        _check_ranges(ranges)
        most = min(limit, MAX_SCAN) if limit > 0 else MAX_SCAN
        found: list[RegionInfo] = []
        with self._mutex:
            for start_key, end_key in ranges:
                part = self._tree.scan(start_key, end_key, most)
                if contain_all:
                    _check_gaps(part, start_key, end_key, complete=len(part) < most)
                if found and part and found[-1] is part[0]:
                    part = part[1:]
                found += part
                if len(found) >= most:
                    return found[:most]
        return found


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
