"""Batch writers for records: what is written when, what is refused, and the account of it; rows of many tables."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from model_drivers import DRIVERS

import pytikv
from pytikv.errors import InvalidArgument, Outcome
from pytikv.model import Table, UniqueViolation
from pytikv.model import batch as batches
from pytikv.model.batch import BatchWriter, batch, multi_get


@dataclasses.dataclass
class User:
    id: int
    email: str
    age: int = 0
    photo: bytes = b""


@dataclasses.dataclass
class Seat:
    flight: str
    row: int


users = Table("batch-user", User, key="id", unique=["email"], index=["age"], groups={"photo": ["photo"]})
seats = Table("batch-seat", Seat, key=("flight", "row"))


def fill(driver: Any, work: Callable[[Callable[..., Any], Any], None], **options: Any) -> Any:
    """Do `work(do, writer)` in the writer's block; returns the writer."""
    writer = driver.db.batch(**options)
    enter, leave = ("__enter__", "__exit__") if isinstance(writer, BatchWriter) else ("__aenter__", "__aexit__")
    driver.do(getattr(writer, enter)())
    work(driver.do, writer)
    driver.do(getattr(writer, leave)(None, None, None))
    return writer


def stored(driver: Any, table: Table[Any]) -> list[Any]:
    return driver.rows(table.query(driver.db.snapshot()))


def user(n: int, **changes: Any) -> User:
    return User(n, **{"email": f"u{n}", "age": n % 7, **changes})


def test_puts_and_deletes_of_several_tables(driver: Any) -> None:
    def first(do: Any, writer: Any) -> None:
        for n in range(300):
            do(writer.put(users, user(n)))
            do(writer.put(seats, Seat("LH", n)))

    def second(do: Any, writer: Any) -> None:
        do(writer.delete(users, 5))
        do(writer.delete(seats, ("LH", 7)))
        do(writer.put(users, user(6, age=99)))
        do(writer.put(users, user(1000, email="u5")))  # the value of the row that goes

    assert fill(driver, first).result.written == 600
    writer = fill(driver, second)
    assert (writer.result.written, writer.result.is_complete) == (4, True)
    assert len(stored(driver, users)) == 300
    assert len(stored(driver, seats)) == 299
    assert driver.do(users.by(driver.begin(), email="u5")).id == 1000
    assert driver.rows(users.query(driver.db.snapshot(), age=99)) == [user(6, age=99)]
    assert driver.do(users.check(driver.db)).is_sound


def test_the_last_operation_on_a_row_counts(driver: Any) -> None:
    def work(do: Any, writer: Any) -> None:
        do(writer.put(users, user(1)))
        do(writer.put(users, user(1, age=50)))
        do(writer.put(users, user(2)))
        do(writer.delete(users, 2))
        do(writer.delete(users, 3))
        do(writer.put(users, user(3)))

    assert fill(driver, work).result.written == 3
    assert stored(driver, users) == [user(1, age=50), user(3)]


@pytest.mark.parametrize("is_known", [False, True])
def test_a_value_moves_from_a_row_that_goes_to_another(driver: Any, is_known: bool) -> None:
    fill(driver, lambda do, writer: [do(writer.put(users, user(n))) for n in (3, 5, 7)] and None)

    def work(do: Any, writer: Any) -> None:
        for new, old in ((1, 5), (9, 7)):
            do(writer.put(users, user(new, email=f"u{old}")))
            do(writer.delete(users, old))
        if is_known:
            do(writer.put(users, user(3)))

    assert fill(driver, work).result.written == 4 + is_known
    assert {row.id: row.email for row in stored(driver, users)} == {1: "u5", 3: "u3", 9: "u7"}
    assert driver.do(users.check(driver.db)).is_sound


@pytest.mark.parametrize("duplicates", [1, 7])
def test_a_record_that_is_refused_stands_alone(driver: Any, duplicates: int) -> None:
    def work(do: Any, writer: Any) -> None:
        for n in range(200):
            do(writer.put(users, user(n, email="same" if n < duplicates + 1 else f"u{n}")))

    result = fill(driver, work).result
    assert (result.written, len(result.errors), result.unprocessed) == (200 - duplicates, duplicates, [])
    for (name, key), error in result.errors.items():
        assert name == "batch-user"
        assert key <= duplicates
        assert isinstance(error, UniqueViolation)
        assert (error.index, error.value, error.outcome) == ("email", ("same",), Outcome.NOT_APPLIED)
    assert driver.do(users.check(driver.db)).is_sound


def test_a_record_that_does_not_fit_is_refused_at_once(driver: Any) -> None:
    def work(do: Any, writer: Any) -> None:
        do(writer.put(users, user(1)))
        with pytest.raises(InvalidArgument, match="field 'email' of table 'batch-user'"):
            do(writer.put(users, user(2, email=5)))
        with pytest.raises(InvalidArgument, match="takes records of class User"):
            do(writer.put(users, Seat("LH", 1)))

    assert fill(driver, work).result.written == 1


@pytest.mark.parametrize(("options", "flushes"), [({"max_items": 25}, 4), ({"max_bytes": 1000}, 7), ({}, 0)])
def test_what_fills_a_batch_writes_it(driver: Any, options: dict[str, int], flushes: int) -> None:
    seen = []

    def work(do: Any, writer: Any) -> None:
        for n in range(100):
            do(writer.put(users, user(n)))
            seen.append(writer.result.written)

    assert fill(driver, work, **options).result.written == 100
    steps = len(set(seen) - {0})
    assert steps == flushes if "max_items" in options or not options else steps > flushes
    if "max_items" in options:
        assert sorted(set(seen)) == [0, 25, 50, 75, 100]


