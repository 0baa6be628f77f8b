"""`by` finds a row by the fields of the key as by those of a unique index."""

from __future__ import annotations

import dataclasses

import pytikv
from pytikv.model import Table


@dataclasses.dataclass
class Leg:
    day: int
    number: int
    dest: str


def test_the_key_does_as_a_unique_index_does() -> None:
    legs = Table("leg_by_key", Leg, key=("day", "number"))
    with pytikv.TransactionClient.connect("embedded://:memory:") as db, db.begin() as txn:
        legs.put(txn, Leg(1, 400, "JFK"))
        assert legs.by(txn, number=400, day=1) == Leg(1, 400, "JFK")
        assert legs.by(txn, number=401, day=1) is None
