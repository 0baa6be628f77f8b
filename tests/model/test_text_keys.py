"""Keys as plain text: where rows and entries lie, data of other programs, and what is refused as ambiguous."""

from __future__ import annotations

import datetime
import enum
import json
import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_drivers import Blocking

from pytikv.model import Desc, Index, Prefix, RowError, SchemaError, Table, UniqueViolation


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


@dataclass
class User:
    id: int
    email: str | None = None
    age: int = 0
    city: str = ""
    born: datetime.date | None = None


@dataclass
class Event:
    day: datetime.date
    name: str
    at: datetime.datetime
    token: uuid.UUID
    level: Level = Level.LOW
    done: bool = False


def users(**options: Any) -> Table[User]:
    options = {"unique": ["email"], "index": ["age", ("city", "born")]} | options
    return Table("user", User, key="id", keys="text", **options)


def events() -> Table[Event]:
    return Table(
        "event", Event, key=("day", "name"), keys="text", prefix=b"e/",
        unique=["token"], index=["at", ("level", "done")],
    )  # fmt: skip


def stored(driver: Any, prefix: bytes = b"") -> dict[bytes, bytes]:
    txn = driver.begin()
    found = dict(driver.rows(txn.scan_prefix(prefix)))
    driver.do(txn.rollback())
    return {key: value for key, value in found.items() if b"catalog_" not in key}


def save(driver: Any, table: Table[Any], *records: Any) -> None:
    txn = driver.begin()
    driver.do(table.put_many(txn, records))
    driver.do(txn.commit())


def test_rows_and_entries_are_texts(driver: Any) -> None:
    save(driver, users(), User(1001, "a_b@x.org", 30, "Rome", datetime.date(1990, 5, 4)), User(-7))
    assert stored(driver) == {
        b"user_1001": b'{"id":1001,"email":"a_b@x.org","age":30,"city":"Rome","born":"1990-05-04"}',
        b"idx_email_a_b@x.org": b"1001",
        b"idx_age_30_1001": b"1001",
        b"idx_city_born_Rome_1990-05-04_1001": b"1001",
        b"user_-7": b'{"id":-7,"email":null,"age":0,"city":"","born":null}',
        b"idx_age_0_-7": b"-7",
    }


def test_keys_of_several_parts(driver: Any) -> None:
    at = datetime.datetime(2026, 1, 31, 13, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
    token = uuid.UUID(int=5)
    event = Event(datetime.date(2026, 1, 31), "the_end", at, token, Level.HIGH, True)
    table = events()
    save(driver, table, event)
    key = b"2026-01-31_the_end"
    found = stored(driver)
    assert set(found) == {
        b"e/event_" + key,
        b"e/idx_token_00000000-0000-0000-0000-000000000005",
        b"e/idx_at_2026-01-31T12:00:00.000000Z_" + key,
        b"e/idx_level_done_2_true_" + key,
    }
    txn = driver.begin()
    assert driver.do(table.get(txn, (datetime.date(2026, 1, 31), "the_end"))) == event
    assert driver.do(table.by(txn, token=token)) == event
    for conditions in (
        {"level": Level.HIGH},
        {"level": Level.HIGH, "done": (False, None)},
        {"at": (at, at + datetime.timedelta(microseconds=1))},
        {"day": (None, datetime.date(2026, 2, 1))},
        {"day": datetime.date(2026, 1, 31), "name": Prefix("the_")},
        {"day": datetime.date(2026, 1, 31), "name": ("t", "u")},
    ):
        assert driver.rows(table.query(txn, **conditions)) == [event], conditions
    assert driver.rows(table.query(txn, at=(None, at))) == []
    assert table.rows.layout.key_of_row(b"e/event_" + key) == (datetime.date(2026, 1, 31), "the_end")
    driver.do(txn.rollback())


def test_rows_of_another_program_are_read_changed_and_deleted(driver: Any) -> None:
    txn = driver.begin()
    value = json.dumps({"id": 5, "email": "e@f", "age": 41, "city": "Oslo", "shoe": 44}).encode()
    for key, held in {
        b"user_5": value,
        b"idx_email_e@f": b"user_5",
        b"idx_age_41_5": b"",
        b"user_50": value.replace(b"5,", b"50,").replace(b"e@f", b"g@h"),
        b"idx_email_g@h": b"50",
        b"idx_age_41_50": b"user_50",
        b"users": b"not ours",
    }.items():
        driver.do(txn.put(key, held))
    driver.do(txn.commit())
    table = users(index=["age"])
    txn = driver.begin()
    five = User(5, "e@f", 41, "Oslo")
    assert driver.do(table.get(txn, 5)) == five
    assert driver.do(table.by(txn, email="e@f")) == five
    assert [row.id for row in driver.rows(table.query(txn, age=41))] == [5, 50]
    assert [row.id for row in driver.rows(table.query(txn))] == [5, 50]
    driver.do(table.update(txn, 5, age=42, email="new"))
    driver.do(table.delete(txn, 50))
    driver.do(txn.commit())
    assert set(stored(driver)) == {b"user_5", b"idx_email_new", b"idx_age_42_5", b"users"}
    with pytest.raises(UniqueViolation, match="new"):
        save(driver, table, User(6, "new"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Table("user_x", User, key="id", keys="text"), "name has no '_'"),
        (lambda: Table("idx", User, key="id", keys="text"), "neither 'idx'"),
        (lambda: users(index=["age", ("age", "city")]), "cannot tell index 'age' from 'age_city'"),
        (lambda: Table("user", User, key=Desc("id"), keys="text"), "cannot descend"),
        (lambda: users(shards=4), "no shards"),
        (lambda: users(groups={"g": ["born"]}, index=[]), "field groups"),
        (lambda: users(index=[Index("age", covering=["city"])]), "covered fields"),
        (lambda: Table("f", Floats, key="id", keys="text"), "cannot hold 'id' as text"),
        (lambda: Table("f", Floats, key="either", keys="text"), "cannot hold 'either' as text"),
    ],
)
def test_ambiguous_declarations(make: Any, says: str) -> None:
    with pytest.raises(SchemaError, match=says):
        make()


