"""The region map against a dumb list of regions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytikv.proto import metapb_pb2 as metapb
from pytikv.server.pd.regions import MAX_SCAN, RegionInfo, RegionTree, StaleRegion


def region(region_id: int, start: bytes, end: bytes, version: int = 1, conf_ver: int = 1, term: int = 0) -> RegionInfo:
    epoch = metapb.RegionEpoch(version=version, conf_ver=conf_ver)
    meta = metapb.Region(id=region_id, start_key=start, end_key=end, region_epoch=epoch)
    return RegionInfo(meta, term=term)


def tree_of(*regions: RegionInfo) -> RegionTree:
    tree = RegionTree()
    for one in regions:
        tree.put(one)
    return tree


def ids(found) -> list[int]:
    return [one.meta.id for one in found]


def test_search_and_gaps():
    tree = tree_of(region(1, b"", b"b"), region(2, b"b", b"d"), region(3, b"f", b""))
    assert tree.search(b"") is tree.get(1)
    assert tree.search(b"b") is tree.get(2)
    assert tree.search(b"d") is None
    assert tree.search(b"\xff\xff") is tree.get(3)
    assert tree.search_prev(b"c") is tree.get(1)
    assert tree.search_prev(b"a") is None
    assert tree.search_prev(b"z") is None, "a gap lies before the region of z"
    assert ids(tree.scan(b"c", b"", 0)) == [2, 3]
    assert ids(tree.scan(b"", b"b", 0)) == [1]
    assert ids(tree.scan(b"a", b"b\x00", 0)) == [1, 2]
    assert ids(tree.scan(b"", b"", 2)) == [1, 2]
    assert ids(tree.scan(b"d", b"e", 0)) == []
    assert ids(tree.scan(b"c", b"a", 0)) == []
    assert ids(tree.scan(b"", b"", -1)) == [1, 2, 3]
    assert MAX_SCAN > 10_000


def test_the_epoch_decides():
    tree = tree_of(region(1, b"", b"", version=5, conf_ver=3, term=7))
    for stale in (
        region(1, b"", b"", version=4, conf_ver=3),
        region(1, b"", b"", version=5, conf_ver=2),
        region(1, b"", b"", version=5, conf_ver=3, term=6),
        region(2, b"a", b"b", version=4),
    ):
        with pytest.raises(StaleRegion):
            tree.put(stale)
    assert ids(tree.put(region(1, b"m", b"", version=6, conf_ver=3))) == []
    assert tree.search(b"a") is None, "the other half reports for itself"
    tree.put(region(2, b"", b"m", version=6))
    assert ids(tree) == [2, 1]
    assert ids(tree.put(region(1, b"", b"", version=7, conf_ver=3))) == [2], "a merge removes the neighbour"


KEYS = st.sampled_from([b"", *(bytes([c]) for c in b"abcdefgh"), b"a\x00", b"\xff"])
REPORTS = st.lists(
    st.tuples(st.integers(1, 6), KEYS, KEYS, st.integers(1, 4), st.integers(1, 2)).filter(
        lambda r: not r[2] or r[1] < r[2]
    ),
    max_size=25,
)


class DumbMap:
    """A list that is walked from end to end."""

    def __init__(self) -> None:
        self.regions: list[RegionInfo] = []

    def put(self, new: RegionInfo) -> bool:
        m, epoch = new.meta, new.meta.region_epoch
        for old in self.regions:
            o = old.meta
            overlaps = (not m.end_key or o.start_key < m.end_key) and (not o.end_key or m.start_key < o.end_key)
            if overlaps and epoch.version < o.region_epoch.version:
                return False
            if o.id == m.id and (epoch.version < o.region_epoch.version or epoch.conf_ver < o.region_epoch.conf_ver):
                return False
        self.regions = [
            old
            for old in self.regions
            if old.meta.id != m.id
            and not (
                (not m.end_key or old.meta.start_key < m.end_key)
                and (not old.meta.end_key or m.start_key < old.meta.end_key)
            )
        ]
        self.regions = sorted([*self.regions, new], key=lambda r: r.meta.start_key)
        return True

    def search(self, key: bytes) -> RegionInfo | None:
        return next((r for r in self.regions if r.contains(key)), None)

    def scan(self, start: bytes, end: bytes) -> list[RegionInfo]:
        return [
            r
            for r in self.regions
            if (not r.meta.end_key or r.meta.end_key > start) and (not end or r.meta.start_key < end)
        ]


@settings(max_examples=200)
@given(REPORTS, KEYS, KEYS)
def test_as_the_dumb_list(reports, key, other_key):
    tree, dumb = RegionTree(), DumbMap()
    for region_id, start, end, version, conf_ver in reports:
        new = region(region_id, start, end, version, conf_ver)
        taken = dumb.put(new)
        if taken:
            tree.put(new)
        else:
            with pytest.raises(StaleRegion):
                tree.put(new)
        assert list(tree) == dumb.regions
        assert tree.search(key) is dumb.search(key)
        if not other_key or key <= other_key:
            assert tree.scan(key, other_key, 0) == dumb.scan(key, other_key)
        for region_id in range(1, 7):
            assert tree.get(region_id) is next((r for r in dumb.regions if r.meta.id == region_id), None)
