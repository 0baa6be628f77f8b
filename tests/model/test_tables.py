"""What the twin does not say: kinds of transactions, tables side by side, values that are read in another form."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import threading
import uuid
from typing import Any

import pytest
from model_tables import DataUser, MessageUser, make_table

import pytikv
from pytikv.model import Index, RowError, Table, UniqueViolation


class Kind(enum.IntEnum):
    SMALL = 1
    LARGE = 2


@dataclasses.dataclass
class Loose:
    """A row whose values are read in another form than they may be written in."""

    id: int
    any: Any = None
    kind: Kind = Kind.SMALL
    ratios: list[float] = dataclasses.field(default_factory=list)
    numbers: set[int] = dataclasses.field(default_factory=set)
    price: decimal.Decimal = decimal.Decimal(0)
    when: datetime.datetime | None = None
    parts: list[Any] = dataclasses.field(default_factory=list)


def loose(codec: str) -> Table[Loose]:
    return Table(
        "loose", Loose, key="id", codec=codec, unique=["price"],
        index=["any", "kind", "when", Index("ratios", each="ratios"),
               Index("kind", covering=["numbers", "ratios", "any", "price"], name="covering"),
               Index("numbers", each="numbers", where=lambda row: isinstance(row.ratios, list))],
    )  # fmt: skip


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize(
    "values",
    [
        {"any": uuid.UUID(int=1)},
        {"any": decimal.Decimal("1.50"), "price": decimal.Decimal("1.50")},
        {"any": datetime.date(2026, 1, 1), "when": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)},
        {"ratios": [1, 2.5, 1.0], "numbers": {3, 1, 2}},
        {"kind": Kind.LARGE, "any": Kind.LARGE},
        {"when": datetime.datetime(2026, 7, 1, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=-7)))},
    ],
)
def test_entries_are_of_what_is_read(driver: Any, codec: str, values: dict[str, Any]) -> None:
    table = loose(codec)
    for change in ({}, {"kind": Kind.LARGE}, values, {"any": None, "ratios": []}):
        txn = driver.begin()
        if change == {}:
            driver.do(table.put(txn, Loose(1, **values)))
        else:
            driver.do(table.update(txn, 1, **change))
        driver.do(txn.commit())
        assert driver.do(table.check(driver.db)).is_sound
    txn = driver.begin()
    driver.do(table.delete(txn, 1))
    assert [key for key, _ in driver.rows(txn.scan()) if key != table.rows.layout.catalog_key] == []
    driver.do(txn.rollback())


def test_elements_that_cannot_be_indexed(driver: Any) -> None:
    table = Table("loose", Loose, key="id", index=[Index("parts", each="parts")], prefix=b"p")
    txn = driver.begin()
    for parts in ([{"a": 1}], [[1]]):
        with pytest.raises(RowError, match="field 'parts' of table 'loose' is indexed by its elements"):
            driver.do(table.put(txn, Loose(1, parts=parts)))
    driver.do(table.put(txn, Loose(1, parts=[1, "1", None, 1])))
    assert [row.id for row in driver.rows(table.query(txn, parts="1"))] == [1]
    driver.do(txn.rollback())


@pytest.mark.parametrize(
    "options",
    [{"pipelined": True}, {"pessimistic": True, "fair_locking": True}, {"isolation": "RC"}, {"causal": True}],
)
def test_every_kind_of_transaction(driver: Any, options: dict[str, Any]) -> None:
    table = make_table("struct", groups=True)
    txn = driver.begin(**options)
    users = [table.cls(id=number, email=f"{number}", tags=["x"], note="n") for number in range(5)]
    driver.do(table.insert_many(txn, users))
    driver.do(table.update(txn, 1, email="new", note="changed"))
    assert driver.do(table.delete(txn, 2))
    with pytest.raises(UniqueViolation):
        driver.do(table.put(txn, table.cls(id=9, email="new")))
    driver.do(txn.commit())
    txn = driver.begin()
    assert driver.do(table.by(txn, email="new")).note == "changed"
    assert [row.id for row in driver.rows(table.query(txn))] == [0, 1, 3, 4]
    driver.do(txn.rollback())
    assert driver.do(table.check(driver.db)).is_sound


def test_tables_lie_apart(driver: Any) -> None:
    names = ["a", "a.b", "ab", "a-b", "A"]
    tables = [
        Table(name, DataUser, key="id", unique=["email"], prefix=prefix) for name in names for prefix in (b"", b"p")
    ]
    txn = driver.begin()
    for number, table in enumerate(tables):
        driver.do(table.insert(txn, DataUser(1, "same", number)))
    for number, table in enumerate(tables):
        assert [row.age for row in driver.rows(table.query(txn))] == [number]
        assert driver.do(table.by(txn, email="same")).age == number
    driver.do(txn.rollback())


def test_messages_with_text_keys(driver: Any) -> None:
    table = Table("user", MessageUser, key=("city", "id"), unique=["email"], index=["age"], keys="text", prefix=b"m/")
    txn = driver.begin()
    user = MessageUser(id=5, city="Oslo", email="a@b", age=3)
    driver.do(table.put(txn, user))
    assert driver.do(txn.get(b"m/user_Oslo_5")) == user.SerializeToString()
    assert driver.do(txn.get(b"m/idx_age_3_Oslo_5")) == b"Oslo_5"
    assert driver.do(table.by(txn, email="a@b")) == user
    assert driver.do(table.get(txn, ("Oslo", 5))) == user
    driver.do(txn.rollback())


def test_unknown_fields_of_messages_stay_and_do_not_multiply(driver: Any) -> None:
    table = make_table("protobuf", groups=True, prefix=b"unknown")
    newer = MessageUser(id=1, note="n")
    newer.MergeFromString(b"\xa2\x06\x03new")  # field 100
    for _ in range(3):
        txn = driver.begin()
        driver.do(table.put(txn, newer))
        newer = driver.do(table.update(txn, 1, age=5, photo=b"p"))
        driver.do(txn.commit())
    assert newer.SerializeToString().count(b"new") == 1


def test_threads_share_a_table() -> None:
    table = make_table("dataclass", prefix=b"threads")
    with pytikv.TransactionClient.connect("embedded://:memory:") as db:
        won: list[int] = []

        def claim(number: int) -> None:
            def work(txn: Any) -> None:
                table.insert(txn, DataUser(number, "one"))

            try:
                db.run(work, attempts=50)
                won.append(number)
            except UniqueViolation:
                pass

        threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        with db.begin() as txn:
            assert [row.id for row in table.query(txn)] == won


def test_tasks_share_a_table() -> None:
    table = make_table("dataclass", prefix=b"tasks")

    async def main() -> None:
        async with await pytikv.AsyncTransactionClient.connect("embedded://:memory:") as db:

            async def claim(number: int) -> bool:
                async def work(txn: Any) -> None:
                    await table.insert(txn, DataUser(number, "one"))

                try:
                    await db.run(work, attempts=50)
                except UniqueViolation:
                    return False
                return True

            assert sum(await asyncio.gather(*map(claim, range(8)))) == 1

    asyncio.run(main())


def test_what_is_no_transaction(driver: Any) -> None:
    table = make_table("dataclass")
    for wrong in (None, driver.db, "txn"):
        with pytest.raises(pytikv.WrongType, match="a transaction or a snapshot"):
            table.get(wrong, 1)
    with pytest.raises(pytikv.WrongType, match="a snapshot is read only"):
        table.put(driver.db.snapshot(), DataUser(1))