@dataclass
class Floats:
    id: float
    either: int | str


def test_indexes_of_two_tables_need_two_names() -> None:
    first = users(prefix=b"t/")
    with pytest.raises(SchemaError, match=r"index 'email' of table 'member' would lie among .* name='member_email'"):
        Table("member", User, key="id", unique=["email"], keys="text", prefix=b"t/")
    apart = Table("member", User, key="id", unique=["email"], keys="text", prefix=b"u/")
    named = Table("member", User, key="id", unique=[Index("email", name="member_email")], keys="text", prefix=b"t/")
    assert (first.name, apart.name, named.name) == ("user", "member", "member")


def test_ambiguous_records(driver: Any) -> None:
    table = users()
    with pytest.raises(RowError, match=r"'New_York' into index 'city_born'.*'_'") as caught:
        save(driver, table, User(1, city="New_York", born=datetime.date(2000, 1, 1)))
    assert caught.value.field == "city"
    event = Event(datetime.date(2026, 1, 31), "x", datetime.datetime(2026, 1, 1), uuid.UUID(int=1))
    with pytest.raises(RowError, match="without a zone"):
        save(driver, events(), event)
    assert stored(driver) == {}


def test_ranges_that_text_has_not(driver: Any) -> None:
    table = users()
    save(driver, table, *(User(number, age=number, city="Rome") for number in (9, 10, 100)))
    txn = driver.begin()
    with pytest.raises(RowError, match=r"ranges of age are no ranges.*scan=True"):
        driver.rows(table.query(txn, age=(9, 11)))
    with pytest.raises(RowError, match="ranges of id are no ranges"):
        driver.rows(table.query(txn, id=(9, None)))
    assert sorted(row.id for row in driver.rows(table.query(txn, age=(9, 11), scan=True))) == [9, 10]
    assert [row.id for row in driver.rows(table.query(txn, age=100))] == [100]
    assert [row.id for row in driver.rows(table.query(txn, id=[9, 100]))] == [100, 9]  # in the order of text
    assert driver.do(table.count(txn, age=10)) == 1
    driver.do(txn.rollback())


@pytest.mark.parametrize("key", [b"user_01", b"user_x", b"user_\xff", b"user_"])
def test_foreign_keys_that_are_none(key: bytes) -> None:
    with pytest.raises(RowError, match="table 'user'"):
        users().rows.layout.key_of_row(key)


@pytest.mark.parametrize("value", [b"{", b"[]", b"{}", b"", b"\xff", b'{"id":"x"}'])
def test_foreign_values_that_are_none(driver: Any, value: bytes) -> None:
    txn = driver.begin()
    driver.do(txn.put(b"user_1", value))
    with pytest.raises(RowError, match="table 'user'"):
        driver.rows(users().query(txn))
    driver.do(txn.rollback())


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@settings(max_examples=60)
@given(rows=st.dictionaries(st.integers(-(10**6), 10**30), st.tuples(TEXTS, st.integers(-5, 5), TEXTS), max_size=5))
def test_whatever_is_taken_is_found_again(rows: dict[int, tuple[str, int, str]]) -> None:
    driver = Blocking("embedded://:memory:")
    try:
        table = users(index=["age", "city"])
        kept: dict[int, User] = {}
        for key, (email, age, city) in rows.items():
            record = User(key, email, age, city)
            try:
                save(driver, table, record)
                kept[key] = record
            except UniqueViolation:
                assert any(other.email == email for other in kept.values())
            except RowError:
                assert "_" in city
        txn = driver.begin()
        assert {row.id: row for row in table.query(txn)} == kept
        for key, record in kept.items():
            assert table.get(txn, key) == record
            assert table.by(txn, email=record.email) == record
            assert record in list(table.query(txn, city=record.city))
            wanted = [row for row in kept.values() if row.city.startswith(record.city[:2])]
            found = list(table.query(txn, city=Prefix(record.city[:2])))
            assert sorted(row.id for row in found) == sorted(row.id for row in wanted)
        txn.rollback()
        assert table.check(driver.db).is_sound
    finally:
        driver.close()
