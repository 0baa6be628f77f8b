"""Indexes are built, checked and repaired, rows rewritten, while others write, servers crash and the builder dies."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
from typing import Any

import pytest
from model_simulation import Work, run

from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.client.txn.options import ReadOptions
from pytikv.client.txn.snapshot import AsyncSnapshot
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import TikvError
from pytikv.model import Index, Table, UniqueViolation, walk
from pytikv.model.maintain import CheckReport
from pytikv.model.tuples import encode
from pytikv.testing.sim import SimRuntime
from pytikv.types import Timestamp

SEEDS = range(6)
IDS = range(16)
EMAILS = [None, *"abcdefghij"]


@dataclasses.dataclass
class Person:
    id: int
    email: str | None
    age: int
    tags: list[str]


@dataclasses.dataclass
class Newer:
    id: int
    email: str | None
    age: int
    tags: list[str]
    doubled: int = -1


_prefixes = itertools.count()


def new_place() -> tuple[bytes, tuple[bytes, ...]]:
    """Return a prefix for a table `person`, and borders of regions in it."""
    prefix = b"%04d" % next(_prefixes)
    middles = [("person",), ("person", 0, 3), ("person", 0, 9), ("person", "age"), ("person", "email"), ("person", "t")]
    return prefix, tuple(prefix + encode(middle) for middle in middles)


def drawn(rng: random.Random, key: int) -> Person:
    return Person(key, rng.choice(EMAILS), rng.randrange(4), rng.sample("xyz", rng.randrange(3)))


class Building(Work):
    """A table whose rows are older than its indexes, one of which is unique, built by the first client."""

    def __init__(self) -> None:
        self.prefix, self.borders = new_place()
        self.progress = 0
        self.builds: dict[str, int] = {"email": 0, "age": 0, "tags": 0}
        self.violations = 0
        self.people: Table[Person]

    async def prepare(self, db: AsyncTransactionClient) -> None:
        plain = Table("person", Person, key="id", prefix=self.prefix)
        async with db.begin() as txn:
            for key in IDS[:12]:
                await plain.put(txn, drawn(random.Random(key), key))
        del plain
        self.people = Table(
            "person",
            Person,
            key="id",
            prefix=self.prefix,
            unique=[Index("email", covering=("age",))],
            index=["age", Index("tags", each="tags")],
        )

    async def client(self, db: AsyncTransactionClient, name: str, rt: SimRuntime, rng: random.Random) -> None:
        if name == "client-0":
            await self.build_all(db, rt)
        else:
            for _ in range(30):
                with contextlib.suppress(TikvError):
                    await db.run(self.change, rng.random(), pessimistic=rng.random() < 0.5)
                await rt.sleep(rng.random() * 0.1)

    async def change(self, txn: AsyncTransaction, seed: float) -> None:
        rng = random.Random(seed)
        key, way = rng.choice(IDS), rng.randrange(5)
        if way == 0:
            await self.people.delete(txn, key)
        elif way == 1:
            await self.people.update(txn, key, email=rng.choice(EMAILS), age=rng.randrange(4))
        elif way == 2:
            await self.people.update(txn, key, tags=["x", "new"])
        elif way == 3:
            await self.people.put_many(txn, [drawn(rng, key), drawn(rng, rng.choice(IDS))])
        else:
            await self.people.put(txn, drawn(rng, key))

    async def build_all(self, db: AsyncTransactionClient, rt: SimRuntime) -> None:
        for name in self.builds:
            while True:
                try:
                    await self.people.build_index(db, name, batch=3, on_progress=self.saw)
                    break
                except UniqueViolation as violation:
                    self.violations += 1
                    with contextlib.suppress(TikvError):
                        await db.run(self.mend, violation.value[0], pessimistic=True)
                except TikvError as error:
                    if not error.retryable:
                        raise
                    await rt.sleep(0.05)
            self.builds[name] += 1

    def saw(self, progress: Any) -> None:
        self.progress += 1

    async def mend(self, txn: AsyncTransaction, email: str) -> None:
        """Leave a value to one of the rows that have it."""
        rows = [row async for row in self.people.query(txn, where=lambda row: row.email == email)]
        for row in rows[1:]:
            locked = await self.people.get_for_update(txn, row.id)
            if locked is not None and locked.email == email:
                await self.people.update(txn, row.id, email=None)

    async def finish(self, db: AsyncTransactionClient) -> None:
        assert await self.people.index_states(db) == dict.fromkeys(self.builds, "ready")
        report = await self.people.check(db)
        assert report.problems == []
        assert report.is_sound
        snapshot = db.snapshot()
        rows = [row async for row in self.people.query(snapshot)]
        emails = [row.email for row in rows if row.email is not None]
        assert len(set(emails)) == len(emails)
        assert report.entries == 2 * len(rows) + sum(len(set(row.tags)) for row in rows)
        for row in rows:
            if row.email is not None:
                assert await self.people.by(snapshot, email=row.email) == row
        self.achieved = self.progress + self.violations


class Repairing(Work):
    """An index whose entries were damaged, repaired by some while others write."""

    def __init__(self) -> None:
        prefix, self.borders = new_place()
        indexes: list[Any] = ["age", Index("tags", each="tags")]
        self.people = Table("person", Person, key="id", unique=["email"], index=indexes, prefix=prefix)
        self.reports: list[CheckReport] = []

    async def prepare(self, db: AsyncTransactionClient) -> None:
        layout = self.people.rows.layout
        async with db.begin() as txn:
            rows = [Person(key, EMAILS[key] if key < 8 else None, key % 4, ["x"]) for key in IDS]
            await self.people.put_many(txn, rows)
        async with db.begin() as txn:
            for row in rows:
                encoded = self.people.rows.encoded_of(row)
                entries = {one.index_name: one for one in layout.entries(row, encoded, (row.id,))}
                await txn.delete(entries["age" if row.id % 3 else "tags"].key)
                if row.id % 4 == 1 and "email" in entries:  # taken away, it would let another row have the value
                    await txn.put(entries["email"].key, b"\x01" + encode([(999,)]))
                stale = dataclasses.replace(row, age=77, tags=["gone"], email=f"old{row.id}")
                for entry in layout.entries(stale, encoded, (row.id,))[row.id % 2 :]:
                    await txn.put(entry.key, entry.value)

    async def client(self, db: AsyncTransactionClient, name: str, rt: SimRuntime, rng: random.Random) -> None:
        for _ in range(10):
            with contextlib.suppress(TikvError):
                if name in ("client-0", "client-1"):
                    self.reports.append(await self.people.check(db, repair=True, batch=rng.randint(1, 20)))
                else:
                    await db.run(self.change, rng.random(), pessimistic=rng.random() < 0.5)
            await rt.sleep(rng.random() * 0.1)

    async def change(self, txn: AsyncTransaction, seed: float) -> None:
        rng = random.Random(seed)
        key = rng.choice(IDS)
        if rng.random() < 0.3:
            await self.people.delete(txn, key)
        else:
            await self.people.put(txn, drawn(rng, key))

    async def finish(self, db: AsyncTransactionClient) -> None:
        last = await self.people.check(db, repair=True)
        assert last.is_sound, last
        report = await self.people.check(db)
        assert report.problems == []
        self.achieved = sum(report.repaired for report in self.reports)


class Migrating(Work):
    """Rows of an older class, each converted exactly once, while others write."""

    def __init__(self) -> None:
        prefix, self.borders = new_place()
        self.older = Table("person", Person, key="id", index=["age"], version=1, prefix=prefix)
        self.newer = Table("person", Newer, key="id", index=["age"], version=2, prefix=prefix)

    async def prepare(self, db: AsyncTransactionClient) -> None:
        async with db.begin() as txn:
            await self.older.put_many(txn, [Person(key, None, key, []) for key in IDS])

    def convert(self, row: Newer) -> Newer:
        assert row.doubled == -1  # not converted before
        return dataclasses.replace(row, doubled=row.age * 2, age=row.age + 100)

    async def client(self, db: AsyncTransactionClient, name: str, rt: SimRuntime, rng: random.Random) -> None:
        for _ in range(8):
            with contextlib.suppress(TikvError):
                if name == "client-0":
                    done = await self.newer.migrate(db, convert=self.convert, batch=3)
                    self.achieved += done.rows
                else:
                    await db.run(self.older.update, rng.choice(IDS), email="e", pessimistic=rng.random() < 0.5)
            await rt.sleep(rng.random() * 0.1)

    async def finish(self, db: AsyncTransactionClient) -> None:
        last = await self.newer.migrate(
            db, convert=lambda row: dataclasses.replace(row, doubled=0) if row.doubled < 0 else row
        )
        assert last.rows == len(IDS)
        assert (await self.newer.migrate(db)).changed == 0
        async for row in self.newer.query(db.snapshot()):
            assert row.doubled >= 0
        assert (await self.newer.check(db)).problems == []


@pytest.mark.parametrize("work", [Building, Repairing, Migrating])
def test_nothing_is_lost_under_faults(work: type[Work]) -> None:
    achieved = 0
    for seed in SEEDS:
        done = work()
        run(seed, done, clients=4)
        achieved += done.achieved
    assert achieved > 50


# --- planted mistakes ---


def builder_that_reads_the_past(patch: pytest.MonkeyPatch) -> None:
    honest = walk._read

    async def read(txn: Any, spans: Any, after: Any, limit: int) -> Any:
        if isinstance(txn, AsyncTransaction):
            before = Timestamp.compose(txn.start_ts.physical_ms - 500)
            return await honest(AsyncSnapshot(txn._backend, before, ReadOptions()), spans, after, limit)
        return await honest(txn, spans, after, limit)

    patch.setattr(walk, "_read", read)


def writers_that_take_others_entries(patch: pytest.MonkeyPatch) -> None:
    from pytikv.model.catalog import Catalog

    async def unsettled(self: Any, txn: Any) -> list[str]:
        return []

    patch.setattr(Catalog, "unsettled", unsettled)


def writers_that_do_not_keep_the_index(patch: pytest.MonkeyPatch) -> None:
    from pytikv.model.rows import Rows

    honest = Rows.new_row

    def new(self: Any, record: Any) -> Any:
        made = honest(self, record)
        made.entries = {key: entry for key, entry in made.entries.items() if entry.index_name != "age"}
        return made

    patch.setattr(Rows, "new_row", new)


@pytest.mark.parametrize(
    "plant",
    [builder_that_reads_the_past, writers_that_take_others_entries, writers_that_do_not_keep_the_index],
)
def test_a_planted_mistake_is_found(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)

    def run_all() -> None:
        for seed in range(60):
            run(seed, Building(), clients=4)

    with pytest.raises(AssertionError):
        run_all()
