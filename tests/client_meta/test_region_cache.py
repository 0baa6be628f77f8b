"""The region cache against a dumb list, and its rules one by one."""

from __future__ import annotations

import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytikv.client import region_cache
from pytikv.client.region_cache import GUARD_S, JITTER_S, TTL_S, RegionCache
from pytikv.client.store_cache import CachedStore
from pytikv.types import Peer, Region

PEERS = (Peer(1, 1), Peer(2, 2), Peer(3, 3))


def make(max_regions: int = 1 << 20) -> RegionCache:
    stores: dict[int, CachedStore] = {}
    return RegionCache(lambda i: stores.setdefault(i, CachedStore(i)), random.Random(1), max_regions=max_regions)


def region(region_id: int, start: bytes, end: bytes, version: int = 1, conf_ver: int = 1, **more) -> Region:
    more.setdefault("leader", PEERS[0])
    return Region(region_id, start, end, conf_ver, version, PEERS, **more)


class Dumb:
    """What the cache should hold, as a list, by the same rules written in the plainest way."""

    def __init__(self) -> None:
        self.entries: list[Region] = []

    def insert(self, new: Region) -> bool:
        overlapped = [old for old in self.entries if overlap(old, new)]
        same = [old for old in self.entries if old.id == new.id]
        if any(old.version > new.version for old in overlapped if old.id != new.id):
            return False
        if any(old.version > new.version or old.conf_ver > new.conf_ver for old in same):
            return False
        self.entries = [old for old in self.entries if old not in overlapped and old not in same] + [new]
        return True

    def locate(self, key: bytes) -> Region | None:
        return next((one for one in self.entries if one.contains(key)), None)

    def locate_end(self, key: bytes) -> Region | None:
        for one in self.entries:
            if not key:
                if not one.end_key:
                    return one
            elif one.start_key < key and (not one.end_key or key <= one.end_key):
                return one
        return None


def overlap(a: Region, b: Region) -> bool:
    return (not a.end_key or b.start_key < a.end_key) and (not b.end_key or a.start_key < b.end_key)


keys = st.integers(0, 40).map(lambda n: b"" if n == 0 else b"%02d" % n)


@st.composite
def regions(draw) -> Region:
    start, end = draw(keys), draw(keys)
    if end and end <= start:
        start, end = (b"", end) if end < start else (start, b"")
    return region(draw(st.integers(1, 12)), start, end, draw(st.integers(1, 6)), draw(st.integers(1, 3)))


@settings(max_examples=300, deadline=None)
@given(st.lists(regions(), max_size=60), st.lists(keys, max_size=10), st.integers(2, 6))
def test_it_is_the_dumb_list(inserted, asked, chunk) -> None:
    before = region_cache._CHUNK
    region_cache._CHUNK = chunk
    try:
        cache, dumb = make(), Dumb()
        for new in inserted:
            assert (cache.insert(new, 0.0) is not None) == dumb.insert(new)
            check_shape(cache, dumb)
        for key in [*asked, b"", b"00", b"99"]:
            found, wanted = cache.locate(key, 1.0), dumb.locate(key)
            assert (found and found.meta) == wanted
            found, wanted = cache.locate_end(key, 1.0), dumb.locate_end(key)
            assert (found and found.meta) == wanted
    finally:
        region_cache._CHUNK = before


def check_shape(cache: RegionCache, dumb: Dumb) -> None:
    assert sorted((e.meta for e in cache), key=lambda m: m.start_key) == sorted(dumb.entries, key=lambda m: m.start_key)
    assert len(cache) == len(dumb.entries)
    separators, chunks = cache._index
    assert separators[0] == b""
    assert separators == sorted(set(separators))
    assert len(separators) == len(chunks)
    for i, (starts, entries) in enumerate(chunks):
        assert list(starts) == [e.start_key for e in entries] == sorted(starts)
        assert len(starts) <= region_cache._CHUNK
        assert all(separators[i] <= s for s in starts)
        assert i + 1 == len(chunks) or all(s < separators[i + 1] for s in starts)
        assert all(e.valid for e in entries)


