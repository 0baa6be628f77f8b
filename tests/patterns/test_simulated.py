"""The patterns' guarantees, under crashes, partitions, lost answers, deaths of clients and clocks that jump."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from model_simulation import Tally, Work, run

from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.errors import TikvError
from pytikv.model import Table
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
from pytikv.model.tuples import decode, encode
from pytikv.testing.sim import SimRuntime

SEEDS = range(8)


@dataclasses.dataclass
class Account:
    id: int
    value: int
    version: int = 0


class Counting(Work):
    """Additions to one counter: the sum is that of the successful ones."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.counter = Counter("visits", shards=3)
        self.values: list[int] = []

    async def client(self, db: AsyncTransactionClient, name: str, rt: SimRuntime, rng: random.Random) -> None:
        for _ in range(self.operations):
            amount = rng.randint(1, 5)
            async with self.tally.attempt(amount):
                if rng.random() < 0.5:
                    await self.counter.add_now(db, amount)
                else:
                    await db.run(self.counter.add, amount, pessimistic=rng.random() < 0.5)
            await rt.sleep(rng.random() * 0.05)

    async def finish(self, db: AsyncTransactionClient) -> None:
        assert self.tally.allows(await self.counter.value(db.snapshot())), vars(self.tally)
        self.achieved = self.tally.done


class Numbering(Work):
    """Ids of one sequence: none twice, and those of one process ascend."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    async def client(self, db: AsyncTransactionClient, name: str, rt: SimRuntime, rng: random.Random) -> None:
        sequence = Sequence("orders", block=3)
        last = 0
        for _ in range(self.operations):
            try:
                ids = (
                    await sequence.next_many(db, rng.randint(1, 7)) if rng.random() < 0.5 else [await sequence.next(db)]
                )
            except TikvError:
                continue
            assert ids == sorted(ids)
            assert ids[0] > last
            last = ids[-1]
            self.taken += ids
            await rt.sleep(rng.random() * 0.05)

    async def finish(self, db: AsyncTransactionClient) -> None:
        assert len(set(self.taken)) == len(self.taken)
        self.achieved = len(self.taken)
        assert await Sequence("orders").next(db) > max(self.taken)


class Updating(Work):
    """Increments of two rows by each strategy, side by side: no update is lost."""

    def __init__(self) -> None:
        self.accounts = Table("person", Account, key="id", index=["value"])
        self.tallies = {1: Tally(), 2: Tally()}

    async def prepare(self, db: AsyncTransactionClient) -> None:
        async with db.begin() as txn:
            await self.accounts.put_many(txn, [Account(1, 0), Account(2, 0)])

    async def _add(self, txn: Any, key: int) -> None:
        row = await self.accounts.get_for_update(txn, key)
        assert row is not None
        await self.accounts.update(txn, key, value=row.value + 1)

    async def client(self, db: AsyncTransactionClient, name: str, rt: SimRuntime, rng: random.Random) -> None:
        adaptive = Adaptive(db)
        for _ in range(self.operations):
            key = rng.choice([1, 1, 1, 2])
            way = rng.randrange(3)
            async with self.tallies[key].attempt():
                if way == 0:
                    await optimistic(db, self._add, key)
                elif way == 1:
                    await pessimistic(db, self._add, key)
                else:
                    await adaptive.run(self._add, key, keys=[b"%d" % key])

    async def finish(self, db: AsyncTransactionClient) -> None:
        for key, tally in self.tallies.items():
            row = await self.accounts.get(db.snapshot(), key)
            assert row is not None
            assert tally.allows(row.value), (key, row, vars(tally))
        self.achieved = self.tallies[1].done
        assert (await self.accounts.check(db)).is_sound


class Versioned(Work):
    """Read in one transaction, written in another: of those who read a version, one writes the next."""

    def __init__(self) -> None:
        self.accounts = Table("versioned", Account, key="id", unique=["value"])
        self.winners: dict[int, str] = {}
        self.tally = Tally()
        self.stale: list[tuple[Any, int]] = []

    async def client(self, db: AsyncTransactionClient, name: str, rt: SimRuntime, rng: random.Random) -> None:
        for _ in range(self.operations):
            try:
                row = await self.accounts.get(db.snapshot(), 1) or Account(1, 0)
            except TikvError:
                continue
            await rt.sleep(rng.random() * 0.02)
            async with self.tally.attempt():
                try:
                    written = await db.run(
                        put_version,
                        self.accounts,
                        dataclasses.replace(row, value=row.value + 1),
                        pessimistic=rng.random() < 0.5,
                    )
                except StaleRow as error:
                    self.stale.append((error.stored, row.version))
                    raise
                assert written.version == row.version + 1
                assert written.version not in self.winners
                self.winners[written.version] = name

    async def finish(self, db: AsyncTransactionClient) -> None:
        row = await self.accounts.get(db.snapshot(), 1)
        assert row is not None
        assert row.version == row.value
        assert self.tally.allows(row.version)
        self.achieved = len(self.stale)
        assert all(stored != read for stored, read in self.stale)


class Leased(Work):
    """A log that only the holder of a lease writes: its tokens ascend, whatever holders do after their time."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.seen: list[tuple[int, int]] = []
        self.lost: list[int] = []
        self.log = Table("log", Account, key="id")

    async def _append(self, txn: Any, lease: Lease, entry: int) -> None:
        await lease.guard(txn)
        row = await self.log.get_for_update(txn, 0)
        number = 1 if row is None else row.value + 1
        await self.log.put(txn, Account(0, number))
        await self.log.put(txn, Account(number, entry, lease.token))

    async def client(self, db: AsyncTransactionClient, name: str, rt: SimRuntime, rng: random.Random) -> None:
        lease = Lease("log", ttl_s=rng.choice([0.1, 1.0, 5.0]), owner=name)
        for number in range(self.operations):
            try:
                if not await lease.acquire(db):
                    await rt.sleep(rng.random() * 0.3)
                    continue
                self.tokens.append(lease.token)
                last = await self.log.get(db.snapshot(), 0)
                self.seen.append((lease.token, 0 if last is None else last.value))
                for _ in range(rng.randint(1, 4)):
                    await rt.sleep(rng.random() * rng.choice([0.02, 0.5]))  # perhaps past its end
                    if rng.random() < 0.3:
                        await lease.renew(db)
                    await db.run(self._append, lease, number, pessimistic=rng.random() < 0.5)
                if rng.random() < 0.5:
                    await lease.release(db)
            except LeaseLost as error:
                self.lost.append(error.token - lease.token)
            except TikvError:
                continue

    async def finish(self, db: AsyncTransactionClient) -> None:
        assert len(set(self.tokens)) == len(self.tokens) > 0
        rows = [row async for row in self.log.query(db.snapshot(), id=(1, None))]
        tokens = [row.version for row in rows]
        assert tokens == sorted(tokens)
        for token, count in self.seen:  # of what comes after an acquisition nothing is of a holder before
            assert all(later >= token for later in tokens[count:])
        assert [row.id for row in rows] == list(range(1, len(rows) + 1))
        self.achieved = len(rows)
        assert min(self.lost, default=0) >= 0  # the last holder's token, never an older one


