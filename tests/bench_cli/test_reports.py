"""Figures of samples, the forms of a report, and two reports compared."""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import io
import json
import random
import re
import sys
from typing import Any

import pytest

from pytikv.bench import charts
from pytikv.bench.compare import compared, differences, regressions
from pytikv.bench.histograms import Histogram
from pytikv.bench.page import to_html
from pytikv.bench.report import Recorder, Report, Sample, from_json, to_csv, to_json
from pytikv.errors import ConfigError


def sample(seconds: float, *, began: float = 0.0, late: float = 0.0, name: str = "read", **more: Any) -> Sample:
    values = {"is_measured": True, "code": None, "retries": (), **more}
    return Sample(name, began, began - late, began + seconds, **values)


def report(latency_s: float = 0.001, *, spread: float = 0.1, seed: int = 1, intervals: int = 8, **more: Any) -> Report:
    dice = random.Random(seed)
    recorder = Recorder(["read", "<update>"], measured_from_s=0.0, has_rate=True)
    for second in range(intervals):
        for number in range(int(0.2 / latency_s)):
            seconds = latency_s * dice.uniform(1, 1 + spread)
            recorder.take([sample(seconds, began=second, late=0.002, name="read" if number % 2 else "<update>")])
        recorder.close_interval(second + 1.0, 0.5)
    recorder.take([sample(1, code="WriteConflict"), sample(0.01, retries=("KeyLocked", "KeyLocked"))])
    values: dict[str, Any] = {
        "workload": "ycsb-a",
        "api": "raw",
        "target": "embedded://:memory:",
        "load": {"runtime": "threads", "workers": 2, "rate": 100.0},
        "options": {"records": 5},
        "machine": {"cpus": 2},
        "began": "2024-01-01T00:00:00+00:00",
        "seconds": float(intervals),
        "operations": recorder.operations(float(intervals)),
        "intervals": recorder.intervals,
        "missed": 0,
        "interrupted": False,
        "check": None,
    }
    return Report(**(values | more))


def test_figures_of_samples() -> None:
    recorder = Recorder(["read", "update"], measured_from_s=1.0, has_rate=True)
    assert recorder.close_interval(0.9, 0.0) is None
    recorder.take([sample(5.0, is_measured=False)])
    recorder.take([sample(0.001 * (number + 1), began=1.0, late=0.5) for number in range(100)])
    recorder.take([sample(1.0, code="ServerError"), sample(0.1, name="update", retries=("WriteConflict",))])
    interval = recorder.close_interval(3.0, 0.0)
    assert interval is not None
    assert (interval.end_s, interval.errors) == (2.0, 1)
    assert interval.per_second == {"read": 50.0, "update": 0.5}
    assert interval.p99_us["read"] == pytest.approx(599_000, rel=0.002)
    assert recorder.measured == 102
    found = recorder.operations(2.0)
    assert found["read"].count == 100
    assert found["read"].errors == {"ServerError": 1}
    assert found["update"].retries == {"WriteConflict": 1}
    assert found["read"].service["p50_us"] == pytest.approx(50_000, rel=0.002)
    assert found["read"].response["p50_us"] == pytest.approx(550_000, rel=0.002)
    assert Histogram.decode(found["read"].histogram).summary() == found["read"].service


def test_a_short_rest_is_no_interval_of_its_own() -> None:
    recorder = Recorder(["read"], measured_from_s=0.0, has_rate=False)
    assert recorder.close_interval(0.1, 0.5) is not None  # the only one there is
    assert recorder.close_interval(0.2, 0.5) is None
    assert recorder.close_interval(1.1, 0.5) is not None
    assert [one.end_s for one in recorder.intervals] == [0.1, 1.1]


def test_histograms_merge_and_clear() -> None:
    one, other = Histogram(), Histogram()
    one.add(5_000)
    other.add(10**18)
    one.merge(other)
    assert len(one) == 2
    assert one.summary()["max_us"] == pytest.approx(3.6e9, rel=0.001)
    one.clear()
    assert (len(one), one.summary(), one.percentile_us(99)) == (0, {}, 0.0)


