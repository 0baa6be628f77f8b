"""The demonstration and the bench, on a little of the data."""

from __future__ import annotations

import dataclasses
import datetime
import random
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pytikv
import pytikv.model
from pytikv.demo import contention, dataset, loading, queries, seats, tables
from pytikv.demo import run as demo_run
from pytikv.demo.latency import Latencies
from pytikv.demo.tables import Offer, Purse, Seat
from pytikv.model import Table

Run = Callable[..., Any]

needs_data = pytest.mark.skipif(
    not all(dataset.installed(data) for data in (dataset.AIRPORTS, dataset.FLIGHTS)),
    reason="the demonstration's data packages are not installed",
)
FEW = ("--rows", "300", "--buyers", "4", "--seats", "24")


@needs_data
def test_demo(run: Run, tmp_path: Path) -> None:
    store, drawing = str(tmp_path / "demo"), tmp_path / "c.svg"
    done = run("demo", store, *FEW, "--svg", str(drawing))
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1].startswith("demo ok: 300 airports and 300 flights loaded")
    for said in ("airports.by(txn, iata=", "P95 us", "United Air Lines", "█", "no seat sold twice, no money lost"):
        assert said in done.out
    assert drawing.read_text().startswith("<svg")
    assert all(name in drawing.read_text() for name in seats.STRATEGIES)
    assert "pytikv table query flight carrier=UA day=2013-01-01 --limit 5" in done.err
    with pytikv.TransactionClient.connect(f"embedded://{store}") as db:
        snapshot = db.snapshot()
        assert tables.airports.count(snapshot) == tables.flights.count(snapshot) == 300
        assert tables.flights.first(snapshot, carrier="UA") is not None


@needs_data
def test_demo_json_and_again_with_fewer_rows(run: Run, tmp_path: Path) -> None:
    assert run("demo", str(tmp_path / "demo"), "--rows", "400", "--buyers", "0").code == 0
    done = run("demo", str(tmp_path / "demo"), "--rows", "300", "--buyers", "8", "--seats", "40", "--json")
    assert done.code == 0, done.err
    record = done.json()
    assert record["ok"] is True
    assert record["rows"] == {"airports": 300, "flights": 300}
    assert list(record["operations"]) == [
        *("get", "by_iata", "get_many", "by_country", "page", "covered", "count", "insert")
    ]
    assert all(found["operations"] > 0 for found in record["operations"].values())
    assert sum(record["flights_by_carrier"].values()) == 300
    assert record["mismatches"] == 0
    assert record["compared"] > 600
    assert len(record["examples"]) == 6
    sales = record["sales"]
    assert [(one["buyers_a_flight"], one["strategy"]) for one in sales[:4]] == [
        *((1, "optimistic"), (1, "pessimistic"), (1, "adaptive"), (2, "optimistic"))
    ]
    assert sales[-1]["buyers_a_flight"] == 8
    for sale in sales:
        assert sale["sold"] == sale["operations"] == sale["seats"]
        assert sale["problems"] == []
        assert sale["audits"] >= 1


@needs_data
def test_demo_of_some_days(run: Run) -> None:
    record = run("demo", "--days", "1", "--rows", "900", "--buyers", "0", "--json").json()
    assert record["rows"] == {"airports": 900, "flights": 842}
    assert record["sales"] == []


