"""Tables under faults: of those who want one unique value one gets it, and rows agree with their entries at the end."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Any

import pytest
from model_simulation import Work, run

from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import CommitUndetermined, KeyExists, TikvError
from pytikv.model import Index, Table, UniqueViolation
from pytikv.model.rows import Rows
from pytikv.model.tuples import encode
from pytikv.testing.sim import SimRuntime

SEEDS = range(8)


@dataclasses.dataclass
class Seat:
    id: int
    name: str | None
    row: int = 0
    note: str = ""


_prefixes = itertools.count()


class Seats(Work):
    """A table in a place of its own, in several regions. `pessimistic`: None draws it for each transaction."""

    operations = 14

    def __init__(self, *, pessimistic: bool | None = None, shards: int = 0) -> None:
        prefix = b"%04d" % next(_prefixes)
        self.pessimistic = pessimistic
        self.seats = Table(
            "seat", Seat, key="id", unique=["name"], index=["row", Index("name", "row", covering=["id"], name="wide")],
            groups={"rest": ["note"]}, shards=shards, prefix=prefix,
        )  # fmt: skip
        places = [("seat",), ("seat", 0, 4), ("seat", 1), ("seat", "name", "b"), ("seat", "row"), ("seat", "row", 2)]
        self.borders = tuple(prefix + encode(place) for place in places)

    def mode(self, rng: random.Random) -> bool:
        return rng.random() < 0.5 if self.pessimistic is None else self.pessimistic

    async def finish(self, db: AsyncTransactionClient) -> None:
        report = await self.seats.check(db)
        assert report.is_sound, report
        async with db.begin() as txn:
            self.rows = [row async for row in self.seats.query(txn)]
            for row in self.rows:
                assert row.note == f"{row.name} {row.row}"  # main value and group are of one write
        names = [row.name for row in self.rows if row.name is not None]
        assert len(names) == len(set(names)), names


class Claiming(Seats):
    """Clients insert rows of their own with names that others want too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.winners: dict[str, list[int]] = {}
        self.perhaps: dict[str, list[int]] = {}
        self.refused = 0
        self.values: set[tuple[str, tuple[Any, ...]]] = set()
        self._ids = itertools.count()

    async def client(self, db: AsyncTransactionClient, name: str, rt: SimRuntime, rng: random.Random) -> None:
        for _ in range(self.operations):
            await self._claim(db, rng.choice("abcdefgh"), self.mode(rng))
            await rt.sleep(rng.random() * 0.1)

    async def _claim(self, db: AsyncTransactionClient, name: str, pessimistic: bool) -> None:
        key = next(self._ids)
        perhaps = self.perhaps.setdefault(name, [])
        perhaps.append(key)
        try:
            async with db.begin(pessimistic=pessimistic) as txn:
                await self.seats.insert(txn, Seat(key, name, note=f"{name} 0"))
        except CommitUndetermined:
            return
        except UniqueViolation as error:
            self.refused += 1
            perhaps.remove(key)
            self.values.add((name, error.value))
        except TikvError:
            perhaps.remove(key)
        else:
            perhaps.remove(key)
            self.winners.setdefault(name, []).append(key)

    async def finish(self, db: AsyncTransactionClient) -> None:
        await super().finish(db)
        assert all(value == (name,) for name, value in self.values), self.values
        owners = {row.name: row.id for row in self.rows}
        for name, winners in self.winners.items():
            assert winners == [owners[name]], (name, winners, owners[name])
        for name, owner in owners.items():
            assert name is not None
            assert owner in self.winners.get(name, []) or owner in self.perhaps[name]
        async with db.begin() as txn:
            for name, owner in owners.items():
                found = await self.seats.by(txn, name=name)
                assert found is not None
                assert found.id == owner


class Changing(Seats):
    """Clients put, change and delete any rows, many in one transaction."""

    done = 0

    async def client(self, db: AsyncTransactionClient, name: str, rt: SimRuntime, rng: random.Random) -> None:
        for _ in range(self.operations):
            try:
                async with db.begin(pessimistic=self.mode(rng)) as txn:
                    for _ in range(rng.randint(1, 3)):
                        await self._change(txn, rng)
                self.done += 1
            except (TikvError, CommitUndetermined):
                pass
            await rt.sleep(rng.random() * 0.1)

    async def _change(self, txn: AsyncTransaction, rng: random.Random) -> None:
        key, name, row = rng.randrange(8), rng.choice([None, *"abcde"]), rng.randrange(4)
        seat = Seat(key, name, row, f"{name} {row}")
        try:
            match rng.randrange(4):
                case 0:
                    await self.seats.put(txn, seat)
                case 1:
                    await self.seats.insert_many(txn, [seat, dataclasses.replace(seat, id=key + 8, name=None,
                                                                                note=f"None {row}")])  # fmt: skip
                case 2:
                    await self.seats.update(txn, key, name=name, row=row, note=f"{name} {row}")
                case _:
                    await self.seats.delete_many(txn, [key, key + 8])
        except KeyExists:
            pass  # the transaction goes on


@pytest.mark.parametrize("pessimistic", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_one_of_those_who_want_a_unique_value_gets_it(seed: int, pessimistic: bool) -> None:
    work = Claiming(pessimistic=pessimistic, shards=seed % 2 * 3)
    run(seed, work)
    assert sum(map(len, work.winners.values())) + sum(map(len, work.perhaps.values())) >= 3
    assert work.refused >= 3


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_agree_with_their_entries(seed: int) -> None:
    work = Changing(shards=seed % 2 * 3)
    run(100 + seed, work)
    assert work.done >= 5


def test_a_unique_value_that_is_not_looked_for_is_found_by_some_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted mistake: writers take any entry for their own."""
    monkeypatch.setattr(Rows, "_is_anothers", lambda self, entry, encoded_key, seen: False)
    found = []
    for seed in SEEDS:
        try:
            run(seed, Claiming())
        except AssertionError as error:
            found.append(error)
    assert found
