"""PD as an object: what it keeps, over restarts and crashes, and what it refuses."""

from __future__ import annotations

import itertools

import pytest

from pytikv.errors import StorageError
from pytikv.proto import metapb_pb2 as metapb
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.meta import EngineMeta
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.server import PdConfig, PdServer


class Clock:
    def __init__(self) -> None:
        self.s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.s


def open_pd(engine: MemoryEngine, clock: Clock | None = None, **config) -> PdServer:
    numbers = itertools.count(11)
    return PdServer(
        EngineMeta(engine), PdConfig(**config), time=clock or Clock(), getrandbits=lambda bits: next(numbers)
    )


def a_region(region_id=2, start=b"", end=b"", version=1, store_id=1) -> metapb.Region:
    epoch = metapb.RegionEpoch(conf_ver=1, version=version)
    peer = metapb.Peer(id=region_id + 1, store_id=store_id)
    return metapb.Region(id=region_id, start_key=start, end_key=end, region_epoch=epoch, peers=[peer])


def bootstrapped(engine: MemoryEngine, clock: Clock | None = None) -> PdServer:
    pd = open_pd(engine, clock)
    pd.bootstrap(metapb.Store(id=1, address="127.0.0.1:20160"), a_region())
    return pd


def test_identity_and_bootstrap_survive():
    engine = MemoryEngine(keep_durable=True)
    first = open_pd(engine)
    assert first.cluster_id > 1 << 32
    assert first.cluster_id < 1 << 63
    assert not first.is_bootstrapped
    first.bootstrap(metapb.Store(id=1, address="a:1"), a_region())
    with pytest.raises(PdError) as refused:
        first.bootstrap(metapb.Store(id=2, address="b:1"), a_region())
    assert refused.value.type == pdpb.ALREADY_BOOTSTRAPPED
    second = open_pd(engine.after_crash())
    assert second.is_bootstrapped
    assert (second.cluster_id, second.member_id) == (first.cluster_id, first.member_id)
    assert second.stores.get(1).meta.address == "a:1"
    assert second.regions.search(b"any").meta == a_region()


def test_two_clusters_differ():
    assert open_pd(MemoryEngine()).cluster_id == open_pd(MemoryEngine()).cluster_id  # the same clock and numbers
    later = Clock()
    later.s += 1
    assert open_pd(MemoryEngine(), later).cluster_id != open_pd(MemoryEngine()).cluster_id


def test_timestamps_and_ids_rise_over_crashes():
    engine, clock = MemoryEngine(keep_durable=True), Clock()
    last_ts, last_id = 0, 0
    for _ in range(5):
        pd = open_pd(engine, clock)
        for count in (1, 1000, 3):
            ts = pd.get_ts(count)
            assert ts - count >= last_ts
            last_ts = ts
            got = pd.alloc_id(count)
            assert got - count >= last_id
            last_id = got
        clock.s -= 3600
        engine = engine.after_crash()


def test_the_disk_is_written_once_per_window():
    engine, clock = MemoryEngine(), Clock()
    pd = open_pd(engine, clock)
    pd.get_ts()
    before = engine.ticket
    for _ in range(10_000):
        pd.get_ts(7)
    assert engine.ticket == before
    assert not pd.oracle.bound_due()
    clock.s += 2
    assert pd.oracle.bound_due()
    pd.oracle.save_bound()
    assert engine.ticket == before + 1
    pd.oracle.save_bound()
    assert engine.ticket == before + 1


def test_stores():
    pd = bootstrapped(MemoryEngine())
    with pytest.raises(PdError, match="invalid store ID 9, not found"):
        pd.stores.get(9)
    with pytest.raises(PdError, match="duplicated store address"):
        pd.put_store(metapb.Store(id=2, address="127.0.0.1:20160"))
    pd.put_store(metapb.Store(id=1, address="127.0.0.1:30000"))
    pd.put_store(metapb.Store(id=5, address="127.0.0.1:20160"))
    assert [store.meta.id for store in pd.stores.all()] == [1, 5]
    assert pd.stores.get(1).meta.node_state == metapb.Serving
    with pytest.raises(PdError, match="not found"):
        pd.store_heartbeat(pdpb.StoreStats(store_id=8))
    pd.store_heartbeat(pdpb.StoreStats(store_id=1, capacity=7))
    assert pd.stores.get(1).stats.capacity == 7
    pd.put_store(metapb.Store(id=1, address="127.0.0.1:30001"))
    assert pd.stores.get(1).stats.capacity == 7


def test_a_tombstone_stays_one():
    engine = MemoryEngine()
    buried = metapb.Store(id=4, address="x:1", state=metapb.Tombstone, node_state=metapb.Removed)
    EngineMeta(engine).write({b"pd/store/" + (4).to_bytes(8, "big"): buried.SerializeToString()}, sync=True)
    pd = open_pd(engine)
    with pytest.raises(PdError, match="tombstone"):
        pd.put_store(metapb.Store(id=4, address="y:1"))
    with pytest.raises(PdError, match="tombstone"):
        pd.store_heartbeat(pdpb.StoreStats(store_id=4))
    pd.put_store(metapb.Store(id=6, address="x:1"))
    assert [store.meta.id for store in pd.stores.all(exclude_tombstones=True)] == [6]
    assert [store.meta.id for store in pd.stores.all()] == [4, 6]


