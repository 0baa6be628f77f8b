"""The traffic of the demonstration: it ends, adds up, and survives a store that goes away."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytikv
from pytikv.demo.traffic import Traffic
from pytikv.testing.server import ServerProcess


def test_traffic_does_everything_and_adds_up() -> None:
    with (
        pytikv.RawClient.connect("embedded://:memory:traffic") as raw,
        pytikv.TransactionClient.connect("embedded://:memory:traffic") as db,
    ):
        report = Traffic(raw, db, per_second=2_000).run(1.5)
    assert len(report.calls) == 8
    assert report.wrong_audits == 0
    assert set(report.errors) <= {"WriteConflict", "Deadlock", "KeyLocked"}
    assert report.summary()["seconds"] >= 1.5


def until(runner: threading.Thread, condition: Callable[[], bool]) -> None:
    while not condition():
        runner.join(0.02)
        assert runner.is_alive()


def test_traffic_outlives_a_server() -> None:
    with ServerProcess() as server:
        url = f"{server.url}?timeout=0.3"
        with pytikv.RawClient.connect(url) as raw, pytikv.TransactionClient.connect(url) as db:
            traffic = Traffic(raw, db)
            runner = threading.Thread(target=traffic.run, args=(60.0,))
            runner.start()
            try:
                until(runner, lambda: bool(traffic.report.calls))
                server.pause()
                until(runner, lambda: bool({"DeadlineExceeded", "RegionUnavailable"} & set(traffic.report.errors)))
                server.resume()
            finally:
                traffic.stop()
                runner.join()
    assert traffic.report.seconds < 60