def test_many_regions_in_any_order() -> None:
    cache = make()
    order = list(range(3000))
    random.Random(3).shuffle(order)
    border = lambda i: b"" if i in (0, 3000) else b"k%05d" % i  # noqa: E731
    for i in order:
        assert cache.insert(region(i + 1, border(i), border(i + 1)), 0.0) is not None
    assert [e.id for e in cache] == list(range(1, 3001))
    for i in range(0, 3000, 7):
        assert cache.locate(b"k%05d!" % i, 1.0).id == i + 1
        assert cache.locate_end(b"k%05d" % i, 1.0).id == max(i, 1)
    assert cache.locate_end(b"", 1.0).id == 3000
    merged = cache.insert(region(1, b"", b"", version=2), 1.0)
    assert list(cache) == [merged]
    assert len(cache) == 1


# --- epochs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "conf_ver", "taken"),
    [(5, 5, True), (6, 5, True), (5, 6, True), (4, 5, False), (5, 4, False), (6, 4, False)],
)
def test_the_same_region_never_goes_back(version, conf_ver, taken) -> None:
    cache = make()
    old = cache.insert(region(1, b"a", b"z", 5, 5), 0.0)
    assert (cache.insert(region(1, b"a", b"z", version, conf_ver), 0.0) is not None) == taken
    assert old.valid != taken


def test_a_split_replaces_its_parent_and_never_the_reverse() -> None:
    cache = make()
    parent = region(1, b"", b"", 1)
    cache.insert(parent, 0.0)
    cache.insert(region(1, b"m", b"", 2), 0.0)
    assert cache.locate(b"a", 0.0) is None
    cache.insert(region(2, b"", b"m", 2), 0.0)
    assert cache.insert(parent, 0.0) is None
    assert (cache.locate(b"a", 0.0).id, cache.locate(b"x", 0.0).id) == (2, 1)


def test_a_region_that_moved_far_leaves_no_shadow() -> None:
    cache = make()
    cache.insert(region(1, b"a", b"b", 1), 0.0)
    cache.insert(region(1, b"x", b"y", 4), 0.0)
    assert cache.locate(b"a", 0.0) is None
    assert [e.meta.version for e in cache] == [4]


def test_an_invalid_region_guards_its_place_for_a_time() -> None:
    cache = make()
    old = cache.insert(region(1, b"a", b"z", 5, 5), 0.0)
    cache.invalidate(old, 10.0)
    assert cache.locate(b"b", 10.0) is None
    assert cache.hint(b"b") is old
    assert cache.insert(region(1, b"a", b"z", 4, 5), 11.0) is None
    assert cache.insert(region(1, b"a", b"z", 5, 5), 11.0) is not None
    cache.invalidate(cache.locate(b"b", 11.0), 20.0)
    assert cache.insert(region(1, b"a", b"z", 4, 5), 20.0 + GUARD_S) is not None


# --- life -------------------------------------------------------------------------------------------------------------


def test_expiry_slides_with_use() -> None:
    cache = make()
    cache.insert(region(1, b"", b""), 0.0)
    for now in (500.0, 1000.0, 1500.0):
        assert cache.locate(b"k", now) is not None
    assert cache.locate(b"k", 1500.0 + TTL_S + JITTER_S + 1) is None


def test_a_region_with_a_down_peer_is_loaded_again() -> None:
    cache = make()
    cache.insert(region(1, b"", b"", down_peer_ids=frozenset({2})), 0.0)
    for now in (300.0, 599.0):
        assert cache.locate(b"k", now) is not None
    assert cache.locate(b"k", TTL_S + JITTER_S) is None


def test_an_expired_region_does_not_keep_an_older_one_out() -> None:
    cache = make()
    cache.insert(region(1, b"", b"", 9), 0.0)
    assert cache.insert(region(1, b"", b"", 3), TTL_S + JITTER_S) is not None


