"""Exports, at one snapshot and resumable; parts read by other processes."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bulk_tables import flights, made, sharded
from model_drivers import DRIVERS

import pytikv
from pytikv.errors import InvalidArgument
from pytikv.model import Table
from pytikv.model import export as exports
from pytikv.model.bulk import load
from pytikv.model.export import export
from pytikv.model.regions import TablePart, regions, scan_part


@pytest.fixture
def remote(server_url: str) -> Iterator[Any]:
    """A client of a server whose table of flights lies in several regions."""
    with pytikv.TransactionClient.connect(server_url) as db:
        load(db, flights, made(1000), split=5)
        load(db, sharded, made(200))
        yield db


def numbers(lines: bytes) -> list[int]:
    return [json.loads(line)["number"] for line in lines.splitlines()]


BY_KEY = [*range(0, 1000, 2), *range(1, 1000, 2)]


def test_json_lines_come_back(driver: Any, tmp_path: Path) -> None:
    driver.do(load(driver.db, flights, made(1000)))
    target = tmp_path / "out.jsonl"
    report = driver.do(export(driver.db, flights, target))
    assert (report.rows, report.files) == (1000, [target])
    assert numbers(target.read_bytes()) == BY_KEY
    assert list(tmp_path.iterdir()) == [target]
    other = Table("copy", flights.cls, key=("carrier", "number"))
    assert driver.do(load(driver.db, other, target)).rows == 1000
    snapshot = driver.db.snapshot()
    assert driver.rows(other.query(snapshot)) == driver.rows(flights.query(snapshot))


def test_csv_comes_back(db: Any, tmp_path: Path) -> None:
    load(db, flights, made(100))
    target = tmp_path / "out.csv.gz"
    export(db, flights, target, null="NA")
    rows = list(csv.DictReader(gzip.decompress(target.read_bytes()).decode().splitlines()))
    assert len(rows) == 100
    assert rows[0]["delay"] == "NA"
    assert json.loads(rows[0]["tags"]) == ["a", "b,c"]
    other = Table("copy-of-csv", flights.cls, key=("carrier", "number"))
    assert load(db, other, target, null="NA").is_complete
    assert list(other.query(db.snapshot())) == list(flights.query(db.snapshot()))


def test_standard_output(db: Any, capfdbinary: Any) -> None:
    load(db, flights, made(10))
    assert export(db, flights, "-").rows == 10
    assert len(numbers(capfdbinary.readouterr().out)) == 10


def test_many_regions_make_one_ordered_file_of_one_snapshot(remote: Any, tmp_path: Path) -> None:
    ts = remote.current_timestamp()
    with remote.begin() as txn:
        flights.delete(txn, ("AX", 0))
    target = tmp_path / "out.jsonl"
    report = export(remote, flights, target, ts=ts)
    assert report.parts >= 5
    assert numbers(target.read_bytes()) == BY_KEY
    assert len(numbers(Path(export(remote, flights, target).files[0]).read_bytes())) == 999


def test_several_files(remote: Any, tmp_path: Path) -> None:
    report = export(remote, flights, tmp_path, format="csv")
    assert len(report.files) == report.parts >= 5
    found = [int(row["number"]) for path in report.files for row in csv.DictReader(path.read_text().splitlines())]
    assert found == BY_KEY


def test_an_export_that_was_killed_goes_on(remote: Any, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    told = 0

    class Killed(Exception):
        pass

    def kill(report: Any) -> None:
        nonlocal told
        told += 1
        if report.done_parts == 2:
            raise Killed

    with pytest.raises(Killed):
        export(remote, flights, target, concurrency=1, on_progress=kill)
    assert not target.exists()
    with remote.begin() as txn:  # after its timestamp: it stays out
        flights.delete(txn, ("AX", 0))
    with pytest.raises(InvalidArgument, match="unfinished export of something else"):
        export(remote, sharded, target)
    with contextlib.ExitStack() as stack:
        read = []
        original = exports._write_part
        stack.callback(setattr, exports, "_write_part", original)

        async def noted(db: Any, table: Any, work: Any, number: int, tell: Any) -> int:
            read.append(number)
            return await original(db, table, work, number, tell)

        exports._write_part = noted
        report = export(remote, flights, target)
    assert min(read) >= 2
    assert report.rows == 1000
    assert numbers(target.read_bytes()) == BY_KEY


def test_parts_hold_every_row_once(remote: Any) -> None:
    for table, count in ((flights, 1000), (sharded, 200)):
        parts = regions(remote, table)
        assert len({part.ts for part in parts}) == 1
        assert pickle.loads(pickle.dumps(parts)) == parts
        found = [row.number for part in parts for row in scan_part(remote, table, part)]
        assert sorted(found) == list(range(count))
    with pytest.raises(InvalidArgument, match="declared otherwise"):
        next(scan_part(remote, flights, parts[0]))
    part = regions(remote, flights)[0]
    assert all(row.delay for row in scan_part(remote, flights, part, where=lambda row: bool(row.delay)))


def read_parts(url: str, parts: list[TablePart]) -> list[int]:
    with pytikv.TransactionClient.connect(url) as db:
        return [row.number for part in parts for row in scan_part(db, flights, part)]


def test_processes_read_side_by_side_at_one_timestamp(remote: Any, server_url: str) -> None:
    parts = regions(remote, flights)
    assert len(parts) >= 5
    with remote.begin() as txn:
        flights.delete_many(txn, [("AX", n) for n in range(0, 100, 2)])
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(read_parts, [(server_url, parts[at::2]) for at in range(2)])
    assert all(found)
    assert sorted(number for one in found for number in one) == list(range(1000))


def test_parts_with_asyncio(remote: Any, server_url: str) -> None:
    driver = DRIVERS["asyncio"](server_url)
    parts = driver.do(regions(driver.db, flights))
    found = [row.number for part in parts for row in driver.rows(scan_part(driver.db, flights, part))]
    driver.close()
    assert sorted(found) == list(range(1000))
