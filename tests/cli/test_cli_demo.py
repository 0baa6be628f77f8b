"""The demonstration and the bench, on a little of the data."""

from __future__ import annotations

import dataclasses
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import pytikv
from pytikv.demo import dataset, seats
from pytikv.demo import run as demo_run
from pytikv.demo.latency import Latencies

Run = Callable[..., Any]

needs_data = pytest.mark.skipif(
    not all(dataset.installed(data) for data in (dataset.AIRPORTS, dataset.FLIGHTS)),
    reason="the demonstration's data packages are not installed",
)


@needs_data
def test_demo(run: Run, tmp_path: Path) -> None:
    done = run("demo", str(tmp_path / "demo"), "--rows", "300")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1].startswith("demo ok: 300 airports and 300 flights loaded")
    assert "P95 us" in done.out
    assert "United Air Lines" in done.out
    assert "█" in done.out
    assert "no seat sold twice, no money lost" in done.out
    url = f"embedded://{tmp_path}/demo"
    listed = run("scan", "pytikv-demo/", "--keys-only", "--limit", "0", "--url", url)
    assert len(listed.out.split()) == 600, listed.err


@needs_data
def test_demo_json(run: Run) -> None:
    done = run("demo", "--rows", "200", "--buyers", "16", "--json")
    record = done.json()
    assert done.code == 0
    assert record["ok"] is True
    assert record["rows"] == {"airports": 200, "flights": 200}
    assert set(record["operations"]) == {"get", "batch_get", "scan_prefix", "put"}
    assert sum(record["flights_by_carrier"].values()) == 200
    assert record["mismatches"] == 0
    assert record["compared"] > 400
    for sale in record["sales"].values():
        assert sale["sold"] == sale["operations"] == 80
        assert sale["problems"] == []
        assert sale["audits"] >= 1


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
    try:
        done = run("demo", "--rows", "100", "--buyers", "4", "--serve-metrics", "0", "--keep", "0.5", "--json")
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
    honest = pytikv.RawClient.get

    def lying(self: pytikv.RawClient, key: bytes) -> bytes | None:
        value = honest(self, key)
        return value[:-1] if value is not None and key.endswith(b"A") else value

    monkeypatch.setattr(pytikv.RawClient, "get", lying)
    done = run("demo", "--rows", "50")
    assert done.code == 1
    assert "MISMATCH at pytikv-demo/" in done.err
    assert done.out.splitlines()[-1].startswith("demo FAILED: ")


class _Quiet:
    def stage(self, name: str, total: int | None) -> None: ...
    def step(self, done: int) -> None: ...


@needs_data
@pytest.mark.parametrize("fault", ["lost", "changed", "added"])
def test_demo_sees_what_the_store_did(tikv: pytikv.RawClient, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """A row lost, changed or added behind the demonstration's back is found when everything is read back."""
    plan = demo_run.Plan(rows=50, gets=0, batch_gets=0, scans=0, puts=0, buyers=0)
    db = cast("pytikv.TransactionClient", None)  # without buyers there is no sale
    demo = demo_run.Demo(tikv, db, plan, _Quiet())
    real = demo._load

    def load() -> None:
        real()
        key = dataset.PREFIX + b"airport/00AA"
        assert tikv.exists(key)
        if fault == "lost":
            tikv.delete(key)
        elif fault == "changed":
            tikv.put(key, b"{}")
        else:
            tikv.put(key + b"+", b"{}")

    monkeypatch.setattr(demo, "_load", load)
    report = demo.run()
    assert not report.ok
    assert report.mismatches


SALE = seats.Sale([b"UA/1", b"DL/2"], pessimistic=False, buyers=8, seats=5, think_s=0.0)


@pytest.fixture
def db() -> Iterator[pytikv.TransactionClient]:
    with pytikv.TransactionClient.connect("embedded://:memory:") as client:
        yield client


@pytest.mark.parametrize("pessimistic", [False, True])
def test_a_sale(db: pytikv.TransactionClient, pessimistic: bool) -> None:
    report = seats.sell(db, dataclasses.replace(SALE, pessimistic=pessimistic))
    assert report.ok, report.problems
    assert report.sold == report.seats == len(report.latencies) == 10
    assert report.gave_up == 0


@pytest.mark.parametrize(
    ("tamper", "finding"),
    [
        (lambda txn: txn.delete(b"pytikv-demo/sale/seat/UA/1/003"), "4 seats sold and 0 left are not 5"),
        (lambda txn: txn.put(b"pytikv-demo/sale/seat/UA/1/003", b"999"), "buyer "),
        (lambda txn: txn.put(b"pytikv-demo/sale/purse/003", b"0"), "money came or went"),
        (lambda txn: txn.put(b"pytikv-demo/sale/flight/DL/2", b'{"left": 0, "earned": 1}'), "5 seats sold for 1"),
    ],
    ids=["seat lost", "seat sold twice", "money lost", "wrong revenue"],
)
def test_the_audit_finds_wrong_books(db: pytikv.TransactionClient, tamper: Callable[..., None], finding: str) -> None:
    assert seats.sell(db, SALE).ok
    with db.begin() as txn:
        tamper(txn)
    problems = seats.audit(db.snapshot(), SALE)
    assert any(finding in problem for problem in problems), problems


@needs_data
def test_data_is_all_there_and_keys_are_unique() -> None:
    airports = {row.key for row in dataset.read(dataset.AIRPORTS)}
    flights = {row.key for row in dataset.read(dataset.FLIGHTS)}
    assert len(airports) > 28_000
    assert len(flights) == 336_776
    assert b"pytikv-demo/flight/UA/2013-01-01/1545/EWR" in flights
    assert len(dataset.carrier_names()) == 16


def test_missing_package_says_how_to_get_it() -> None:
    missing = dataset.DataSet("moons", "no-such-distribution-here", "x.csv", "{x}")
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