WORKS = [Counting, Numbering, Updating, Versioned, Leased]


@pytest.mark.parametrize("work", WORKS)
def test_guarantees_hold_under_faults(work: type[Work]) -> None:
    faults: dict[str, int] = {}
    achieved = 0
    for seed in SEEDS:
        done = work()
        for name, count in run(seed, done).items():
            faults[name] = faults.get(name, 0) + count
        achieved += done.achieved
    assert {"crash", "partition", "break", "clock of a client"} <= faults.keys()
    assert achieved > 20


# --- planted mistakes ---


def guard_that_does_not_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lease, "_guard", Lease._check)


def lease_by_the_clock_of_the_client(patch: pytest.MonkeyPatch) -> None:
    async def acquire(self: Lease, db: AsyncTransactionClient) -> bool:
        async def work(txn: Any) -> int:
            token, end_ms, _ = await self._read(txn)
            now_ms = int(txn._backend.rt.time() * 1000)
            if now_ms < end_ms:
                return 0
            await self._write(txn, token or 1, now_ms + self._ttl_ms)
            return token or 1

        self.token = await db.run(work, attempts=20)
        return self.token != 0

    patch.setattr(Lease, "_acquire", acquire)


def update_upon_a_plain_get(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Table, "get_for_update", Table.get)


def counter_that_reads_its_snapshot(patch: pytest.MonkeyPatch) -> None:
    async def add(self: Counter, txn: Any, amount: int) -> None:
        key = self._keys[0]
        stored = await txn.get(key)
        if txn.is_pessimistic:
            await txn.lock_keys([key])
        await txn.put(key, encode(((decode(stored)[0] if stored else 0) + amount,)))

    patch.setattr(Counter, "_add", add)


def block_taken_again(patch: pytest.MonkeyPatch) -> None:
    """A commit whose answer was lost is taken for one that failed, and its block for free."""
    honest = Sequence._fetch

    async def fetch(self: Sequence, db: AsyncTransactionClient, size: int) -> tuple[int, int]:
        stored = await db.snapshot().get(self._key)
        begin = decode(stored)[0] if stored else self._first
        await honest(self, db, size)
        return begin, begin + size

    patch.setattr(Sequence, "_fetch", fetch)


@pytest.mark.parametrize(
    ("plant", "work"),
    [
        (guard_that_does_not_lock, Leased),
        (lease_by_the_clock_of_the_client, Leased),
        (update_upon_a_plain_get, Updating),
        (counter_that_reads_its_snapshot, Counting),
        (block_taken_again, Numbering),
    ],
)
def test_a_planted_mistake_is_found(plant: Any, work: type[Work], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)

    def run_all() -> None:
        for seed in range(60):
            run(seed, work())

    with pytest.raises(AssertionError):
        run_all()
