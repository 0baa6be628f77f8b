"""Workloads over tables: what they do, that their books agree, and that nothing is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

import pytikv
from pytikv.bench.pacing import Pace
from pytikv.bench.running import Load, new_prefix, run
from pytikv.bench.stores import RawStore, TxnStore, drive
from pytikv.bench.tables import KINDS, Flight, TableWorkload
from pytikv.errors import ConfigError

RUNTIMES = [pytest.param(False, id="threads"), pytest.param(True, id="asyncio")]


@pytest.fixture
def db() -> Iterator[pytikv.TransactionClient]:
    """A client of a store in memory that outlives the runs of a test."""
    with pytikv.TransactionClient.connect("embedded://:memory:bench-tables") as client:
        yield client


URL = "embedded://:memory:bench-tables"


@pytest.mark.parametrize("use_asyncio", RUNTIMES)
@pytest.mark.parametrize("kind", KINDS)
def test_workloads(db: pytikv.TransactionClient, kind: str, use_asyncio: bool) -> None:
    prefix = new_prefix()
    workload = TableWorkload(kind, prefix, records=100, note_bytes=10)
    load = Load(Pace(operations=90), workers=3, use_asyncio=use_asyncio, api="txn")
    report = run(URL, workload, prefix, load)
    assert report.workload == f"table-{kind}"
    assert {name: one.count for name, one in report.operations.items()} == {kind: 90}
    assert report.error_count == 0
    assert (report.check is None) == (kind != "booking")
    assert list(db.snapshot().scan()) == []


@pytest.mark.parametrize("use_asyncio", RUNTIMES)
@pytest.mark.parametrize("pessimistic", [False, True])
def test_bookings_agree_with_every_one_in_conflict(
    db: pytikv.TransactionClient, pessimistic: bool, use_asyncio: bool
) -> None:
    prefix = new_prefix()
    workload = TableWorkload("booking", prefix, records=1)
    load = Load(Pace(operations=60), workers=8, use_asyncio=use_asyncio, api="txn", pessimistic=pessimistic)
    report = run(URL, workload, prefix, load)
    assert report.error_count == 0
    assert report.check == {"is_sound": True, "text": "seats and tickets agree: 60 seats sold, 60 tickets"}


def test_a_lost_booking_is_found(db: pytikv.TransactionClient) -> None:
    prefix = new_prefix()
    workload = TableWorkload("booking", prefix, records=3)
    store = TxnStore(db, list)
    drive(store.load(workload.pairs()))
    worker = workload.worker(0, store)
    for _ in range(5):
        drive(worker.next()[1])
    checked = drive(workload.check(store))
    assert checked is not None
    assert checked.is_sound
    with db.begin() as txn:
        flight = workload.flights.first(txn)
        assert isinstance(flight, Flight)
        workload.flights.put(txn, dataclasses.replace(flight, seats=flight.seats + 1))
    checked = drive(workload.check(store))
    assert checked is not None
    assert not checked.is_sound
    assert "DO NOT AGREE" in checked.text
    drive(store.clear(prefix))


def test_loaded_tables_are_sound(db: pytikv.TransactionClient) -> None:
    prefix = new_prefix()
    workload = TableWorkload("insert", prefix, records=50)
    store: Any = TxnStore(db, list)
    drive(store.load(workload.pairs()))
    worker = workload.worker(0, store)
    for _ in range(10):
        drive(worker.next()[1])
    report = workload.people.check(db)
    assert (report.is_sound, report.rows, report.entries) == (True, 60, 120)
    assert workload.people.index_states(db) == {"email": "ready", "age": "ready"}
    drive(store.clear(prefix))


def test_wrong_options(db: pytikv.TransactionClient) -> None:
    with pytest.raises(ConfigError, match="'lookup' is unknown"):
        TableWorkload("lookup", b"p/")
    with pytest.raises(ConfigError, match="at least 1 record"):
        TableWorkload("point", b"p/", records=0)
    with pytest.raises(ConfigError, match="'none' is unknown"):
        TableWorkload("point", b"p/", distribution="none")
    with pytest.raises(ConfigError, match="use the API txn"):
        TableWorkload("point", b"p/").worker(0, RawStore(None, list))
