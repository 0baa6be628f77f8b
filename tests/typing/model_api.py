"""What type checkers see of tables. Checked by test_typing.py with mypy and pyright, never run."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, assert_type

import pydantic

import pytikv
from pytikv.model import Desc, Index, Page, Prefix, RowExists, Table, UniqueViolation
from pytikv.proto.metapb_pb2 import Region


@dataclass
class User:
    id: int
    email: str
    age: int = 0


class Airport(pydantic.BaseModel):
    iata: str
    country: str


users = Table("user", User, key="id", unique=["email"], index=["age", ("email", Desc("age"))])
airports = Table("airport", Airport, key="iata", index=[Index("country", covering=["iata"])], codec="msgpack")
regions = Table("region", Region, key=("id", Desc("start_key")))
assert_type(users, Table[User])
assert_type(airports, Table[Airport])
assert_type(regions, Table[Region])


def blocking(txn: pytikv.Transaction, snapshot: pytikv.Snapshot) -> None:
    assert_type(users.get(txn, 1001), User | None)
    assert_type(users.get(snapshot, 1001), User | None)
    assert_type(airports.get(txn, "LHR"), Airport | None)
    assert_type(regions.get(snapshot, (1, b"a")), Region | None)
    assert_type(users.get(txn, 1, fields=["age"]), dict[str, Any] | None)
    assert_type(users.get_many(txn, [1, 2]), list[User | None])
    assert_type(users.get_many(snapshot, [1, 2], fields=["age"]), list[dict[str, Any] | None])
    assert_type(users.get_for_update(txn, 1), User | None)
    assert_type(users.exists(snapshot, 1), bool)
    assert_type(users.by(txn, email="a@b"), User | None)
    assert_type(users.query(txn, age=(18, 30), limit=3, reverse=True), Iterator[User])
    assert_type(users.query(snapshot, email=Prefix("a"), where=lambda user: user.age > 3), Iterator[User])
    assert_type(users.first(snapshot, age=3), User | None)
    assert_type(users.count(txn, age=3), int)
    page = users.page(snapshot, limit=10, cursor=None, age=3)
    assert_type(page, Page[User])
    assert_type(page.rows, list[User])
    assert_type(page.cursor, str | None)
    assert_type(users.put(txn, User(1, "a@b")), None)
    assert_type(users.put_many(txn, [User(1, "a@b")]), None)
    assert_type(users.insert(txn, User(1, "a@b")), None)
    assert_type(users.insert_many(txn, iter([User(1, "a@b")])), None)
    assert_type(users.update(txn, 1, age=3), User | None)
    assert_type(users.delete(txn, 1), bool)
    assert_type(users.delete_many(txn, {1, 2}), int)
    for user in users.query(txn):
        assert_type(user, User)


async def asynchronous(txn: pytikv.AsyncTransaction, snapshot: pytikv.AsyncSnapshot) -> None:
    assert_type(await users.get(txn, 1001), User | None)
    assert_type(await users.get(snapshot, 1001), User | None)
    assert_type(await users.get(snapshot, 1, fields=["age"]), dict[str, Any] | None)
    assert_type(await users.get_many(txn, [1, 2]), list[User | None])
    assert_type(await users.get_for_update(txn, 1), User | None)
    assert_type(await users.exists(snapshot, 1), bool)
    assert_type(await users.by(txn, email="a@b"), User | None)
    assert_type(users.query(snapshot, age=(18, None)), AsyncIterator[User])
    assert_type(await users.first(snapshot, age=3), User | None)
    assert_type(await users.count(txn, age=3), int)
    assert_type(await users.page(snapshot, limit=10, age=3), Page[User])
    assert_type(await users.put(txn, User(1, "a@b")), None)
    assert_type(await users.put_many(txn, [User(1, "a@b")]), None)
    assert_type(await users.insert(txn, User(1, "a@b")), None)
    assert_type(await users.update(txn, 1, age=3), User | None)
    assert_type(await users.delete(txn, 1), bool)
    assert_type(await users.delete_many(txn, [1, 2]), int)
    async for user in users.query(txn):
        assert_type(user, User)


def errors(taken: UniqueViolation, there: RowExists) -> None:
    assert_type(taken.table, str)
    assert_type(taken.index, str)
    assert_type(taken.value, tuple[Any, ...])
    assert_type(there.table, str)


def wrong(txn: pytikv.Transaction, snapshot: pytikv.Snapshot) -> None:
    users.put(txn, Airport(iata="LHR", country="GB"))  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    users.put(snapshot, User(1, "a"))  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    users.get("txn", 1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    Table("user", User)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Table("user", User, key=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