@needs_data
def test_demo_with_metrics_and_traffic(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytikv.demo.traffic import Traffic
    from pytikv.observe import metrics

    pages: list[str] = []
    served: list[metrics.MetricsServer] = []
    serve, traffic = metrics.serve, Traffic.run

    def serve_and_remember(*args: Any, **options: Any) -> metrics.MetricsServer:
        served.append(serve(*args, **options))
        return served[-1]

    def scrape_afterwards(self: Traffic, seconds: float) -> object:
        report = traffic(self, seconds)
        with urllib.request.urlopen(served[-1].url) as answer:
            pages.append(answer.read().decode())
        return report

    monkeypatch.setattr(metrics, "serve", serve_and_remember)
    monkeypatch.setattr(Traffic, "run", scrape_afterwards)
    words = (
        "demo",
        "--rows",
        "100",
        "--buyers",
        "4",
        "--seats",
        "12",
        "--serve-metrics",
        "0",
        "--keep",
        "0.5",
        "--json",
    )
    try:
        done = run(*words, "--serve-metrics", "0", "--keep", "0.5")
    finally:
        metrics.uninstall()
    assert done.code == 0, done.err
    assert f"metrics at {served[0].url}" in done.err
    assert done.json()["traffic"]["wrong_audits"] == 0
    assert done.json()["traffic"]["calls"]["audit"] > 0
    assert 'tikv_request_duration_seconds_count{method="raw_get",status="ok"}' in pages[0]
    with pytest.raises(OSError):  # noqa: PT011  # refused, whatever the platform calls it
        urllib.request.urlopen(served[0].url)


def test_demo_refuses_a_bad_address_for_metrics(run: Run) -> None:
    done = run("demo", "--serve-metrics", "here")
    assert done.code == 2
    assert "HOST:PORT" in done.err


@needs_data
def test_demo_exits_1_on_a_mismatch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Table.get

    def lying(self: Table[Any], txn: Any, key: Any, **options: Any) -> Any:
        found = honest(self, txn, key, **options)
        return dataclasses.replace(found, dest="???") if key[1] == "UA" else found

    monkeypatch.setattr(Table, "get", lying)
    done = run("demo", "--rows", "50", "--buyers", "0")
    assert done.code == 1
    assert "MISMATCH at Flight(" in done.err
    assert done.out.splitlines()[-1].startswith("demo FAILED: ")


# --- what the store might do ------------------------------------------------------------------------------------------


class _Quiet:
    def stage(self, name: str, total: int | None) -> None: ...
    def step(self, done: int) -> None: ...


@pytest.fixture
def db() -> Iterator[pytikv.TransactionClient]:
    with pytikv.TransactionClient.connect("embedded://:memory:") as client:
        yield client


def _lose(db: pytikv.TransactionClient) -> None:
    with db.begin() as txn:
        assert tables.airports.delete(txn, "00AA")


def _change(db: pytikv.TransactionClient) -> None:
    with db.begin() as txn:
        assert tables.airports.update(txn, "00AA", name="Elsewhere") is not None


def _add(db: pytikv.TransactionClient) -> None:
    with db.begin() as txn:
        like = tables.airports.get(txn, "00AA")
        assert like is not None
        tables.airports.insert(txn, dataclasses.replace(like, icao="00AA+"))


def _lose_entry(db: pytikv.TransactionClient) -> None:
    layout = tables.flights.rows.layout
    start, end = layout.everything()[-1]
    with db.begin() as txn:
        key, _ = next(iter(txn.scan(start, end)))
        txn.delete(key)


@needs_data
@pytest.mark.parametrize("fault", [_lose, _change, _add, _lose_entry])
def test_demo_sees_what_the_store_did(
    db: pytikv.TransactionClient, monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytikv.TransactionClient], None]
) -> None:
    """A row or entry lost, changed or added behind the demonstration's back is found when everything is read back."""
    demo = demo_run.Demo(db, demo_run.Plan(rows=50, questions=0, buyers=0), _Quiet())
    real = demo._load

    def load(data: dataset.DataSet[Any]) -> list[Any]:
        records = real(data)
        if data is dataset.FLIGHTS:
            fault(db)
        return records

    monkeypatch.setattr(demo, "_load", load)
    report = demo.run()
    assert not report.ok
    assert report.answers.mismatches


FLIGHT = tables.Flight(
    day=datetime.date(2013, 1, 1),
    carrier="UA",
    number=1,
    origin="EWR",
    dest="IAH",
    tail=None,
    scheduled_departure=515,
    departure=517,
    departure_delay=2,
    scheduled_arrival=819,
    arrival=None,
    arrival_delay=None,
    air_time=None,
    distance_miles=1400,
)


def test_a_wrong_answer_to_a_question_is_noticed(db: pytikv.TransactionClient) -> None:
    stored = [dataclasses.replace(FLIGHT, number=number) for number in range(40)]
    loading.load(db, tables.flights, stored, jobs=2, step=lambda _: None)
    believed = [dataclasses.replace(one, dest="???") if one.number == 7 else one for one in stored]
    answers = queries.Answers()
    source = queries.Source([], believed[:-1])
    questions = queries.Questions(db, source, answers, random.Random(1), stage=lambda *_: None, step=lambda _: None)
    questions._get_many(1)
    questions._pages(1)
    questions._counts(1)
    assert len(answers.mismatches) == 1 + 2 + 1  # row 7; row 7 and one row too many; too many


def test_clearing_leaves_neither_rows_nor_entries(db: pytikv.TransactionClient) -> None:
    stored = [dataclasses.replace(FLIGHT, number=number) for number in range(30)]
    steps: list[int] = []
    assert loading.load(db, tables.flights, stored, jobs=2, step=steps.append) == 30
    loading.clear(db, tables.flights, steps.append)
    assert steps == [30, 30]
    layout = tables.flights.rows.layout
    assert [list(db.snapshot().scan(start, end)) for start, end in layout.everything()] == [[], [], []]


def test_loading_says_which_row_is_not_as_expected(db: pytikv.TransactionClient) -> None:
    same = [tables.Airport(code, "ABC", "", None, None, "IS", 0.0, 0.0, 0.0, "UTC", None) for code in ("BIAA", "BIBB")]
    with pytest.raises(pytikv.model.RowError, match=r"row 2 of table 'airport' was refused: .*'ABC'"):
        loading.load(db, tables.airports, same, jobs=2, step=lambda _: None)


# --- sales ------------------------------------------------------------------------------------------------------------

SALE = seats.Sale(["UA1", "DL2"], "optimistic", buyers=8, seats=5, think_s=0.0)


