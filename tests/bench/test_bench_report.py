"""The benchmarks' own parts: goals and verdicts, the floor's frame, the workers' protocol."""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pytikv.proto import kvrpcpb_pb2, tikvpb_pb2

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def load(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load(BENCHMARKS / "report.py", "report", monkeypatch)


def test_a_goal_is_met_or_missed_by_a_part_of_it(report: ModuleType) -> None:
    assert report.Line("get", "x", 1.6, 1.6).verdict == "met"
    assert report.Line("get", "x", 2.0, 1.6).verdict == "missed by 25%"
    assert report.Line("rate", "/s", 20.0, 15.0, lower_is_better=False).verdict == "met"
    assert report.Line("rate", "/s", 10.0, 15.0, lower_is_better=False).verdict == "missed by 50%"


def test_a_goal_between_the_quartiles_is_unsure(report: ModuleType) -> None:
    assert report.Line("get", "x", 1.5, 1.6, spread=(1.4, 1.7)).verdict == "met, unsure"
    assert report.Line("get", "x", 2.0, 1.6, spread=(1.5, 2.1)).verdict == "missed by 25%, unsure"
    assert report.Line("get", "x", 1.5, 1.6, spread=(1.4, 1.55)).verdict == "met"


def test_what_was_not_measured_is_neither_met_nor_missed(report: ModuleType) -> None:
    line = report.Line("get", goal=1.6, skipped="no Go toolchain")
    assert line.missed_by is None
    assert line.verdict == "not measured: no Go toolchain"


def test_the_report_is_written_as_json_and_as_a_table(report: ModuleType, tmp_path: Path) -> None:
    about = {"commit": "abc", "machine": {"cpu": "x", "cores": 2}, "versions": {"tikv-python": "0.1.1"}}
    page = report.save(tmp_path, "day-abc", about, [report.Line("get", "x", 2.0, 1.6, load=0.1)])
    assert "| get |" in page.read_text()
    saved = json.loads((tmp_path / "day-abc.json").read_text())
    assert saved["lines"][0]["missed_by"] == pytest.approx(0.25)


def test_the_floor_sends_one_well_formed_raw_get(monkeypatch: pytest.MonkeyPatch) -> None:
    floor = load(BENCHMARKS / "workers" / "floor.py", "floor", monkeypatch)
    frame = floor.get_frame(b"key")
    length, kind, flags = int.from_bytes(frame[:3], "big"), frame[3], frame[4]
    assert (length, kind, flags) == (len(frame) - 9, 0, 0)
    compressed, size = struct.unpack(">BI", frame[9:14])
    assert (compressed, size) == (0, length - 5)
    batch = tikvpb_pb2.BatchCommandsRequest.FromString(frame[14:])
    assert list(batch.request_ids) == [1]
    (request,) = batch.requests
    assert request.RawGet.key == b"key"
    context = kvrpcpb_pb2.Context.FromString(request.RawGet.context.SerializeToString())
    assert (context.region_id, context.peer.store_id) == (1_000_000_000, 1)


WORKER = """
import loop
loop.serve({"work": lambda n: None, "timed": lambda n: 2.5, "fail": lambda n: 1 // 0}, version="1")
"""


def test_a_worker_answers_rounds_and_failures_line_by_line() -> None:
    rounds = [{"case": "work", "n": 10}, {"case": "timed", "n": 1}, {"case": "fail", "n": 1}]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(BENCHMARKS / 'workers')!r})\n{WORKER}"],
        input="".join(json.dumps(r) + "\n" for r in rounds),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    about, work, timed, fail = (json.loads(line) for line in done.stdout.splitlines())
    assert about == {"ready": True, "cases": ["work", "timed", "fail"], "version": "1"}
    assert work["n"] == 10
    assert timed["seconds"] == 2.5
    assert "ZeroDivisionError" in fail["error"]
