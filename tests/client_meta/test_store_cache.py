"""Stores: addresses, tombstones, marks and probes, on time that passes by sleeping only."""

from __future__ import annotations

import pytest

from pytikv.client.store_cache import StoreCache
from pytikv.errors import ConnectionFailed, RegionUnavailable
from pytikv.types import Store


class Pd:
    def __init__(self) -> None:
        self.stores = {1: Store(1, "a:1", labels=(("zone", "z1"),)), 2: Store(2, "b:1")}
        self.asked: list[int] = []
        self.is_away = False

    async def get_store(self, store_id: int, deadline: float) -> Store | None:
        self.asked.append(store_id)
        if self.is_away:
            raise ConnectionFailed("no PD")
        return self.stores.get(store_id)

    async def get_all_stores(self, deadline: float) -> list[Store]:
        return list(self.stores.values())


class Prober:
    def __init__(self) -> None:
        self.alive = True
        self.asked: list[tuple[str, float]] = []

    async def is_alive(self, address: str, deadline: float) -> bool:
        self.asked.append((address, deadline))
        return self.alive


@pytest.fixture
def pd() -> Pd:
    return Pd()


@pytest.fixture
def prober() -> Prober:
    return Prober()


@pytest.fixture
def stores(fake_rt, pd, prober) -> StoreCache:
    return StoreCache(fake_rt, pd, prober)


def test_an_address_is_asked_once(fake_rt, pd, stores) -> None:
    first = stores.entry(1)
    assert first.address == ""
    for _ in range(3):
        assert fake_rt.run(stores.resolve(1, fake_rt.now() + 5)) is first
    assert (first.address, first.labels, pd.asked) == ("a:1", (("zone", "z1"),), [1])
    assert stores.entries() == [first]


def test_an_old_address_is_refreshed_in_the_background(fake_rt, pd, stores) -> None:
    store = fake_rt.run(stores.resolve(1, fake_rt.now() + 5))
    pd.stores[1] = Store(1, "moved:1")
    fake_rt.clock += 20
    for _ in range(3):
        assert fake_rt.run(stores.resolve(1, fake_rt.now() + 5)).address == "a:1"
    assert len(fake_rt.spawned) == 1
    fake_rt.run(fake_rt.spawned.pop())
    assert store.address == "moved:1"
    fake_rt.clock += 20
    pd.is_away = True
    fake_rt.run(stores.resolve(1, fake_rt.now() + 5))
    fake_rt.run(fake_rt.spawned.pop())  # its failure is nobody's
    assert store.address == "moved:1"


def test_a_forgotten_address_is_asked_before_use(fake_rt, pd, stores) -> None:
    fake_rt.run(stores.resolve(1, fake_rt.now() + 5))
    stores.forget_address(1)
    pd.stores[1] = Store(1, "moved:1")
    assert fake_rt.run(stores.resolve(1, fake_rt.now() + 5)).address == "moved:1"


@pytest.mark.parametrize("gone", [None, Store(1, "a:1", state=2)])
def test_a_store_that_has_left(fake_rt, pd, stores, gone) -> None:
    pd.stores = {} if gone is None else {1: gone}
    store = fake_rt.run(stores.resolve(1, fake_rt.now() + 5))
    assert store.is_tombstone
    assert store.address == ""
    assert store.is_avoided(fake_rt.now())
    fake_rt.run(stores.resolve(1, fake_rt.now() + 5))
    assert pd.asked == [1]
    with pytest.raises(RegionUnavailable):
        fake_rt.run(stores.probe(1, fake_rt.now() + 5))
    pd.stores = {1: Store(1, "a:2")}
    fake_rt.clock += 20
    assert fake_rt.run(stores.resolve(1, fake_rt.now() + 5)).address == "a:2"


def test_avoidance_doubles(fake_rt, stores) -> None:
    waits = []
    store = stores.entry(1)
    for _ in range(8):
        stores.mark_unreachable(1, fake_rt.now())
        stores.mark_unreachable(1, fake_rt.now())  # another call that failed with it
        assert stores.is_avoided(1, fake_rt.now())
        assert not store.needs_probe(fake_rt.now())
        waits.append(store.avoid_until - fake_rt.now())
        fake_rt.clock = store.avoid_until
        assert not stores.is_avoided(1, fake_rt.now())
        assert store.needs_probe(fake_rt.now())
    assert waits == [0.5, 1, 2, 4, 8, 15, 15, 15]
    stores.mark_alive(1)
    assert not store.needs_probe(fake_rt.now())


def test_a_probe_decides(fake_rt, stores, prober) -> None:
    store = fake_rt.run(stores.resolve(1, fake_rt.now() + 5))
    stores.mark_unreachable(1, fake_rt.now())
    fake_rt.clock += 1
    prober.alive = False
    assert not fake_rt.run(stores.probe(1, fake_rt.now() + 5))
    assert store.is_avoided(fake_rt.now())
    assert prober.asked == [("a:1", fake_rt.now() + 1.0)]
    fake_rt.clock += 2
    prober.alive = True
    assert fake_rt.run(stores.probe(1, fake_rt.now() + 5))
    assert store.failures == 0


def test_slow_is_not_suspect(fake_rt, stores) -> None:
    stores.mark_slow(1, fake_rt.now(), 2.0)
    stores.mark_slow(1, fake_rt.now(), 1.0)
    assert stores.is_avoided(1, fake_rt.now() + 1.9)
    assert not stores.is_avoided(1, fake_rt.now() + 2.0)
    assert not stores.entry(1).needs_probe(fake_rt.now() + 3)


def test_a_new_address_is_a_new_chance(fake_rt, stores) -> None:
    stores.put(Store(1, "a:1"))
    stores.mark_unreachable(1, fake_rt.now())
    stores.put(Store(1, "a:1"))
    assert stores.is_avoided(1, fake_rt.now())
    stores.put(Store(1, "b:1"))
    assert not stores.is_avoided(1, fake_rt.now())


def test_all_stores(fake_rt, pd, stores) -> None:
    pd.stores[3] = Store(3, "c:1", state=2)
    assert [store.id for store in fake_rt.run(stores.refresh_all(fake_rt.now() + 5))] == [1, 2]
    assert stores.entry(2).address == "b:1"


def test_no_pd_is_told(fake_rt, pd, stores) -> None:
    pd.is_away = True
    with pytest.raises(ConnectionFailed):
        fake_rt.run(stores.resolve(1, fake_rt.now() + 5))