def test_expired_regions_are_swept_out() -> None:
    cache = make()
    for i in range(1000):
        cache.insert(region(i + 1, b"a%04d" % i, b"a%04d" % (i + 1)), 0.0)
    for i in range(2000):
        cache.insert(region(5000 + i, b"b%04d" % i, b"b%04d" % (i + 1)), 1000.0)
    assert len(cache) < 2200
    assert cache.locate(b"b0000", 1000.0) is not None


def test_the_bound_holds() -> None:
    cache = make(max_regions=500)
    for i in range(5000):
        assert cache.insert(region(i + 1, b"a%04d" % i, b"a%04d" % (i + 1)), 0.0) is not None
        assert len(cache) <= 501
        assert cache.locate(b"a%04d" % i, 0.0) is not None


# --- leaders and errors -----------------------------------------------------------------------------------------------


def test_leaders() -> None:
    cache = make()
    found = cache.insert(region(1, b"", b"", leader=PEERS[1]), 0.0)
    assert found.leader.peer == PEERS[1]
    assert found.leader.store.id == 2
    first = found.leader
    assert cache.switch_leader(found, PEERS[2], 0.0)
    assert found.leader.peer == PEERS[2]
    assert cache.switch_leader(found, PEERS[1], 0.0)
    assert found.leader is first  # its contexts are still good
    assert not cache.switch_leader(found, Peer(9, 9), 0.0)
    assert cache.locate(b"k", 0.0) is None


def test_without_a_leader_the_likeliest_peer_is_taken() -> None:
    cache = make()
    peers = (Peer(1, 1, is_witness=True), Peer(2, 2, role=1), Peer(3, 3), Peer(4, 4))
    meta = Region(1, b"", b"", 1, 1, peers, None, frozenset({3}))
    assert cache.insert(meta, 0.0).leader.peer.id == 4


def test_a_region_without_peers_is_refused() -> None:
    assert make().insert(Region(1, b"", b"", 1, 1, ()), 0.0) is None


def test_epoch_not_match_brings_the_new_regions() -> None:
    cache = make()
    old = cache.insert(region(1, b"", b"", 1), 0.0)
    current = [region(1, b"m", b"", 2, leader=None), region(2, b"", b"m", 2, leader=None)]
    assert not cache.apply_epoch_not_match(old, current, 3, 0.0)
    assert not old.valid
    assert cache.locate(b"a", 0.0).id == 2
    assert cache.locate(b"x", 0.0).leader.store.id == 3


def test_epoch_not_match_without_regions_invalidates() -> None:
    cache = make()
    old = cache.insert(region(1, b"", b"", 1), 0.0)
    assert not cache.apply_epoch_not_match(old, [], 1, 0.0)
    assert cache.locate(b"a", 0.0) is None


def test_a_store_that_is_behind_changes_nothing() -> None:
    cache = make()
    old = cache.insert(region(1, b"", b"", 5), 0.0)
    assert cache.apply_epoch_not_match(old, [region(1, b"", b"", 4)], 1, 0.0)
    assert cache.locate(b"a", 0.0) is old


def test_clear() -> None:
    cache = make()
    old = cache.insert(region(1, b"", b""), 0.0)
    cache.clear()
    assert not old.valid
    assert cache.locate(b"a", 0.0) is None
    assert len(cache) == 0


def test_readers_beside_a_writer_see_whole_states() -> None:
    """Regions are split and merged while others look up: every answer holds its key."""
    cache = make()
    cache.insert(region(1, b"", b"", 1), 0.0)
    stop = threading.Event()
    wrong: list[object] = []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        while not stop.is_set():
            key = b"%03d" % rng.randrange(1000)
            found = cache.locate(key, 1.0)
            if found is not None and not found.contains(key):
                wrong.append((key, found))

    readers = [threading.Thread(target=read, args=(i,)) for i in range(3)]
    for reader in readers:
        reader.start()
    rng = random.Random(9)
    for version in range(2, 1500):
        low = rng.randrange(999)
        high = rng.randrange(low + 1, 1000)
        cache.insert(region(rng.randrange(1, 400), b"%03d" % low, b"%03d" % high, version, version), 1.0)
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong
