"""Batch writers and bulk work as type checkers see them. Checked, never run."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

import pytikv
from pytikv.client.batch_result import BatchResult
from pytikv.client.txn.record_batches import AsyncRecordBatch, RecordBatch
from pytikv.model import Table
from pytikv.model.batch import AsyncBatchWriter, BatchWriter, batch, multi_get
from pytikv.model.bulk import LoadReport, load
from pytikv.model.export import ExportReport, export
from pytikv.model.regions import TablePart, regions, scan_part


@dataclasses.dataclass
class User:
    id: int


@dataclasses.dataclass
class Seat:
    row: int


users = Table("user", User, key="id")


def blocking(db: pytikv.TransactionClient, kv: pytikv.RawClient) -> None:
    with db.batch(max_items=25, max_bytes=16 << 20) as writer:
        assert_type(writer, RecordBatch)
        assert_type(writer.put(users, User(1)), tuple[str, Any])
        assert_type(writer.flush(), BatchResult[tuple[str, Any]])
    assert_type(batch(db), BatchWriter)
    with kv.batch() as raw:
        raw.put(b"k", b"v", ttl=5)
    assert_type(raw.result, BatchResult[bytes])
    assert_type(multi_get(db.snapshot(), {users: [1]}), dict[Table[Any], list[Any]])
    assert_type(load(db, users, [User(1)]), LoadReport)
    assert_type(load(db, users, "users.csv"), LoadReport)
    assert_type(export(db, users, "users.csv"), ExportReport)
    assert_type(regions(db, users), list[TablePart])
    assert_type(scan_part(db, users, regions(db, users)[0]), Iterator[User])


async def asynchronous(db: pytikv.AsyncTransactionClient, kv: pytikv.AsyncRawClient) -> None:
    async with db.batch() as writer:
        assert_type(writer, AsyncRecordBatch)
        assert_type(await writer.put(users, User(1)), tuple[str, Any])
        assert_type(await writer.flush(), BatchResult[tuple[str, Any]])
    assert_type(batch(db), AsyncBatchWriter)
    async with kv.batch() as raw:
        await raw.put(b"k", b"v")
    assert_type(raw.result, BatchResult[bytes])
    assert_type(await load(db, users, [User(1)]), LoadReport)
    assert_type(await export(db, users, "users.csv"), ExportReport)
    assert_type(await regions(db, users), list[TablePart])
    assert_type(scan_part(db, users, (await regions(db, users))[0]), AsyncIterator[User])


def wrong(db: pytikv.TransactionClient, writer: BatchWriter) -> None:
    with db.batch() as made:
        made.put(users, Seat(1))  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
