"""The bytes of tables, held by vectors that other languages' programs can test themselves with.

`vectors.json` is written by this module, `python tests/model/test_vectors.py`, for the readers of
docs/reference/table-format.md. A change of it is a change of the format.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import json
import pathlib
import sys
import uuid
from typing import Any

import pytest

if __name__ == "__main__":
    sys.path.append(str(pathlib.Path(__file__).parent))

from model_tables import MessageUser

from pytikv.model import Desc, Index, Table
from pytikv.model.tuples import decode, encode

PATH = pathlib.Path(__file__).with_name("vectors.json")


@dataclasses.dataclass
class User:
    id: int
    email: str | None
    age: int
    tags: list[str]
    photo: bytes = b""


USERS = [User(1001, "a@b", 30, ["x", "y"], b"\x01\x02"), User(-7, None, 30, [])]
COMMON: dict[str, Any] = {
    "key": "id",
    "unique": ["email"],
    "index": [
        "age",
        Index(Desc("age"), covering=["email"], name="oldest"),
        Index("tags", each="tags"),
        Index("age", name="adults", where=lambda user: user.age >= 18 and user.email is not None),
    ],
}

TUPLES: list[tuple[Any, ...]] = [
    (None,),
    (b"", b"a\0b"),
    ("", "user", "a\0b", "\u00e9"),
    (0, 1, 255, 256, -1, -256, 2**63, 2**64, -(2**64), 2**2040),
    (0.0, 1.5, -1.5, float("inf")),
    (False, True),
    (("a", None, (1,)), 2),
    (uuid.UUID("12345678-1234-5678-1234-567812345678"),),
    (datetime.datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=datetime.UTC), datetime.date(2026, 1, 31)),
    tuple(map(decimal.Decimal, ("0", "1.50", "-0.02", "12345e100", "Infinity", "-Infinity"))),
    (Desc(5), Desc("a\0"), Desc(None), Desc(("x", 1)), Desc(-1.5), Desc(decimal.Decimal("1.5"))),
]


def spelled(value: Any) -> Any:
    """A value for the JSON file: what JSON has not is an object of one member, named after the type."""
    if isinstance(value, Desc):
        return {"desc": spelled(value.value)}
    if isinstance(value, tuple):
        return {"tuple": [spelled(one) for one in value]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**53:
        return {"int": str(value)}
    if isinstance(value, datetime.datetime):
        return {"datetime": value.isoformat()}
    if isinstance(value, datetime.date):
        return {"date": value.isoformat()}
    for kind, name in ((uuid.UUID, "uuid"), (decimal.Decimal, "decimal")):
        if isinstance(value, kind):
            return {name: str(value)}
    return value


def stored(table: Table[Any], records: list[Any]) -> list[dict[str, Any]]:
    """What the rows of a table are in the store, sorted by key."""
    core = table.rows
    found = []
    for record in records:
        key = core.layout.key_of(record)
        encoded = core.layout.encoded_key(key)
        for place, value in core.differ.stored(record, encoded).items():
            found.append((place, value, "row" if place == core.layout.row_key(encoded) else "group"))
        entries = core.layout.entries(record, encoded, key)
        found += [(entry.key, entry.value, f"index {entry.index_name}") for entry in entries]
    return [{"key": key.hex(), "value": value.hex(), "what": what} for key, value, what in sorted(found)]


def message(user: User) -> Any:
    return MessageUser(**{name: value for name, value in dataclasses.asdict(user).items() if value is not None})


def tables() -> dict[str, tuple[Table[Any], list[Any]]]:
    plain = {"key": "id", "unique": ["email"], "index": ["age"]}
    return {
        "json": (Table("user", User, **COMMON, prefix=b"1/"), USERS),
        "msgpack, version 300": (Table("user", User, **COMMON, codec="msgpack", version=300, prefix=b"2/"), USERS),
        "protobuf": (Table("user", MessageUser, **COMMON, prefix=b"3/"), [message(user) for user in USERS]),
        "groups": (Table("user", User, **COMMON, groups={"media": ["photo"]}, prefix=b"4/"), USERS),
        "shards=4": (Table("user", User, **COMMON, shards=4, prefix=b"5/"), USERS),
        "key of two parts, the second descending": (
            Table("user", User, key=("age", Desc("id")), unique=["email"], prefix=b"6/"), USERS,
        ),
        "text keys": (Table("user", User, **plain, keys="text", prefix=b"7/"), USERS),
    }  # fmt: skip


def vectors() -> dict[str, Any]:
    catalog = tables()["json"][0].rows.layout.catalog_key
    return {
        "tuples": [{"tuple": spelled(one)["tuple"], "bytes": encode(one).hex()} for one in TUPLES],
        "records": [spelled_record(user) for user in USERS],
        "tables": {name: stored(table, rows) for name, (table, rows) in tables().items()},
        "catalog": {"table": "user", "prefix": b"1/".hex(), "key": catalog.hex()},
    }


def spelled_record(user: User) -> dict[str, Any]:
    return {name: spelled(value) for name, value in dataclasses.asdict(user).items()}


HELD = json.loads(PATH.read_text()) if PATH.exists() else {}


def test_tuples() -> None:
    assert vectors()["tuples"] == HELD["tuples"]
    for one, held in zip(TUPLES, HELD["tuples"], strict=True):
        assert encode(decode(bytes.fromhex(held["bytes"]))) == encode(one)


@pytest.mark.parametrize("name", tables())
def test_tables(name: str) -> None:
    assert vectors()["tables"][name] == HELD["tables"][name]
    table, records = tables()[name]
    rows = [one for one in HELD["tables"][name] if one["what"] == "row"]
    groups = [bytes.fromhex(one["value"]) for one in HELD["tables"][name] if one["what"] == "group"]
    found = [table.rows.codec.decode([bytes.fromhex(one["value"])]) for one in rows]
    assert {user.id: user.email or None for user in found} == {user.id: user.email or None for user in records}
    assert len(groups) == (len(records) if table.schema.groups else 0)
    for one in rows:
        assert table.rows.layout.key_of_row(bytes.fromhex(one["key"])) in {
            table.rows.layout.key_of(record) for record in records
        }


def test_the_rest() -> None:
    made = vectors()
    assert {name: made[name] for name in ("records", "catalog")} == {
        name: HELD[name] for name in ("records", "catalog")
    }


def test_a_compressed_value_is_read() -> None:
    """Compressed bytes may differ from library to library, so no vector is held to them byte by byte."""
    table = Table("user", User, key="id", compress=True, prefix=b"8/")
    value = table.rows.codec.encode(User(1, "x" * 500, 1, []))
    assert value[:2] == b"\x81\x00"
    assert value[2:6] == b"\x28\xb5\x2f\xfd"
    assert table.rows.codec.decode_one(value) == User(1, "x" * 500, 1, [])


if __name__ == "__main__":
    PATH.write_text(json.dumps(vectors(), indent=1) + "\n")
