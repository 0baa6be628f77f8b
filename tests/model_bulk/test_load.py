"""Loading: from records, mappings, CSV and JSON lines; what is refused; what goes on after a crash."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bulk_tables import Flight, flights, made, sharded

import pytikv
from pytikv.errors import InvalidArgument
from pytikv.model import Table
from pytikv.model.bulk import load
from pytikv.proto import metapb_pb2 as metapb

HEADER = "carrier,number,day,origin,ticket,delay,unknown\n"


def stored(driver: Any, table: Table[Any] = flights) -> list[Any]:
    return driver.rows(table.query(driver.db.snapshot()))


def is_sound(db: Any) -> bool:
    return bool(flights.check(db).is_sound)


def test_records_are_loaded_with_their_indexes(driver: Any) -> None:
    rows = made(1000)
    seen = []
    report = driver.do(
        load(driver.db, flights, rows, max_bytes=20_000, on_progress=lambda report: seen.append(report.rows))
    )
    assert (report.rows, report.acknowledged, report.errors, report.is_complete) == (1000, 1000, [], True)
    assert len(seen) > 5
    assert seen == sorted(seen)
    key = lambda row: (row.carrier, row.number)  # noqa: E731
    assert stored(driver) == sorted(rows, key=key)
    assert driver.do(flights.by(driver.begin(), ticket="T000123")).number == 123
    assert driver.do(flights.check(driver.db)).is_sound
    assert driver.do(flights.check(driver.db)).entries == 3000


def test_rows_that_are_there_are_replaced_and_the_last_of_a_key_stays(driver: Any) -> None:
    driver.do(load(driver.db, flights, made(300)))
    changed = [dataclasses.replace(row, origin="LHR") for row in made(300)]
    doubled = [*made(300), *changed]
    report = driver.do(load(driver.db, flights, doubled, max_bytes=10_000))
    assert report.is_complete
    assert {row.origin for row in stored(driver)} == {"LHR"}
    found = driver.do(flights.check(driver.db))
    assert (found.is_sound, found.rows, found.entries) == (True, 300, 900)


def test_mappings_are_converted_by_the_class(db: Any) -> None:
    rows = [{"carrier": "X", "number": 1, "day": "2013-02-03", "origin": "JFK", "ticket": "T1", "more": 5}]
    assert load(db, flights, rows).rows == 1
    with db.begin() as txn:
        found = flights.get(txn, ("X", 1))
    assert found is not None
    assert found.day.isoformat() == "2013-02-03"
    report = load(db, flights, [{"carrier": "X", "number": "one", "day": "2013-02-03", "origin": "", "ticket": ""}])
    assert not report.is_complete
    assert report.errors[0].line == 1
    assert "number" in report.errors[0].reason


def test_csv_and_json_lines(driver: Any, tmp_path: Path) -> None:
    csv = tmp_path / "rows.csv.gz"
    csv.write_bytes(gzip.compress((HEADER + "A,1,2013-01-01,JFK,T1,NA,x\nA,2,2013-01-02,EWR,T2,-1.5,y\n").encode()))
    report = driver.do(load(driver.db, flights, csv, null="NA"))
    assert (report.rows, report.is_complete) == (2, True)
    assert report.size_bytes == csv.stat().st_size
    assert [row.delay for row in stored(driver)] == [None, -1.5]
    lines = tmp_path / "rows.jsonl"
    record = {"carrier": "B", "number": 3, "day": "2013-01-03", "origin": "LGA", "ticket": "T3", "tags": ["x"]}
    lines.write_text(json.dumps(record) + "\n\n" + json.dumps({**record, "number": 4, "ticket": "T4"}) + "\n")
    assert driver.do(load(driver.db, flights, str(lines))).rows == 2
    assert [row.tags for row in stored(driver)] == [[], [], ["x"], ["x"]]


def test_bad_rows_are_reported_with_their_lines(db: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        HEADER
        + "A,1,2013-01-01,JFK,T1,,\n"
        + "A,two,2013-01-01,JFK,T2,,\n"
        + "A,3,2013-01-01\n"
        + "A,4,2013-02-30,JFK,T4,,\n"
        + "A,5,2013-01-01,JFK,T1,,\n"
        + "A,6,2013-01-01,JFK,T6,,\n"
    )
    report = load(db, flights, path, max_errors=4)
    assert report.is_complete
    assert report.rows == 2
    assert [line for line, _ in report.errors] == [3, 4, 5, 6]
    for error, word in zip(report.errors, ("'number'", "3 fields", "'day'", "unique index 'ticket'"), strict=True):
        assert word in error.reason
    assert is_sound(db)
    stopped = load(db, flights, path, max_errors=2)
    assert not stopped.is_complete
    assert stopped.rows == 1
    assert stopped.acknowledged == 3
    assert len(stopped.errors) == 3


def test_columns_must_fit_the_class(db: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("carrier,number\nA,1\n")
    with pytest.raises(InvalidArgument, match="needs the column 'day'"):
        load(db, flights, path)
    path.write_text("")
    with pytest.raises(InvalidArgument, match="empty"):
        load(db, flights, path)
    with pytest.raises(InvalidArgument, match="cannot tell the format"):
        load(db, flights, "rows.txt")
    with pytest.raises(FileNotFoundError):
        load(db, flights, tmp_path / "none.csv")
    with pytest.raises(InvalidArgument, match="an iterable"):
        load(db, flights, 5)  # type: ignore[call-overload]
    with pytest.raises(InvalidArgument, match="twice"):
        load(db, flights, iter([]), split=2)


class Killed(Exception):
    """The process ends here."""


@pytest.mark.parametrize("after", [1, 3, 7])
def test_a_load_that_was_killed_goes_on_from_its_checkpoint(driver: Any, tmp_path: Path, after: int) -> None:
    path, state = tmp_path / "rows.jsonl", tmp_path / "state"
    rows = made(2000)
    path.write_text(
        "".join(json.dumps(dataclasses.asdict(row), default=lambda day: day.isoformat()) + "\n" for row in rows)
    )
    waves = 0

    def kill(report: Any) -> None:
        nonlocal waves
        waves += 1
        if waves == after:
            raise Killed

    options = {"checkpoint": state, "max_bytes": 30_000, "concurrency": 2}
    with pytest.raises(Killed):
        driver.do(load(driver.db, flights, path, on_progress=kill, **options))
    assert state.is_file()
    with pytest.raises(InvalidArgument, match="is the progress of importing"):
        driver.do(load(driver.db, sharded, path, **options))
    report = driver.do(load(driver.db, flights, path, **options))
    assert report.is_complete
    assert 0 < report.skipped < 2000
    assert report.rows + report.skipped == 2000
    assert not state.exists()
    assert len(stored(driver)) == 2000
    assert driver.do(flights.check(driver.db)).is_sound


def test_an_interrupted_source_leaves_what_was_acknowledged(db: Any, tmp_path: Path) -> None:
    state = tmp_path / "state"

    def rows() -> Iterator[Flight]:
        yield from made(500)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(db, flights, rows(), checkpoint=state, max_bytes=20_000)
    acknowledged = json.loads(state.read_bytes())["acknowledged"]
    assert 0 < acknowledged < 500
    report = load(db, flights, made(500), checkpoint=state, max_bytes=20_000)
    assert (report.skipped, report.is_complete) == (acknowledged, True)


def test_memory_is_bounded_by_a_wave(db: Any) -> None:
    taken = written = 0
    most = 0

    def rows() -> Iterator[Flight]:
        nonlocal taken, most
        for row in made(5000):
            taken += 1
            most = max(most, taken - written)
            yield row

    def note(report: Any) -> None:
        nonlocal written
        written = report.rows

    assert load(db, flights, rows(), max_bytes=50_000, on_progress=note).rows == 5000
    assert most < 400


def test_an_error_of_the_store_ends_it(db: Any, tmp_path: Path) -> None:
    load(db, flights, made(1))
    state = tmp_path / "state"
    with pytikv.deadline(0.000001):
        report = load(db, flights, made(10), checkpoint=state)
    assert isinstance(report.error, pytikv.DeadlineExceeded)
    assert (report.is_complete, report.rows, report.acknowledged, report.errors) == (False, 0, 0, [])
    assert load(db, flights, made(10), checkpoint=state).rows == 10


def test_a_source_may_read_by_the_same_client(db: Any) -> None:
    load(db, flights, made(100))
    rows = (dataclasses.replace(row, ticket=row.ticket + "x") for row in flights.query(db.snapshot()))
    assert load(db, sharded, rows, max_bytes=2000).rows == 100


def test_protobuf_messages(db: Any, tmp_path: Path) -> None:
    stores = Table("store", metapb.Store, key="id", index=["address"])
    path = tmp_path / "stores.csv"
    path.write_text("id,address,state,labels,physically_destroyed\n7,a:1,Offline,,true\n8,b:1,0,,false\n")
    assert load(db, stores, path).rows == 2
    with db.begin() as txn:
        found = stores.get(txn, 7)
    assert found is not None
    assert (found.state, found.physically_destroyed) == (metapb.StoreState.Offline, True)


def test_over_the_network_regions_are_split_before(server_url: str) -> None:
    with pytikv.TransactionClient.connect(server_url) as db:
        before = len(pieces(db))
        assert load(db, flights, made(3000), split=4, max_bytes=100_000).rows == 3000
        assert len(pieces(db)) >= before + 12
        assert is_sound(db)


def pieces(db: Any) -> list[Any]:
    backend = db._core._backend

    async def found() -> list[Any]:
        encode = backend.codec.encode_key
        return list(await backend.pieces(encode(b"\x02"), encode(b"\x03"), backend.call()))

    return list(db._rt.run(found()))
