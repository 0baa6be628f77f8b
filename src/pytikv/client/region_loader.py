"""Regions from PD into the cache, for whoever finds none there.

`locate` and `locate_end` answer from the cache where they can. Otherwise they ask PD, take the answer in, and look
again, until the region is there or the deadline is. What PD cannot say yet (a split under way leaves a hole for a
moment) and what the cache refuses (PD was asked just before it heard of a split) is asked again after a wait.

Callers that want the same region share one question: that of the entry which covered the key before, or, in a cold
cache, of the first question under way; whoever is not served by that asks for itself. Work on many keys names where it
goes on (`until`), and then one answer brings up to `_AHEAD` regions.

`load_ranges` brings whole ranges, `_AHEAD` regions a question, checked for holes: what it returns covers them in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pytikv.client import backoff
from pytikv.client.backoff import Backoffer, RetryRules
from pytikv.client.flights import Flights
from pytikv.client.pd import PdClient
from pytikv.client.region_cache import CachedRegion, RegionCache
from pytikv.observe.telemetry import as_step
from pytikv.rt.interface import Runtime
from pytikv.types import KeyRange, Region

__all__ = ["RegionLoader"]

_AHEAD: Final = 128
_HIGH_KEY: Final = b"\xff" * 256


class RegionLoader:
    """Finds regions by region keys. Safe for many threads and tasks."""

    def __init__(self, rt: Runtime, pd: PdClient, regions: RegionCache, rules: RetryRules | None = None) -> None:
        self._rt = rt
        self._rules = rules
        self._pd = pd
        self._regions = regions
        self._flights = Flights(rt)

    async def locate(self, key: bytes, deadline: float, until: bytes | None = None) -> CachedRegion:
        """Return the region that holds `key`; `until`: the caller goes on to there (`b""`: to the end of all keys).

        Raises RegionUnavailable, DeadlineExceeded, and what asking PD raises.
        """
        backoffer = Backoffer(self._rt, deadline, self._rules)
        flight: tuple[str, bytes] = ("cold", b"")
        while True:
            region = self._regions.locate(key, self._rt.now())
            if region is not None:
                return region
            hint = self._regions.hint(key)
            if hint is not None and flight[0] == "cold":
                flight = ("outdated", hint.start_key)
            load = self._flights.run(flight, lambda: self._load(key, deadline, until), deadline)
            asked = await as_step(self._rt.now, "region_load", "reload" if hint is not None else "miss", load)
            region = self._regions.locate(key, self._rt.now())
            if region is not None:
                return region
            flight = ("key", key)
            if asked == key:  # otherwise the answer was for another's key, and ours has not been asked for yet
                await backoffer.backoff(backoff.REGION_MISS, "PD does not know the region yet")

    async def _load(self, key: bytes, deadline: float, until: bytes | None) -> bytes:
        """Ask PD and take the answer in; returns the key asked for."""
        if until is not None:
            for meta in await self._pd.scan_regions(key, until, _AHEAD, deadline):
                self._regions.insert(meta, self._rt.now())
            if self._regions.locate(key, self._rt.now()) is not None:
                return key
        self._take(await self._pd.get_region(key, deadline))
        return key

    async def locate_end(self, key: bytes, deadline: float) -> CachedRegion:
        """Return the region that holds the keys just below `key` (`b""`: the very last). Raises as `locate`."""
        backoffer = Backoffer(self._rt, deadline, self._rules)
        while True:
            region = self._regions.locate_end(key, self._rt.now())
            if region is not None:
                return region
            load = self._below(key, deadline) if key else self._last(deadline)
            self._take(await as_step(self._rt.now, "region_load", "miss", load))
            region = self._regions.locate_end(key, self._rt.now())
            if region is not None:
                return region
            await backoffer.backoff(backoff.REGION_MISS, "PD does not know the region yet")

    async def _below(self, key: bytes, deadline: float) -> Region | None:
        region = await self._pd.get_region(key, deadline)
        if region is not None and region.start_key < key:
            return region
        return await self._pd.get_prev_region(key, deadline)

    async def _last(self, deadline: float) -> Region | None:
        """Walk up from a key above nearly all: PD has no question for the last region."""
        region = await self._pd.get_region(_HIGH_KEY, deadline)
        while region is not None and region.end_key:
            region = await self._pd.get_region(region.end_key, deadline)
        return region

    def _take(self, meta: Region | None) -> None:
        if meta is not None:
            self._regions.insert(meta, self._rt.now())

    async def load_ranges(self, ranges: Sequence[KeyRange], deadline: float) -> list[CachedRegion]:
        """Return the regions of several ranges (sorted, not overlapping), each once, in order, from the cache or PD.

        For warming up: `[KeyRange(b"", b"")]` loads all there are. Errors as `locate`.
        """
        if len(ranges) > 1:
            now = self._rt.now()
            for meta in await self._pd.batch_scan_regions(ranges, _AHEAD, deadline):
                self._regions.insert(meta, now)
        found: list[CachedRegion] = []
        for start_key, end_key in ranges:
            at = start_key
            while not end_key or at < end_key:
                # Most are in the cache by now; what a hole or the limit left out is loaded.
                region = found[-1] if found and found[-1].contains(at) else self._regions.locate(at, self._rt.now())
                if region is None:
                    found += await self._load_range(at, end_key, deadline)
                    break
                if not found or found[-1] is not region:
                    found.append(region)
                if not region.end_key:
                    break
                at = region.end_key
        return found

    async def _load_range(self, start_key: bytes, end_key: bytes, deadline: float) -> list[CachedRegion]:
        backoffer = Backoffer(self._rt, deadline, self._rules)
        found: list[CachedRegion] = []
        at = start_key
        while True:
            before = at
            load = self._pd.scan_regions(at, end_key, _AHEAD, deadline)
            for meta in await as_step(self._rt.now, "region_load", "miss", load):
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
