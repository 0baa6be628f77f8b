"""The patterns by themselves: with both kinds of clients, their errors, time and its skew, the estimator's choices."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import pytikv
from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.errors import InvalidArgument, WriteConflict, WrongType
from pytikv.model import RowError, Table
from pytikv.model.patterns import (
    Adaptive,
    Counter,
    Lease,
    LeaseLost,
    Sequence,
    StaleRow,
    optimistic,
    pessimistic,
    put_version,
)
from pytikv.model.patterns.estimate import Estimate, Range


@dataclasses.dataclass
class Page:
    id: int
    text: str
    version: int = 0


PAGES = Table("page", Page, key="id")


@pytest.fixture
def db() -> Iterator[pytikv.TransactionClient]:
    with pytikv.TransactionClient.connect("embedded://:memory:") as client:
        yield client


def test_blocking(db: pytikv.TransactionClient) -> None:
    counter, sequence, lease = Counter("c", shards=4), Sequence("s", block=3), Lease("l")
    for amount in (3, -1, 10**30):
        counter.add_now(db, amount)
    with db.begin() as txn:
        counter.add(txn)
        assert counter.value(txn) == 3 + 10**30
    assert [sequence.next(db), sequence.next_many(db, 5), sequence.next(db)] == [1, [2, 3, 4, 5, 6], 7]
    assert lease.acquire(db)
    assert not Lease("l").acquire(db)
    with db.begin() as txn:
        lease.guard(txn)
    lease.renew(db)
    lease.release(db)
    assert lease.token == 0
    adaptive = Adaptive(db)
    for run in (optimistic, pessimistic):
        assert run(db, lambda txn, number: number, 5) == 5
    assert adaptive.run(lambda txn: txn.get(b"k"), keys=[b"k"]) is None
    with db.begin() as txn:
        page: Page = put_version(txn, PAGES, Page(1, "a"))
    assert page.version == 1


def test_asyncio() -> None:
    async def run() -> None:
        async with await pytikv.AsyncTransactionClient.connect("embedded://:memory:") as db:
            counter, sequence, lease = Counter("c"), Sequence("s", first=100), Lease("l", owner="me")
            await counter.add_now(db, 3)
            async with db.begin() as txn:
                await counter.add(txn, 2)
            assert await counter.value(db.snapshot()) == 5
            taken = await asyncio.gather(*(sequence.next(db) for _ in range(250)))
            assert sorted(taken) == sorted(set(taken))
            assert await lease.acquire(db)
            async with db.begin(pessimistic=True) as txn:
                await lease.guard(txn)
                page = await put_version(txn, PAGES, Page(1, "a"))
            await lease.renew(db)
            await lease.release(db)

            async def name(txn: Any, key: int) -> str:
                row = await PAGES.get_for_update(txn, key)
                return "" if row is None else row.text

            adaptive = Adaptive(db)
            assert await adaptive.run(name, 1, keys=[b"1"]) == page.text
            assert [await optimistic(db, name, 1), await pessimistic(db, name, 1)] == ["a", "a"]

    asyncio.run(run())


def test_a_version_is_written_once(db: pytikv.TransactionClient) -> None:
    with db.begin() as txn:
        first = put_version(txn, PAGES, Page(1, "a"))
    with db.begin() as txn:
        second = put_version(txn, PAGES, dataclasses.replace(first, text="b"))
        with pytest.raises(
            StaleRow, match="has version 2, the record was read with version 1: read it again"
        ) as caught:
            put_version(txn, PAGES, first)
        assert (caught.value.stored, caught.value.table, caught.value.field) == (2, "page", "version")
        with pytest.raises(StaleRow, match="the row of table 'page' has gone"):
            put_version(txn, PAGES, Page(2, "x", 7))
        with pytest.raises(StaleRow, match="has version 2"):
            put_version(txn, PAGES, Page(1, "new"))
        with pytest.raises(RowError, match="field 'text' of table 'page' must be an int to count versions, not 'b'"):
            put_version(txn, PAGES, second, field="text")
    with db.begin() as txn:
        assert PAGES.get(txn, 1) == Page(1, "b", 2)


def test_ids_of_threads(db: pytikv.TransactionClient) -> None:
    sequence = Sequence("s", block=7)
    taken: list[list[int]] = [[] for _ in range(4)]

    def take(ids: list[int]) -> None:
        ids.extend(sequence.next(db) for _ in range(60))

    threads = [threading.Thread(target=take, args=(ids,)) for ids in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = [one for ids in taken for one in ids]
    assert len(set(together)) == len(together) == 240
    assert all(ids == sorted(ids) for ids in taken)


# --- leases and time --------------------------------------------------------------------------------------------------


class Client:
    """Enough of a client for a lease: `run` on a simulated node."""

    def __init__(self, node: Any) -> None:
        class Connection:
            def add(self, client: Any) -> None:
                return

        self.made = AsyncTransactionClient(Connection(), node, is_owner=False)  # type: ignore[arg-type]
        self.made._observe(None)


def test_a_lease_ends_by_the_clock_of_the_cluster(store: Any) -> None:
    """Whatever the clocks of the contenders say."""
    one, other = store.node(), store.node()
    one.rt.clock_skew, other.rt.clock_skew = -3600.0, 3600.0

    async def run() -> None:
        mine, others = Client(one).made, Client(other).made
        lease, rival = Lease("l", ttl_s=10, owner="one"), Lease("l", ttl_s=10, owner="other")
        assert await lease.acquire(mine)
        await one.rt.sleep(9)
        assert not await other.do(rival.acquire(others))
        await lease.renew(mine)
        await one.rt.sleep(9)
        assert not await other.do(rival.acquire(others))
        await one.rt.sleep(2)
        with pytest.raises(LeaseLost, match="lease 'l' is held by nobody, it has ended") as ended:
            await lease.renew(mine)
        assert ended.value.token == lease.token == 1
        assert await other.do(rival.acquire(others))
        assert rival.token == 2
        txn = await one.begin()
        with pytest.raises(LeaseLost, match=r"lease 'l' is held by other \(token 2\)") as lost:
            await lease.guard(txn)
        assert lost.value.token == 2
        await txn.rollback()
        await lease.release(mine)  # without effect: it is another's
        assert not await lease.acquire(mine)
        await other.do(rival.release(others))
        assert await lease.acquire(mine)
        assert lease.token == 3

    store.run(run(), one)


@pytest.mark.parametrize("is_pessimistic", [False, True])
def test_a_guarded_commit_and_an_acquisition_exclude_each_other(store: Any, is_pessimistic: bool) -> None:
    one, other = store.node(), store.node()

    async def run() -> None:
        lease, rival = Lease("l", ttl_s=1), Lease("l", ttl_s=1)
        assert await lease.acquire(Client(one).made)
        txn = await one.begin(pessimistic=is_pessimistic)
        if not is_pessimistic:  # a pessimistic one holds the lease until it ends
            await lease.guard(txn)
        await one.rt.sleep(5)
        assert await other.do(rival.acquire(Client(other).made))
        await txn.put(b"work", b"late")
        with pytest.raises(LeaseLost if is_pessimistic else WriteConflict):
            await (lease.guard(txn) if is_pessimistic else txn.commit())
        if txn.is_open:
            await txn.rollback()
        assert await other.read(b"work") == [None]

    store.run(run(), one)


# --- the choice of a strategy -----------------------------------------------------------------------------------------


def play(estimate: Estimate, costs: dict[bool, float], count: int, now: float = 0.0, workers: int = 4) -> float:
    """Have workers run transactions that take `costs`, one after the other; return when they ended."""
    ends: list[float] = [now] * workers
    for _ in range(count):
        now = ends.pop(0)
        ends.append(now + costs[estimate.begin(now)])
        ends.sort()
        estimate.end(ends[0])
    return now


@pytest.mark.parametrize("dearer", [False, True])
def test_the_cheaper_way_is_found_and_kept(dearer: bool) -> None:
    estimate = Estimate()
    costs = {dearer: 0.020, not dearer: 0.005}
    now = play(estimate, costs, 3000)
    assert estimate.is_pessimistic is not dearer
    spent = play(estimate, costs, 20_000, now) - now
    assert spent < 1.10 * 20_000 * 0.005 / 4  # trials included
    costs = {dearer: 0.005, not dearer: 0.020}
    play(estimate, costs, 4000, now + spent)
    assert estimate.is_pessimistic is dearer


def test_ranges_heat_up_and_cool_down() -> None:
    place = Range()
    assert place.class_number == 0
    for _ in range(20):
        place.running += 2
        place.end(False, 2)
        place.end(False, 2)
    assert place.class_number == 2
    for _ in range(60):
        place.running += 1
        place.end(True, 0)
    assert (place.class_number, place.running) == (0, 0)


def test_adaptive_goes_pessimistic_where_optimistic_tries_are_lost(db: pytikv.TransactionClient) -> None:
    """The last half of the tries: so none fails that would succeed pessimistically."""
    ways = []

    def lose(txn: pytikv.Transaction) -> str:
        ways.append(txn.is_pessimistic)
        if not txn.is_pessimistic:
            raise WriteConflict("another was faster")
        return "done"

    adaptive = Adaptive(db, attempts=4)
    assert adaptive.is_pessimistic([b"a"]) is None
    assert adaptive.run(lose, keys=[b"a", b"b"]) == "done"
    assert ways == [False, False, True]
    assert adaptive.is_pessimistic([b"a"]) is False
    with pytest.raises(WriteConflict):
        Adaptive(db, attempts=1).run(lose)
    with pytest.raises(ZeroDivisionError):
        adaptive.run(lambda txn: 1 // 0)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input(db: pytikv.TransactionClient) -> None:
    untyped: Any = Counter("c")
    with db.begin() as txn:
        for amount in (1.5, "1", True, None):
            with pytest.raises(WrongType, match="a counter counts in ints"):
                untyped.add(txn, amount)
        with pytest.raises(WrongType, match="first argument is a transaction client, not Transaction"):
            untyped.add_now(txn)
    with pytest.raises(WrongType, match="first argument is a transaction or a snapshot, not TransactionClient"):
        untyped.add(db)
    for make in (Counter, Sequence, Lease):
        with pytest.raises(WrongType, match="is a str that is not empty, not ''"):
            make("")
        with pytest.raises(WrongType, match="prefix is bytes, not str"):
            make("x", prefix="p")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="shards"):
        Counter("c", shards=0)
    with pytest.raises(InvalidArgument, match="block"):
        Sequence("s", block=0)
    with pytest.raises(InvalidArgument, match=r"ttl_s is 0.1 to 86400 seconds, not 0"):
        Lease("l", ttl_s=0)
    with pytest.raises(LeaseLost, match="is held by nobody"):
        Lease("l").renew(db)
    with pytest.raises(WrongType, match="Adaptive works with a transaction client, not int"):
        Adaptive(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="attempts"):
        Adaptive(db, attempts=0)
    with pytest.raises(WrongType, match="keys are bytes, not str"):
        Adaptive(db).run(lambda txn: None, keys=["k"])  # type: ignore[list-item]
