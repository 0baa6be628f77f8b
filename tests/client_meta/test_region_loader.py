"""Regions from PD into the cache: holes, staleness, reverse, ranges."""

from __future__ import annotations

import pytest

from pytikv.client.region_cache import RegionCache
from pytikv.client.region_loader import RegionLoader
from pytikv.client.store_cache import CachedStore
from pytikv.errors import RegionUnavailable
from pytikv.types import KeyRange, Peer, Region

PEERS = (Peer(1, 1),)


def region(region_id: int, start: bytes, end: bytes, version: int = 1) -> Region:
    return Region(region_id, start, end, 1, version, PEERS, PEERS[0])


class Pd:
    """PD's side as a list of regions."""

    def __init__(self, regions: list[Region]) -> None:
        self.regions = regions
        self.asked: list[str] = []
        self.on_ask = lambda: None

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        self.on_ask()

    def _find(self, key: bytes) -> int | None:
        return next((i for i, one in enumerate(self.regions) if one.contains(key)), None)

    async def get_region(self, key: bytes, deadline: float) -> Region | None:
        self._ask("region")
        index = self._find(key)
        return None if index is None else self.regions[index]

    async def get_prev_region(self, key: bytes, deadline: float) -> Region | None:
        self._ask("prev")
        index = self._find(key)
        return self.regions[index - 1] if index else None

    async def scan_regions(self, start: bytes, end: bytes, limit: int, deadline: float) -> list[Region]:
        self._ask("scan")
        found = [r for r in self.regions if (not r.end_key or r.end_key > start) and (not end or r.start_key < end)]
        return found[: min(limit, 3)]

    async def batch_scan_regions(self, ranges, limit: int, deadline: float) -> list[Region]:
        self._ask("batch")
        found = []
        for start, end in ranges:
            found += [r for r in await self.scan_regions(start, end, limit, deadline) if r not in found]
        return found


BORDERS = [b"", b"b", b"d", b"f", b"h", b"k", b"m", b"p", b""]
EIGHT = [region(i + 1, BORDERS[i], BORDERS[i + 1]) for i in range(8)]


@pytest.fixture
def pd() -> Pd:
    return Pd(list(EIGHT))


@pytest.fixture
def cache(fake_rt) -> RegionCache:
    return RegionCache(CachedStore, fake_rt.rng)


@pytest.fixture
def loader(fake_rt, pd, cache) -> RegionLoader:
    return RegionLoader(fake_rt, pd, cache)


def test_loaded_once(fake_rt, pd, loader) -> None:
    until = fake_rt.now() + 5
    assert fake_rt.run(loader.locate(b"c", until)).id == 2
    assert fake_rt.run(loader.locate(b"bx", until)).id == 2
    assert pd.asked == ["region"]


@pytest.mark.parametrize(("key", "wanted"), [(b"c", 2), (b"d", 2), (b"a", 1), (b"b", 1), (b"q", 8), (b"", 8)])
def test_from_below(fake_rt, loader, key, wanted) -> None:
    assert fake_rt.run(loader.locate_end(key, fake_rt.now() + 5)).id == wanted
    assert fake_rt.run(loader.locate_end(key, fake_rt.now() + 5)).id == wanted


def test_a_hole_is_waited_out(fake_rt, pd, loader) -> None:
    missing = pd.regions.pop(2)

    def heal() -> None:
        if len(pd.asked) == 6:
            pd.regions.insert(2, missing)

    pd.on_ask = heal
    assert fake_rt.run(loader.locate(b"e", fake_rt.now() + 5)).id == 3


def test_a_lasting_hole_is_an_error_in_time(fake_rt, pd, loader) -> None:
    pd.regions.pop(2)
    until = fake_rt.now() + 2
    with pytest.raises(RegionUnavailable):
        fake_rt.run(loader.locate(b"e", until))
    assert fake_rt.now() <= until


def test_an_older_answer_is_not_taken(fake_rt, pd, cache, loader) -> None:
    """PD has not heard of the split that a store told us of."""
    pd.regions = [region(1, b"", b"")]
    cache.insert(region(1, b"", b"m", 2), fake_rt.now())
    pd.on_ask = lambda: (
        setattr(pd, "regions", [region(1, b"", b"m", 2), region(2, b"m", b"", 2)]) if len(pd.asked) == 4 else None
    )
    assert fake_rt.run(loader.locate(b"x", fake_rt.now() + 5)).id == 2
    assert fake_rt.run(loader.locate(b"a", fake_rt.now() + 5)).meta.version == 2


def ids(found) -> list[int]:
    return [one.id for one in found]


def test_all_regions(fake_rt, cache, loader) -> None:
    assert ids(fake_rt.run(loader.load_ranges([KeyRange(b"", b"")], fake_rt.now() + 5))) == list(range(1, 9))
    assert len(cache) == 8


@pytest.mark.parametrize(
    ("ranges", "wanted"),
    [
        ([(b"c", b"e")], [2, 3]),
        ([(b"c", b"d")], [2]),
        ([(b"b", b"d")], [2]),
        ([(b"a", b"c"), (b"c", b"cc"), (b"n", b"")], [1, 2, 7, 8]),
        ([(b"", b"")], [1, 2, 3, 4, 5, 6, 7, 8]),
        ([(b"a", b"a")], []),
        ([], []),
    ],
)
def test_ranges(fake_rt, loader, ranges, wanted) -> None:
    assert ids(fake_rt.run(loader.load_ranges([KeyRange(*one) for one in ranges], fake_rt.now() + 5))) == wanted


def test_a_hole_in_a_range_is_waited_out(fake_rt, pd, loader) -> None:
    missing = pd.regions.pop(3)
    pd.on_ask = lambda: pd.regions.insert(3, missing) if len(pd.asked) == 5 else None
    found = fake_rt.run(loader.load_ranges([KeyRange(b"a", b"z")], fake_rt.now() + 5))
    assert ids(found) == list(range(1, 9))


def test_a_lasting_hole_in_a_range_is_an_error(fake_rt, pd, loader) -> None:
    pd.regions.pop(3)
    with pytest.raises(RegionUnavailable):
        fake_rt.run(loader.load_ranges([KeyRange(b"a", b"z")], fake_rt.now() + 1))