@pytest.mark.parametrize("strategy", seats.STRATEGIES)
def test_a_sale(db: pytikv.TransactionClient, strategy: str) -> None:
    report = seats.sell(db, dataclasses.replace(SALE, strategy=strategy))
    assert report.ok, report.problems
    assert report.sold == report.seats == len(report.latencies) == 10
    assert report.gave_up == 0
    assert report.buyers_a_flight == 4


def test_a_sale_goes_on_where_the_store_has_no_time_for_an_audit(
    db: pytikv.TransactionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, asked = seats.audit, []

    def busy(snapshot: pytikv.Snapshot, sale: seats.Sale) -> list[str]:
        asked.append(sale)
        if len(asked) == 1:
            raise pytikv.Overloaded("no place became free in time")
        return honest(snapshot, sale)

    monkeypatch.setattr(seats, "audit", busy)
    report = seats.sell(db, dataclasses.replace(SALE, think_s=0.001))
    assert report.ok
    assert report.sold == report.seats
    assert report.audits == len(asked) - 1 >= 1


@pytest.mark.parametrize(
    ("tamper", "finding"),
    [
        (lambda txn: tables.seats.delete(txn, ("UA1", 3)), "4 seats sold and 0 left are not 5"),
        (lambda txn: tables.seats.put(txn, Seat("UA1", 6, 0)), "6 seats sold and 0 left are not 5"),
        (lambda txn: tables.seats.put(txn, Seat("UA1", 3, 999)), "buyer "),
        (lambda txn: tables.purses.put(txn, Purse(3, 0)), "money came or went"),
        (lambda txn: tables.offers.put(txn, Offer("DL2", 0, 1)), "5 seats sold for 1"),
    ],
    ids=["seat lost", "oversold", "seat sold twice", "money lost", "wrong revenue"],
)
def test_the_audit_finds_wrong_books(db: pytikv.TransactionClient, tamper: Callable[..., None], finding: str) -> None:
    assert seats.sell(db, SALE).ok
    with db.begin() as txn:
        tamper(txn)
    problems = seats.audit(db.snapshot(), SALE)
    assert any(finding in problem for problem in problems), problems


def test_levels_of_contention() -> None:
    assert contention.levels(32, 1000) == [32, 10, 3, 1]
    assert contention.levels(2, 1000) == [2, 1]
    assert contention.levels(64, 1) == [1]
    reports = [
        seats.SaleReport(strategy, 4, level, 10, Latencies()) for level in (4, 1) for strategy in seats.STRATEGIES[:2]
    ]
    names, series = contention.throughputs(reports)
    assert names == ["1", "4"]
    assert series == {"optimistic": [0.0, 0.0], "pessimistic": [0.0, 0.0], "adaptive": [None, None]}


# --- the data ---------------------------------------------------------------------------------------------------------


@needs_data
def test_data_is_all_there_and_keys_are_unique() -> None:
    airports = list(dataset.read(dataset.AIRPORTS))
    assert len({airport.icao for airport in airports}) == len(airports) == 28_298
    kennedy = next(airport for airport in airports if airport.iata == "JFK")
    assert (kennedy.icao, kennedy.country, kennedy.timezone) == ("KJFK", "US", "America/New_York")
    keys = {queries.flight_key(flight) for flight in dataset.read(dataset.FLIGHTS)}
    assert len(keys) == 336_776
    assert (datetime.date(2013, 1, 1), "UA", 1545, "EWR") in keys
    assert len(dataset.carrier_names()) == 16


def test_missing_package_says_how_to_get_it() -> None:
    missing = dataclasses.replace(dataset.AIRPORTS, name="moons", distribution="no-such-distribution-here")
    with pytest.raises(pytikv.ConfigError, match=r"pip install \"pytikv\[demo\]\""):
        next(dataset.read(missing))


@pytest.mark.parametrize("flags", [[], ["--asyncio"]])
def test_bench(run: Run, flags: list[str]) -> None:
    record = run("bench", "-n", "200", "-c", "4", "--keys", "20", "--json", *flags).json()
    assert record["concurrency"] == 4
    assert record["runtime"] == ("asyncio" if flags else "threads")
    assert {kind: one["operations"] for kind, one in record["results"].items()} == {"get": 200, "put": 200}
    assert run("scan").out == ""
    assert "P99 us" in run("bench", "-n", "10", "--work", "get", *flags).out


def test_latencies() -> None:
    latencies = Latencies()
    assert latencies.summary()["p99_us"] == 0
    assert latencies.histogram() == []
    for microseconds in range(1, 101):
        latencies.add(microseconds * 1000)
    assert [latencies.percentile_us(p) for p in (0, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    assert latencies.per_second == pytest.approx(100 / 5050e-6)
    histogram = latencies.histogram(5)
    assert sum(count for _, _, count in histogram) == 100
    assert histogram[0][0] == pytest.approx(1)
    assert latencies.measure(divmod, 7, 2) == (3, 1)
    assert len(latencies) == 101