def test_split_and_heartbeats_survive():
    engine = MemoryEngine()
    pd = bootstrapped(engine)
    ids = pd.ask_batch_split(a_region(), 2)
    assert len({i for region_id, peers in ids for i in (region_id, *peers)}) == 4
    (left_id, _), _ = ids
    pd.region_heartbeat(a_region(left_id, b"", b"m", 2), metapb.Peer(id=3, store_id=1), approximate_keys=5)
    pd.region_heartbeat(a_region(2, b"m", b"", 2), metapb.Peer(id=3, store_id=1))
    pd.region_heartbeat(a_region(2, b"", b"", 1), metapb.Peer(id=3, store_id=1))  # late: ignored
    assert len(pd.regions) == 2
    again = open_pd(engine)
    assert [r.meta.id for r in again.regions.scan(b"", b"")] == [left_id, 2]
    assert again.regions.search(b"m").leader is None, "who leads is only known after a report"
    assert again.regions.search_prev(b"m").meta.id == left_id


def test_merged_regions_are_forgotten():
    engine = MemoryEngine()
    pd = bootstrapped(engine)
    pd.region_heartbeat(a_region(9, b"", b"m", 2), None)
    pd.region_heartbeat(a_region(2, b"m", b"", 2), None)
    pd.region_heartbeat(a_region(2, b"", b"", 3), None)
    assert len(open_pd(engine).regions) == 1


def test_batch_scan():
    pd = bootstrapped(MemoryEngine())
    pd.region_heartbeat(a_region(9, b"", b"m", 2), None)
    pd.region_heartbeat(a_region(2, b"p", b"", 2), None)

    def scan(ranges, limit=0, contain_all=False):
        return [r.meta.id for r in pd.regions.batch_scan(ranges, limit, contain_all=contain_all)]

    assert scan([(b"a", b"b"), (b"c", b"d"), (b"q", b"")]) == [9, 2]
    assert scan([(b"a", b"")], limit=1) == [9]
    assert scan([(b"a", b"m")], contain_all=True) == [9]
    for gap in ([(b"a", b"n")], [(b"a", b"")], [(b"n", b"o")], [(b"n", b"q")]):
        with pytest.raises(PdError) as refused:
            scan(gap, contain_all=True)
        assert refused.value.type == pdpb.REGIONS_NOT_CONTAIN_ALL_KEY_RANGE
    assert scan([(b"a", b"n")], limit=1, contain_all=True) == [9]
    for bad in ([(b"m", b"p"), (b"a", b"c")], [(b"b", b"a")], [(b"a", b""), (b"b", b"c")]):
        with pytest.raises(PdError) as refused:
            scan(bad)
        assert refused.value.type == pdpb.UNKNOWN


def test_keyspaces():
    engine = MemoryEngine()
    pd = open_pd(engine, keyspaces=("one", "two"))
    assert [(k.id, k.name) for k in pd.keyspaces.all()] == [(0, "DEFAULT"), (1, "one"), (2, "two")]
    again = open_pd(engine, keyspaces=("two", "three", "three"))
    assert again.keyspaces.by_name("three").id == 3
    assert again.keyspaces.by_id(2).name == "two"
    with pytest.raises(PdError) as refused:
        again.keyspaces.by_name("none")
    assert refused.value.type == pdpb.ENTRY_NOT_FOUND
    with pytest.raises(PdError):
        again.create_keyspace("one")
    with pytest.raises(PdError):
        again.create_keyspace("a b")


def test_gc_states_survive():
    engine = MemoryEngine()
    pd = open_pd(engine)
    pd.update_service_gc_safe_point("gc_worker", (1 << 63) - 1, 7)
    pd.update_service_gc_safe_point("br", 60, 9)
    assert pd.update_gc_safe_point(5) == 5
    again = open_pd(engine)
    assert again.gc_states.txn_safe_point == 7
    assert again.update_gc_safe_point(0) == 5
    assert [b.service_id for b in again.gc_states.barriers(int(again.now_s()))] == ["br"]


def test_a_failed_write_changes_nothing_in_memory():
    class Broken(EngineMeta):
        def write(self, changes, *, sync):
            raise StorageError("disk full")

    engine = MemoryEngine()
    bootstrapped(engine)
    pd = PdServer(Broken(engine), time=Clock(), getrandbits=lambda bits: 1)
    for change in (
        lambda: pd.update_service_gc_safe_point("gc_worker", (1 << 63) - 1, 7),
        lambda: pd.put_store(metapb.Store(id=3, address="c:1")),
        lambda: pd.create_keyspace("new"),
        lambda: pd.get_ts(),
        lambda: pd.alloc_id(),
    ):
        with pytest.raises(StorageError, match="disk full"):
            change()
    assert pd.gc_states.txn_safe_point == 0
    assert len(pd.stores.all()) == 1
    assert len(pd.keyspaces) == 1


def test_a_newer_format_is_refused():
    engine = MemoryEngine()
    EngineMeta(engine).write({b"pd/cluster": b'{"format": 2}'}, sync=True)
    with pytest.raises(StorageError, match="format 2"):
        open_pd(engine)
