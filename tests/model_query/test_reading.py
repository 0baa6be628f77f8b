"""What queries read: no more than they must, no sooner than it is asked for; with every kind of reader."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

import pytikv
from pytikv.client.txn.options import ReadOptions
from pytikv.client.txn.snapshot import AsyncSnapshot
from pytikv.errors import WrongType
from pytikv.model import Desc, Index, Table
from pytikv.model.table import Page


@dataclasses.dataclass
class Item:
    id: int
    kind: str
    price: float
    name: str
    photo: str = ""


def table_of(prefix: bytes = b"", **options: Any) -> Table[Item]:
    indexes: list[Any] = [Index("kind", Desc("price"), covering=("name",), name="kind"), "price"]
    return Table(
        "item",
        Item,
        key="id",
        index=indexes,
        unique=[Index("name", covering=("price",))],
        groups={"large": ["photo"]},
        prefix=prefix,
        **options,
    )


ITEMS = [Item(at, "ab"[at % 2], at / 2, f"n{at}", "p" * 100) for at in range(1500)]


async def filled(node: Any, table: Table[Item]) -> AsyncSnapshot:
    """Return a snapshot of the table with all items, with nothing told of what was sent before."""
    async with node.begin() as txn:
        await table.put_many(txn, ITEMS)
    snapshot = AsyncSnapshot(node, None, ReadOptions())
    await table.first(snapshot, kind="a")  # by which the index is known to be ready
    await table.first(snapshot, name="n1")
    await table.first(snapshot, price=1.0)
    node.steps.clear()
    return snapshot


def test_entries_alone_answer_what_they_cover(store: Any) -> None:
    node, table = store.node(), table_of()

    async def run() -> None:
        snapshot = await filled(node, table)
        asked: list[tuple[list[str], dict[str, Any]]] = [
            (["id", "name", "price"], {"kind": "a", "price": (600.0, None)}),
            (["kind", "price"], {"kind": "a", "price": (600.0, None)}),
            (["name"], {"index": "kind", "kind": "a", "name": ["n1402", "n1400"]}),
            (["price", "id"], {"name": ["n3", "n1499"]}),
        ]
        for fields, conditions in asked:
            node.steps.clear()
            found = [one async for one in table.query(snapshot, fields=fields, **conditions)]
            assert found
            for one in found:
                stored = ITEMS[int(one.get("name", f"n{one.get('id', 0)}")[1:])]
                assert list(one) == fields
                if "name" in one or "id" in one:
                    assert one == {field: getattr(stored, field) for field in fields}
            assert set(node.names()) == {"KvScan"}, conditions
            assert table.explain(fields=fields, **conditions).endswith("; entries alone are read")
        node.steps.clear()
        assert await table.count(snapshot, kind="a", price=(600.0, None)) == 150
        assert await table.count(snapshot, index="kind", kind="a", name=["n1402", "n1403"]) == 1
        assert set(node.names()) == {"KvScan"}
        assert await table.first(snapshot, fields=["photo"], name="n3") == {"photo": "p" * 100}
        assert "KvBatchGet" in node.names()

    store.run(run(), node)


def test_groups_are_read_only_if_asked_for(store: Any) -> None:
    node, table = store.node(), table_of()

    async def run() -> None:
        snapshot = await filled(node, table)
        found = await table.page(snapshot, limit=10, fields=["id", "name"])
        assert found.rows == [{"id": at, "name": f"n{at}"} for at in range(10)]
        assert set(node.names()) == {"KvScan"}
        row = await table.first(snapshot, price=3.0, fields=["kind", "name"])
        assert row == {"kind": "a", "name": "n6"}
        asked = [key for request in node.requests("KvBatchGet") for key in request.keys]
        assert len(asked) == 1
        node.steps.clear()
        assert await table.first(snapshot, id=(3, None)) == ITEMS[3]
        asked = [key for request in node.requests("KvBatchGet") for key in request.keys]
        assert len(asked) == 1  # the group; the main value was there

    store.run(run(), node)


@pytest.mark.parametrize("shards", [0, 4])
def test_pages_are_fetched_as_the_iteration_reaches_them(store: Any, shards: int) -> None:
    node, table = store.node(), table_of(shards=shards)

    async def run() -> None:
        snapshot = await filled(node, table)
        counts, seen = [], 0
        async for one in table.query(snapshot):
            assert one.id == seen
            seen += 1
            counts.append(len(node.steps))
        assert seen == len(ITEMS)
        assert counts[0] <= 3 * max(1, shards)
        assert counts[0] < counts[200] < counts[-1]
        node.steps.clear()
        assert await table.first(snapshot, id=(7, None)) == ITEMS[7]
        assert len(node.steps) <= 1 + max(1, shards)

    store.run(run(), node)


def test_explain() -> None:
    table = table_of(b"explain")
    assert table.explain() == "1 range of the key"
    assert table.explain(id=[1, 2], kind="a") == "2 ranges of the key, filtered by kind"
    assert table.explain(kind="a", reverse=True) == "1 range of index 'kind', from the end; rows are read"
    assert table.explain(kind="a", fields=["name"]) == "1 range of index 'kind'; entries alone are read"
    assert table.explain(photo="x", scan=True, where=bool) == (
        "1 range of the key, filtered by photo, filtered by a function"
    )


def test_blocking_and_asyncio_are_alike(new_prefix: Callable[[], bytes]) -> None:
    table = table_of(new_prefix())
    some = ITEMS[:50]

    def blocking() -> list[Any]:
        with pytikv.TransactionClient.connect("embedded://:memory:") as db:
            with db.begin() as txn:
                table.put_many(txn, some)
                inside = list(table.query(txn, kind="b", limit=3))
            snapshot = db.snapshot()
            first: Item | None = table.first(snapshot, price=(3.0, None))
            page: Page[dict[str, Any]] = table.page(snapshot, limit=4, kind="a", fields=["id"])
            last = table.page(snapshot, limit=4, kind="a", cursor=page.cursor)
            return [inside, list(table.query(snapshot, kind="a")), first, page, last, table.count(snapshot, kind="a")]

    async def running() -> list[Any]:
        async with await pytikv.AsyncTransactionClient.connect("embedded://:memory:") as db:
            async with db.begin() as txn:
                await table.put_many(txn, some)
                inside = [one async for one in table.query(txn, kind="b", limit=3)]
            snapshot = db.snapshot()
            first: Item | None = await table.first(snapshot, price=(3.0, None))
            page: Page[dict[str, Any]] = await table.page(snapshot, limit=4, kind="a", fields=["id"])
            last = await table.page(snapshot, limit=4, kind="a", cursor=page.cursor)
            rows = [one async for one in table.query(snapshot, kind="a")]
            return [inside, rows, first, page, last, await table.count(snapshot, kind="a")]

    told = blocking()
    assert asyncio.run(running()) == told
    assert len(told[0]) == 3
    assert told[3].rows == [{"id": at} for at in (48, 46, 44, 42)]
    assert told[5] == 25
    with pytest.raises(WrongType, match="a transaction or a snapshot"):
        table.first(3, kind="a")  # type: ignore[call-overload]