def test_an_exception_writes_nothing_more(driver: Any) -> None:
    writer = driver.db.batch(max_items=10)
    for n in range(15):
        driver.do(writer.put(users, user(n)))
    error = ValueError("stop")
    name = "__exit__" if isinstance(writer, BatchWriter) else "__aexit__"
    driver.do(getattr(writer, name)(ValueError, error, None))
    assert len(stored(driver, users)) == 10
    assert (writer.result.written, writer.result.errors) == (10, {})
    with pytest.raises(InvalidArgument, match="the batch has ended"):
        driver.do(writer.put(users, user(1)))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_what_is_cut_off_is_in_the_account(
    driver: Any, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    insert = batches._insert
    calls = 0
    if isinstance(driver, DRIVERS["asyncio"]) and kind is KeyboardInterrupt:
        kind = asyncio.CancelledError  # what a loop makes of it

    async def interrupted(txn: Any, operations: Any) -> None:
        nonlocal calls
        await insert(txn, operations)
        calls += 1
        if calls == 2:
            raise kind

    writer = driver.db.batch(concurrency=4, max_bytes=16 << 20)
    for n in range(256):
        driver.do(writer.put(users, user(n, photo=b"p" * 20_000)))
    with monkeypatch.context() as patch:
        patch.setattr(batches, "_insert", interrupted)
        with pytest.raises(kind):
            driver.do(writer.flush())
    result = writer.result
    assert result.written + len(result.errors) == 256
    assert len(result.unprocessed) == len(result.errors) >= 20
    assert {error.outcome for error in result.errors.values()} == {Outcome.UNDETERMINED}
    there = {row.id for row in stored(driver, users)}
    assert there.issuperset(set(range(256)) - {key for _, key in result.errors})
    for _, key in result.unprocessed:  # doing it again does no harm
        driver.do(writer.put(users, user(key)))
    driver.do(writer.flush())
    assert len(stored(driver, users)) == 256
    assert driver.do(users.check(driver.db)).is_sound


def test_bad_options(driver: Any) -> None:
    for options in ({"max_items": 0}, {"max_bytes": 0}, {"concurrency": 0}, {"concurrency": 1025}):
        with pytest.raises(InvalidArgument):
            driver.db.batch(**options)
    with pytest.raises(InvalidArgument, match="a transaction client"):
        batch(5)  # type: ignore[arg-type]


def test_tables_of_one_name_under_several_prefixes_do_not_mix(driver: Any) -> None:
    other = Table("batch-seat", Seat, key=("flight", "row"), prefix=b"other/")

    def work(do: Any, writer: Any) -> None:
        do(writer.put(seats, Seat("LH", 1)))
        do(writer.put(other, Seat("LH", 1)))

    assert fill(driver, work).result.written == 2
    assert len(stored(driver, seats)) == len(stored(driver, other)) == 1


def test_a_writer_that_expects_new_rows_meets_old_ones(driver: Any) -> None:
    core = getattr(driver.db, "_core", driver.db)
    fill(driver, lambda do, writer: [do(writer.put(users, user(n))) for n in range(0, 100, 10)] and None)
    for start in (0, 100):
        made = batches.AsyncBatchWriter(core, max_items=None, max_bytes=1 << 20, concurrency=2, expect_new=True)
        writer: Any = made if core is driver.db else BatchWriter(made, driver.db._rt)
        for n in range(start, start + 150):
            driver.do(writer.put(users, user(n, age=77)))
        driver.do(writer.delete(users, start + 1))
        assert driver.do(writer.flush()).written == 150
    assert [row.id for row in stored(driver, users)] == [n for n in range(250) if n not in (1, 101)]
    assert {row.age for row in stored(driver, users)} == {77}
    assert driver.do(users.check(driver.db)).is_sound


def test_multi_get_of_several_tables(driver: Any) -> None:
    def work(do: Any, writer: Any) -> None:
        for n in range(100):
            do(writer.put(users, user(n, photo=b"p" * 100)))
        do(writer.put(seats, Seat("LH", 1)))

    fill(driver, work)
    snapshot = driver.db.snapshot()
    found = driver.do(
        multi_get(snapshot, {users: [*range(99, -1, -1), 500], seats: [("LH", 1)]}, fields={users: ["email"]})
    )
    assert found[users] == [*({"email": f"u{n}"} for n in range(99, -1, -1)), None]
    assert found[seats] == [Seat("LH", 1)]


def test_a_hundred_keys_take_one_round_of_requests(tikv_server: Any) -> None:
    from pytikv.observe import telemetry

    tikv_server.clear()
    with pytikv.TransactionClient.connect(tikv_server.url) as db:
        with db.batch() as writer:
            for n in range(100):
                writer.put(users, user(n, photo=b"p" * 5000))
        db.split([users.rows.layout.row_key(users.rows.encoded(50))])
        snapshot = db.snapshot()
        users.get_many(snapshot, range(100))  # so that regions are known
        sent: list[str] = []

        class Noting(telemetry.Sink):
            def on_step(self, record: Any, step: telemetry.Step) -> None:
                if step.kind == "rpc":
                    sent.append(step.name)

        sink = Noting()
        telemetry.install(sink)
        try:
            found = users.get_many(db.snapshot(), range(100), fields=["email"])
        finally:
            telemetry.remove(sink)
    assert [row["email"] for row in found if row] == [f"u{n}" for n in range(100)]
    assert [name for name in sent if name != "Tso"] == ["KvBatchGet"] * 2, sent  # one a region, at once
