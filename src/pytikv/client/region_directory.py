"""Where a key lives: from the region cache, or loaded from PD into it.

Keys are in region form. Callers who miss the same region load it once: they meet at the outdated entry that still
covers their keys, or, where nothing is known, at the key itself.

A load ends with the region in the cache and its leader's store resolved, so that what follows needs no further
look-up. PD may not know a region for a moment (a split is being reported), or know only an older one than a store has
told us of: both are waited out as `regionMiss`, until the caller's deadline.

Ranges are loaded 128 regions at a time and checked for holes: what is returned covers the range, in order, without
gaps. There is no bound on the regions of one call but the range itself; the cache has its own.

Source: client-go internal/locate/region_cache.go (loadRegion, BatchLoadRegionsWithKeyRanges).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from pytikv.client import backoff
from pytikv.client.backoff import Backoffer
from pytikv.client.flights import Flights
from pytikv.client.region_cache import CachedRegion, RegionCache
from pytikv.client.store_cache import StoreCache
from pytikv.rt.interface import Runtime
from pytikv.types import KeyRange, Region

__all__ = ["RegionDirectory", "RegionSource"]

REGIONS_PER_LOAD: Final = 128
_HIGH_KEY: Final = b"\xff" * 64
_FREE_TURNS: Final = 3


class RegionSource(Protocol):
    """Whoever knows the regions: `PdClient`."""

    async def get_region(self, region_key: bytes, deadline: float) -> Region | None:
        """Return the region that holds a key."""

    async def get_prev_region(self, region_key: bytes, deadline: float) -> Region | None:
        """Return the region before the one that holds a key."""

    async def scan_regions(self, start_key: bytes, end_key: bytes, limit: int, deadline: float) -> list[Region]:
        """Return the regions of a range, in order."""

    async def batch_scan_regions(self, ranges: Sequence[KeyRange], limit: int, deadline: float) -> list[Region]:
        """Return the regions of several ranges, in order."""


class RegionDirectory:
    """The way to regions for one cluster. Safe for many threads and tasks."""

    def __init__(self, rt: Runtime, source: RegionSource, regions: RegionCache, stores: StoreCache) -> None:
        self._rt = rt
        self._source = source
        self._regions = regions
        self._stores = stores
        self._flights = Flights(rt)

    async def locate(self, key: bytes, deadline: float) -> CachedRegion:
        """Return the region that holds `key`. Raises RegionUnavailable, or what PD's look-ups raise."""
        return await self._locate(key, deadline, reverse=False)

    async def locate_end(self, key: bytes, deadline: float) -> CachedRegion:
        """Return the region that holds the keys just below `key` (`b""`: the very last). Errors as `locate`."""
        return await self._locate(key, deadline, reverse=True)

    async def _locate(self, key: bytes, deadline: float, *, reverse: bool) -> CachedRegion:
        regions = self._regions
        find = regions.locate_end if reverse else regions.locate
        load = self._load_end if reverse else self._load
        backoffer: Backoffer | None = None
        turns = 0
        while True:
            region = find(key, self._rt.now())
            if region is not None:
                return region
            hint = regions.hint(key, reverse=reverse)
            flight = (reverse, hint.start_key if hint is not None else key, hint is None)
            region = await self._flights.run(flight, lambda: load(key, deadline), deadline)
            if region is not None and region.valid:
                if region.contains_end(key) if reverse else region.contains(key):
                    return region
                turns += 1
                if turns <= _FREE_TURNS:
                    continue  # it was loaded for another key, and the region had been split
            backoffer = backoffer or Backoffer(self._rt, deadline)
            await backoffer.backoff(backoff.REGION_MISS, "PD knows no region for the key at present")

    async def _load(self, key: bytes, deadline: float) -> CachedRegion | None:
        meta = await self._source.get_region(key, deadline)
        return await self._take(meta, deadline, lambda found: found.contains(key))

    async def _load_end(self, key: bytes, deadline: float) -> CachedRegion | None:
        meta = await self._source.get_region(key or _HIGH_KEY, deadline)
        if key:
            if meta is not None and meta.start_key == key:
                meta = await self._source.get_prev_region(key, deadline)
            return await self._take(meta, deadline, lambda found: not found.end_key or key <= found.end_key)
        while meta is not None and meta.end_key:  # keys above the high one are rare; walk to the last region
            meta = await self._source.get_region(meta.end_key, deadline)
        return await self._take(meta, deadline, lambda found: True)

    async def _take(
        self, meta: Region | None, deadline: float, is_wanted: Callable[[Region], bool]
    ) -> CachedRegion | None:
        """Put a region into the cache and resolve its leader's store; None when it is of no use."""
        if meta is None or not is_wanted(meta):
            return None
        region = self._regions.insert(meta, self._rt.now())
        if region is None:  # older than what a store told us; perhaps that is in the cache and good
            region = self._regions.locate(meta.start_key, self._rt.now())
            if region is None or not is_wanted(region.meta):
                return None
        await self._stores.resolve(region.leader.store.id, deadline)
        return region

    # --- ranges -------------------------------------------------------------------------------------------------------

    async def load_range(self, start_key: bytes, end_key: bytes, deadline: float) -> list[CachedRegion]:
        """Load all regions of `[start_key, end_key)` from PD; they cover it in order, without holes."""
        backoffer = Backoffer(self._rt, deadline)
        found: list[CachedRegion] = []
        at = start_key
        while True:
            before = at
            for meta in await self._source.scan_regions(at, end_key, REGIONS_PER_LOAD, deadline):
                region = self._join(meta, at)
                if region is None:
                    break
                found.append(region)
                at = region.end_key
                if not at or (end_key and at >= end_key):
                    return found
            if at == before:
                await backoffer.backoff(backoff.REGION_MISS, "PD's regions leave a hole at present")

    def _join(self, meta: Region, at: bytes) -> CachedRegion | None:
        """Put a region into the cache if it goes on where the last one ended; None at a hole."""
        if meta.start_key > at or (meta.end_key and meta.end_key <= at):
            return None
        now = self._rt.now()
        region = self._regions.insert(meta, now) or self._regions.locate(at, now)
        return region if region is not None and region.contains(at) else None

    async def load_ranges(self, ranges: Sequence[KeyRange], deadline: float) -> list[CachedRegion]:
        """Load the regions of several ranges (sorted, not overlapping); each region once, in order."""
        if len(ranges) > 1:
            now = self._rt.now()
            for meta in await self._source.batch_scan_regions(ranges, REGIONS_PER_LOAD, deadline):
                self._regions.insert(meta, now)
        found: list[CachedRegion] = []
        for start_key, end_key in ranges:
            at = start_key
            while not end_key or at < end_key:
                # Most are in the cache by now; what a hole or the limit left out is loaded.
                region = found[-1] if found and found[-1].contains(at) else self._regions.locate(at, self._rt.now())
                if region is None:
                    found += await self.load_range(at, end_key, deadline)
                    break
                if not found or found[-1] is not region:
                    found.append(region)
                if not region.end_key:
                    break
                at = region.end_key
        return found

    async def warm_up(self, deadline: float) -> int:
        """Load all stores and all regions there are; returns the number of regions."""
        await self._stores.refresh_all(deadline)
        return len(await self.load_range(b"", b"", deadline))
