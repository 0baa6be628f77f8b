"""How many requests the work with tables takes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from model_tables import make_table
from txn_world import Store

from pytikv.model import Table
from pytikv.model.tuples import encode
from pytikv.testing.sim import World

PREFIX = b"requests/"
Work = Callable[[Any], Coroutine[Any, Any, Any]]


def requests(table: Table[Any], work: Work, *, borders: int = 0, is_warm: bool = True, **options: Any) -> list[str]:
    """What is sent for some work in a transaction of its own, once the table is known and row 1 is there."""
    with World(1) as world:
        store = Store(world)
        places = [("user", "by_tag"), ("user", "email"), ("user", 0)][:borders]
        store.split(*(table.schema.prefix + encode(place) for place in places))
        node = store.node()

        async def run() -> list[str]:
            if is_warm:
                async with node.begin() as txn:
                    await table.put(txn, table.cls(id=1, email="one", tags=["x", "y"]))
            node.steps.clear()
            async with node.begin(**options) as txn:
                await work(txn)
            return [name for name in node.names() if name != "timestamp"]

        return store.run(run(), node)


@pytest.fixture(params=[False, True], ids=["one value", "groups"])
def table(request: pytest.FixtureRequest) -> Table[Any]:
    return make_table("dataclass", groups=request.param, prefix=PREFIX + b"%d" % request.param)


def new(table: Table[Any], *numbers: int) -> list[Any]:
    return [table.cls(id=number, email=f"{number}", tags=["x", "z"]) for number in numbers]


def test_an_insert_is_one_read_and_one_prewrite(table: Table[Any]) -> None:
    sent = requests(table, lambda txn: table.insert(txn, new(table, 2)[0]))
    assert sent == ["KvBatchGet", "KvPrewrite"]  # committed by its prewrite


def test_many_inserts_are_no_more(table: Table[Any]) -> None:
    sent = requests(table, lambda txn: table.insert_many(txn, new(table, *range(2, 22))))
    assert sent == ["KvBatchGet", "KvPrewrite"]


def test_an_insert_is_one_prewrite_a_region(table: Table[Any]) -> None:
    sent = requests(table, lambda txn: table.insert(txn, new(table, 2)[0]), borders=3)
    assert sent.count("KvPrewrite") == 4
    assert sent.count("KvBatchGet") <= 2  # the row's region, and that of the unique entries


def test_a_change_that_touches_no_unique_value_reads_once(table: Table[Any]) -> None:
    sent = requests(table, lambda txn: table.update(txn, 1, age=1))
    assert sent in (["KvGet", "KvPrewrite"], ["KvBatchGet", "KvPrewrite"])


def test_a_pessimistic_insert_locks_all_at_once(table: Table[Any]) -> None:
    sent = requests(table, lambda txn: table.insert(txn, new(table, 2)[0]), pessimistic=True)
    # The first key of a transaction is locked by itself; the groups' own values when they are written.
    assert sent.count("KvPessimisticLock") == (3 if table.schema.groups else 2)
    assert sent.count("KvPrewrite") == 1


def test_reads_are_one_request(table: Table[Any]) -> None:
    assert len(requests(table, lambda txn: table.get(txn, 1))) == 1
    assert len(requests(table, lambda txn: table.get(txn, 1, fields=["age"]))) == 1
    assert len(requests(table, lambda txn: table.get(txn, 1, fields=["photo"]))) == 1
    assert len(requests(table, lambda txn: table.get_many(txn, range(50)))) == 1
    assert len(requests(table, lambda txn: table.exists(txn, 1))) == 1
    assert len(requests(table, lambda txn: table.by(txn, email="one"))) == 2


def test_a_table_without_indexes_is_written_blindly() -> None:
    plain = Table("plain", make_table("dataclass", prefix=b"other").cls, key="id", prefix=PREFIX)
    assert requests(plain, lambda txn: plain.put(txn, plain.cls(1)), is_warm=False) == ["KvPrewrite"]
