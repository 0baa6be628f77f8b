"""What reading some fields costs, counted: one step a value, one decoding of an entry's key."""

from __future__ import annotations

import dataclasses

import pytest

import pytikv
from pytikv.model import Index, RowError, Table, codecs, layout

FIELDS = ("name", "city", "age")


@dataclasses.dataclass(slots=True)
class Person:
    number: int
    name: str
    city: str
    age: int = 7


people = Table(
    "person",
    Person,
    key="number",
    index=[Index("city", covering=("name", "age"))],
    prefix=b"fields-cost/",
    codec="json",
)


@dataclasses.dataclass(slots=True)
class Narrow:
    """Whose rows lack what Person has a default for."""

    number: int
    name: str
    city: str


narrow = Table("person", Narrow, key="number", prefix=b"fields-cost/narrow/", codec="json")
later = Table("person", Person, key="number", prefix=b"fields-cost/narrow/", codec="json")


def refuse(*_: object) -> None:
    raise AssertionError("fields were read one by one")


def test_one_step_a_value_and_one_decoding_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytikv.TransactionClient.connect("embedded://:memory:") as db:
        with db.begin() as txn:
            people.put_many(txn, [Person(number, f"n{number}", "Rome") for number in range(5)])
        decoded: list[bytes] = []
        real = layout.decode
        monkeypatch.setattr(layout, "decode", lambda data: decoded.append(data) or real(data))
        monkeypatch.setattr(codecs._MapBody, "_fields_one_by_one", refuse)
        expected = [{"name": f"n{number}", "city": "Rome", "age": 7} for number in range(5)]
        with db.begin() as txn:
            assert list(people.query(txn, city="Rome", fields=FIELDS)) == expected
            assert len(decoded) == 2 * len(expected)  # the key and the value of each entry
            assert people.get(txn, 3, fields=FIELDS) == expected[3]


def test_what_was_not_stored_has_its_default() -> None:
    with pytikv.TransactionClient.connect("embedded://:memory:") as db:
        with db.begin() as txn:
            narrow.put(txn, Narrow(1, "Ada", "London"))
        with db.begin() as txn:
            assert later.get(txn, 1, fields=["age", "name", "age"]) == {"age": 7, "name": "Ada"}


def test_the_field_that_does_not_fit_is_named() -> None:
    body = codecs.RowCodec(people.rows.records, "json")
    head = body.encode(Person(1, "Ada", "London"))[:2]
    with pytest.raises(RowError, match="age"):
        body.decode_fields((head + b'{"name":"Ada","age":"old"}',), ("name", "age"))
    assert body.decode_fields((head + b'{"name":"Ada","age":"old"}',), ("name",)) == {"name": "Ada"}
