"""The account of a batch writer tells the truth: under crashes, partitions, lost answers, deaths and bad clocks."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from model_simulation import Work, run

from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.errors import Outcome, TikvError
from pytikv.model import Table, UniqueViolation
from pytikv.model import batch as batches
from pytikv.model.batch import AsyncBatchWriter
from pytikv.model.tuples import encode
from pytikv.testing.sim import SimRuntime

SEEDS = range(4)


@dataclasses.dataclass
class Thing:
    owner: int
    number: int
    tag: str
    round: int


things = Table("thing", Thing, key=("owner", "number"), unique=["tag"], index=["round"])


class Batches(Work):
    """Each client writes batches of rows of its own, whose unique tags it shares with all; `may` holds what each row
    may be now: the value of its last round for sure, and those whose answers were lost."""

    borders = tuple(encode(("thing", part)) for part in (0, "round", "tag"))

    def __init__(self, *, expect_new: bool) -> None:
        self.may: dict[tuple[int, int], set[int | None]] = {}
        self.clients = 0
        self.expect_new = expect_new
        self.kinds: dict[str, int] = {"written": 0, "violations": 0, "not applied": 0, "undetermined": 0}

    async def client(self, db: AsyncTransactionClient, name: str, rt: SimRuntime, rng: random.Random) -> None:
        self.clients += 1
        owner = self.clients
        for turn in range(6):
            writer = AsyncBatchWriter(db, max_items=None, max_bytes=1 << 20, concurrency=3, expect_new=self.expect_new)
            wanted = await self._collect(writer, owner, turn, rng)
            before = {key: set(self.may.get(key, {None})) for key in wanted}
            for key, value in wanted.items():  # from here on, should this client die
                self.may[key] = before[key] | {value}
            result = await writer.flush()
            for key, value in wanted.items():
                self._note(key, value, before[key], result.errors.get(("thing", key)))
            assert result.written + len(result.errors) == len(wanted)

    async def _collect(
        self, writer: AsyncBatchWriter, owner: int, turn: int, rng: random.Random
    ) -> dict[tuple[int, int], int | None]:
        wanted: dict[tuple[int, int], int | None] = {}
        for number in rng.sample(range(200), 70):
            if rng.random() < 0.2:
                await writer.delete(things, (owner, number))
                wanted[owner, number] = None
            else:
                tag = f"shared {rng.randrange(60)}" if rng.random() < 0.03 else f"{owner}/{number}/{turn}"
                await writer.put(things, Thing(owner, number, tag, turn))
                wanted[owner, number] = turn
        return wanted

    def _note(self, key: Any, value: int | None, before: set[int | None], error: TikvError | None) -> None:
        if error is None:
            self.may[key] = {value}
            self.kinds["written"] += 1
        elif error.outcome is Outcome.NOT_APPLIED:
            self.may[key] = before
            self.kinds["violations" if isinstance(error, UniqueViolation) else "not applied"] += 1
        else:
            self.kinds["undetermined"] += 1

    async def finish(self, db: AsyncTransactionClient) -> None:
        found = {(row.owner, row.number): row.round async for row in things.query(db.snapshot())}
        for key, values in self.may.items():
            assert found.get(key) in values, f"{key} is {found.get(key)}, and may be {values}"
        assert set(found) <= set(self.may)
        assert (await things.check(db)).is_sound


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("expect_new", [False, True])
def test_what_the_account_says_is_so(seed: int, expect_new: bool) -> None:
    work = Batches(expect_new=expect_new)
    run(seed, work)
    assert work.kinds["written"] > 50, work.kinds


def test_it_is_so_of_a_writer_that_gives_up_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_ATTEMPTS", 1)
    monkeypatch.setattr(batches, "_LOST_COMMITS", 1)
    kinds: dict[str, int] = {}
    for seed in range(8):
        work = Batches(expect_new=False)
        run(seed, work, fault_every_seconds=0.3, break_chance=0.01)
        for kind, count in work.kinds.items():
            kinds[kind] = kinds.get(kind, 0) + count
    assert min(kinds.values()) > 0, kinds