def test_json_comes_back() -> None:
    made = report()
    assert from_json(to_json(made)) == made
    for text in (
        "{",
        "[]",
        '{"format": "x"}',
        '{"format": "pytikv-bench/1"}',
        json.dumps({"format": "pytikv-bench/0"}),
    ):
        with pytest.raises(ConfigError, match=r"old.json is not a report"):
            from_json(text, "old.json")


def test_csv_has_a_line_for_each_operation() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(report()))))
    assert [row["operation"] for row in rows] == ["read", "<update>"]
    assert rows[0]["errors"] == "1"
    assert rows[0]["retries"] == "2"
    assert float(rows[0]["response_p50_us"]) > float(rows[0]["service_p50_us"])


def test_page_is_whole_by_itself() -> None:
    page = to_html(report(missed=7, interrupted=True, check={"is_sound": False, "text": "the books DO NOT BALANCE"}))
    assert page.count("<svg") == 3
    assert not re.search(r'(src|href)="http|@import|url\(|<script', page)
    assert "&lt;update&gt;" in page
    assert "<update>" not in page
    assert "7 operations were due" in page
    assert "was interrupted" in page
    assert '<p class="bad">the books DO NOT BALANCE' in page
    assert "WriteConflict" in page
    asyncio = {"runtime": "asyncio", "workers": 1}
    empty = Recorder(["read"], measured_from_s=0.0, has_rate=False).operations(1.0)
    assert "No operation succeeded" in to_html(
        dataclasses.replace(report(load=asyncio), operations=empty, intervals=[])
    )


def test_comparison_of_equals_finds_nothing() -> None:
    deltas = compared(report(seed=1), report(seed=2))
    assert {(delta.operation, delta.figure) for delta in deltas} >= {("read", "per_second"), ("read", "p99_us")}
    assert regressions(deltas, 0.0) == []
    assert differences(report(), report()) == []


def test_comparison_finds_what_is_slower() -> None:
    before, after = report(0.001), report(0.002, load={"runtime": "threads", "workers": 4})
    deltas = {(delta.operation, delta.figure): delta for delta in compared(before, after)}
    assert deltas["read", "per_second"].change == pytest.approx(-0.5, abs=0.01)
    assert deltas["read", "per_second"].loss == pytest.approx(0.5, abs=0.01)
    assert deltas["read", "p99_us"].is_significant
    assert {delta.figure for delta in regressions(list(deltas.values()), 0.1)} == {"per_second", "p99_us"}
    assert regressions(compared(after, before), 0.1) == []  # the other way it is a gain
    assert differences(before, after) == ["workers: 2 and 4", "rate: 100.0 and None"]


def test_noise_and_few_intervals_are_not_significant() -> None:
    few = compared(report(0.001, intervals=3), report(0.002, intervals=3))
    assert not any(delta.is_significant for delta in few)
    noisy = report(0.001)
    wild = [
        dataclasses.replace(
            one, per_second={**one.per_second, "read": one.per_second["read"] * (2 if place % 2 else 0.2)}
        )
        for place, one in enumerate(noisy.intervals)
    ]
    after = dataclasses.replace(noisy, intervals=wild)
    (rate,) = [d for d in compared(noisy, after) if (d.operation, d.figure) == ("read", "per_second")]
    assert not rate.is_significant


def test_the_library_of_charts_leaves_imports_as_they_were() -> None:
    charts.require()
    assert not [finder for finder in sys.meta_path if not hasattr(finder, "find_spec")]
    assert importlib.metadata.version("hdrhistogram")


@pytest.mark.parametrize("module", ["hdrh.histogram", "pygal"])
def test_missing_library_says_how_to_get_it(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r'pip install "pytikv\[bench\]"'):
        charts.require() if module == "pygal" else Histogram()
