"""Building, checking, rewriting, emptying and dropping, one after the other, in the embedded store."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

import pytikv
from pytikv.errors import InvalidArgument, WrongType
from pytikv.model import Index, RowError, SchemaError, Table, UniqueViolation
from pytikv.model.layout import Entry
from pytikv.model.tuples import encode
from pytikv.model.walk import Progress

_prefixes = itertools.count()


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
    name: str = "?"


PEOPLE = [Person(at, f"e{at}", at % 3, ["x", "y"][: at % 3]) for at in range(30)]


@pytest.fixture(scope="module")
def db() -> Iterator[pytikv.TransactionClient]:
    with pytikv.TransactionClient.connect("embedded://:memory:") as client:
        yield client


@pytest.fixture
def prefix() -> bytes:
    return b"%04d" % next(_prefixes)


def indexed(prefix: bytes, cls: Any = Person, **options: Any) -> Table[Any]:
    indexes: list[Any] = ["age", Index("tags", each="tags")]
    return Table("person", cls, key="id", unique=["email"], index=indexes, prefix=prefix, **options)


def filled(db: pytikv.TransactionClient, prefix: bytes, rows: list[Person] = PEOPLE) -> Table[Any]:
    """Return the table with indexes, over rows that were written by a program without them."""
    plain = Table("person", Person, key="id", prefix=prefix)
    with db.begin() as txn:
        plain.put_many(txn, rows)
    del plain
    return indexed(prefix)


def entry(table: Table[Any], row: Person, name: str) -> Entry:
    return table.rows.layout.entries(row, table.rows.encoded_of(row), (row.id,), [name])[0]


# --- build ------------------------------------------------------------------------------------------------------------


def test_an_index_that_is_not_built_is_refused(db: pytikv.TransactionClient, prefix: bytes) -> None:
    table = filled(db, prefix)
    assert table.index_states(db) == {"email": "missing", "age": "missing", "tags": "missing"}
    with db.begin() as txn:
        for use in (
            lambda: list(table.query(txn, age=1)),
            lambda: table.first(txn, index="age"),
            lambda: table.count(txn, tags="x"),
            lambda: table.page(txn, limit=3, age=1),
            lambda: table.by(txn, email="e1"),
        ):
            with pytest.raises(SchemaError, match=r"of table 'person' is missing: .* Run table.build_index\(db, '"):
                use()
        assert table.get(txn, 3) == PEOPLE[3]
    seen: list[Progress] = []
    done = table.build_index(db, "age", batch=7, on_progress=seen.append)
    assert (done.rows, done.changed, done.position) == (30, 30, None)
    assert [one.rows for one in seen] == [7, 14, 21, 28, 30]
    assert table.build_index(db, "age") == Progress(0, 0, None)
    with db.begin() as txn:
        assert table.count(txn, age=1) == 10
    with pytest.raises(InvalidArgument, match="table 'person' has no index 'shoe': declare it first"):
        table.build_index(db, "shoe")
    with pytest.raises(WrongType, match="a transaction client"):
        table.build_index(3, "age")  # type: ignore[call-overload]


def test_moments_before_the_build_do_not_use_the_index(db: pytikv.TransactionClient, prefix: bytes) -> None:
    table = filled(db, prefix)
    before = db.current_timestamp()
    old = db.begin().__enter__()
    table.build_index(db, "age")
    for reader in (old, db.snapshot(before)):
        with pytest.raises(SchemaError, match="built after this transaction or snapshot began: begin another"):
            table.count(reader, age=1)
    old.rollback()
    assert table.count(db.snapshot(), age=1) == 10


def test_duplicates_stop_a_unique_build_until_they_are_mended(db: pytikv.TransactionClient, prefix: bytes) -> None:
    rows = [*PEOPLE[:20], Person(20, "e3", 0, []), Person(21, "e20", 0, [])]
    table = filled(db, prefix, rows)
    for _ in range(2):
        with pytest.raises(UniqueViolation, match="another row with 'e3' in its unique index 'email'"):
            table.build_index(db, "email", batch=4)
        assert table.index_states(db)["email"] == "building"
    with db.begin() as txn:
        table.update(txn, 20, age=9)  # its value is not touched, and its entry is the other's
        table.put(txn, Person(20, "e20x", 0, []))
    seen: list[Progress] = []
    table.build_index(db, "email", batch=4, on_progress=seen.append)
    assert seen[-1].rows < 10  # it went on where it was
    assert table.index_states(db)["email"] == "ready"
    with db.begin() as txn:
        found = table.by(txn, email="e3")
        assert found is not None
        assert found.id == 3
    for name in ("age", "tags"):
        table.build_index(db, name)
    assert table.check(db).problems == []


@pytest.mark.parametrize("pessimistic", [False, True])
def test_deleting_a_duplicate_leaves_the_others_entry(
    db: pytikv.TransactionClient, prefix: bytes, pessimistic: bool
) -> None:
    table = filled(db, prefix, [Person(1, "a", 0, []), Person(2, "a", 0, [])])
    with pytest.raises(UniqueViolation):
        table.build_index(db, "email", batch=1)
    with db.begin(pessimistic=pessimistic) as txn:
        assert table.delete(txn, 2)
    table.build_index(db, "email")
    with db.begin() as txn:
        assert table.by(txn, email="a") == Person(1, "a", 0, [])


# --- check ------------------------------------------------------------------------------------------------------------


def damaged(db: pytikv.TransactionClient, prefix: bytes) -> Table[Any]:
    table = indexed(prefix)
    with db.begin() as txn:
        table.put_many(txn, PEOPLE)
    with db.begin() as txn:
        txn.delete(entry(table, PEOPLE[1], "age").key)  # missing
        txn.delete(entry(table, PEOPLE[2], "email").key)  # missing, unique
        txn.put(entry(table, PEOPLE[4], "tags").key, b"\x01" + encode((None, b"more")))  # wrong
        txn.put(entry(table, PEOPLE[5], "email").key, b"\x01" + encode(((99,),)))  # wrong: of no row
        txn.put(entry(table, PEOPLE[7], "email").key, b"\x01" + encode(((8,),)))  # wrong: of a row without the value
        txn.put(entry(table, PEOPLE[10], "email").key, b"\x01\xfa")  # wrong: no tuple
        txn.put(entry(table, dataclasses.replace(PEOPLE[11], age=50), "age").key, b"\x01\x00")  # dangling
        txn.put(entry(table, Person(77, "zz", 1, []), "email").key, b"\x01" + encode(((77,),)))  # dangling, unique
        txn.put(entry(table, Person(78, None, 1, []), "email").key, b"\x01\x00")  # dangling, None in a unique index
        txn.delete(table.rows.layout.row_key(table.rows.encoded(29)))  # the row is gone: 4 entries dangle
    return table


KINDS = [("missing", 2), ("wrong", 4), ("dangling", 3 + 4)]


def test_all_damage_is_found_and_repaired(db: pytikv.TransactionClient, prefix: bytes) -> None:
    table = damaged(db, prefix)
    report = table.check(db, batch=5)
    assert {kind: sum(one.kind == kind for one in report.problems) for kind, _ in KINDS} == dict(KINDS)
    assert (report.rows, report.found, report.repaired, report.is_sound) == (29, 13, 0, False)
    seen: list[Progress] = []
    mended = table.check(db, repair=True, batch=4, on_progress=seen.append)
    assert (mended.found, mended.repaired, mended.is_sound) == (13, 13, True)
    assert seen[-1].changed == 13
    after = table.check(db)
    assert (after.found, after.entries, after.skipped) == (0, 29 * 2 + sum(len(one.tags) for one in PEOPLE[:29]), [])


def test_two_rows_with_one_value_cannot_be_repaired(db: pytikv.TransactionClient, prefix: bytes) -> None:
    table = filled(db, prefix, PEOPLE[:5])
    for name in ("email", "age", "tags"):
        table.build_index(db, name)
    with db.begin() as txn:  # as a program writes that does not know the index
        row = dataclasses.replace(PEOPLE[4], email="e2")
        txn.put(table.rows.layout.row_key(table.rows.encoded(4)), table.rows.codec.encode(row))
    report = table.check(db, repair=True)
    assert sorted((one.kind, one.index) for one in report.problems) == [("dangling", "email"), ("duplicate", "email")]
    assert (report.found, report.repaired, report.is_sound) == (2, 1, False)
    with db.begin() as txn:
        assert table.by(txn, email="e2") == PEOPLE[2]


def test_indexes_that_are_not_built_are_skipped(db: pytikv.TransactionClient, prefix: bytes) -> None:
    table = filled(db, prefix)
    table.build_index(db, "age")
    report = table.check(db, repair=True)
    assert (report.skipped, report.found, report.entries) == (["email", "tags"], 0, 30)


# --- migrate ----------------------------------------------------------------------------------------------------------


def test_migrate_rewrites_rows_of_other_versions(db: pytikv.TransactionClient, prefix: bytes) -> None:
    older = indexed(prefix, version=1)
    with db.begin() as txn:
        older.put_many(txn, PEOPLE)
    newer = indexed(prefix, Newer, version=2)
    with db.begin() as txn:
        newer.update(txn, 3, name="new already")

    class Killed(Exception):
        pass

    def die(progress: Progress) -> None:
        if progress.rows >= 10:
            raise Killed

    def convert(row: Newer) -> Newer:
        return dataclasses.replace(row, name=f"n{row.id}", age=row.age + 10)

    with pytest.raises(Killed):
        newer.migrate(db, convert=convert, batch=5, on_progress=die)
    done = newer.migrate(db, convert=convert, batch=5)
    assert (done.rows, done.changed) == (20, 20)
    assert (newer.migrate(db).rows, newer.migrate(db, convert=convert).changed) == (30, 0)
    with db.begin() as txn:
        assert newer.get(txn, 3) == Newer(3, "e3", 0, [], "new already")
        assert newer.get(txn, 4) == Newer(4, "e4", 11, ["x"], "n4")
        assert newer.count(txn, age=11) == 10
    assert newer.check(db).problems == []


def test_migrate_does_not_move_rows(db: pytikv.TransactionClient, prefix: bytes) -> None:
    older = indexed(prefix, version=1)
    with db.begin() as txn:
        older.put_many(txn, PEOPLE)

    def move(row: Person) -> Person:
        row.id += 1
        return row

    newer = indexed(prefix, version=2)
    with pytest.raises(RowError, match=r"table 'person' cannot have a row's key changed by convert \(id\): Person"):
        newer.migrate(db, convert=move)
    with pytest.raises(RowError, match="takes records of class Person, not NoneType"):
        newer.migrate(db, convert=lambda row: None)
    with db.begin() as txn:
        assert newer.count(txn) == 30


# --- taking away ------------------------------------------------------------------------------------------------------


def test_truncate_and_drop(db: pytikv.TransactionClient, prefix: bytes) -> None:
    table = indexed(prefix)
    with db.begin() as txn:
        table.put_many(txn, PEOPLE)
    with pytest.raises(InvalidArgument, match="table 'person' declares index 'age': take it out of the declaration"):
        table.drop_index(db, "age")
    del table
    fewer = Table("person", Person, key="id", unique=["email"], index=[Index("tags", each="tags")], prefix=prefix)
    assert fewer.drop_index(db, "age", batch=8).changed == 30
    assert fewer.drop_index(db, "age").changed == 0
    with db.begin() as txn:
        fewer.put(txn, Person(31, "e31", 7, []))
    del fewer
    again = indexed(prefix)
    assert again.index_states(db) == {"email": "ready", "age": "ready", "tags": "ready"} | {"age": "missing"}
    again.build_index(db, "age")
    with db.begin() as txn:
        assert again.count(txn, age=7) == 1
    seen: list[Progress] = []
    assert again.truncate(db, batch=10, on_progress=seen.append).changed == 31
    assert [one.rows for one in seen] == [10, 20, 30, 31]
    with db.begin() as txn:
        left = [key for low, high in again.rows.layout.everything() for key, _ in txn.scan(low, high)]
        assert left == []
        again.insert(txn, PEOPLE[1])
        assert again.by(txn, email="e1") == PEOPLE[1]


def test_asyncio(prefix: bytes) -> None:
    async def run() -> list[Any]:
        async with await pytikv.AsyncTransactionClient.connect("embedded://:memory:") as db:
            plain = Table("person", Person, key="id", prefix=prefix)
            async with db.begin() as txn:
                await plain.put_many(txn, PEOPLE)
            del plain
            table = indexed(prefix)
            done = await table.build_index(db, "email", batch=9)
            report = await table.check(db)
            migrated = await table.migrate(db)
            states = await table.index_states(db)
            emptied = await table.truncate(db)
            return [done.rows, report.rows, migrated.changed, states["email"], emptied.changed]

    assert asyncio.run(run()) == [30, 30, 0, "ready", 30]
