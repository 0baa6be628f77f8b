"""`pytikv bench` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pytikv
from pytikv.cli.app import app

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(*words: str) -> Any:
        url = f"embedded://{tmp_path}/store"
        return CliRunner().invoke(app, ["bench", *words], env={"PYTIKV_URL": url, "COLUMNS": "200"})

    return run


@pytest.mark.parametrize("kind", ["get", "put"])
@pytest.mark.parametrize("flags", [[], ["--asyncio"]])
def test_points(run: Run, kind: str, flags: list[str]) -> None:
    done = run(kind, "-n", "200", "-c", "4", "--keys", "20", "--json", *flags)
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["concurrency"] == 4
    assert record["runtime"] == ("asyncio" if flags else "threads")
    assert {name: one["operations"] for name, one in record["results"].items()} == {kind: 200}


@pytest.mark.parametrize(
    "flags", [["--threads", "2"], ["--asyncio", "2"], ["--threads", "2", "--rate", "5000"]], ids=lambda flags: flags[-2]
)
def test_ycsb(run: Run, tmp_path: Path, flags: list[str]) -> None:
    files = [tmp_path / f"r.{kind}" for kind in ("json", "csv", "html")]
    reports = [word for file in files for word in ("--report", str(file))]
    words = ["ycsb", "a", "--api", "txn", "-n", "100", "--warmup", "0", "--records", "20", *flags]
    done = run(*words, *reports)
    assert done.exit_code == 0, done.stderr
    assert f"ycsb-a, txn API, 2 {'tasks' if '--asyncio' in flags else 'threads'}" in done.stdout
    assert ("update response" in done.stdout) == ("--rate" in flags)
    assert json.loads(files[0].read_text())["load"]["workers"] == 2
    assert files[1].read_text().startswith("workload,api,operation,")
    assert "<svg" in files[2].read_text()
    assert json.loads(run(*words, "--json").stdout)["workload"] == "ycsb-a"
    with pytikv.TransactionClient.connect(f"embedded://{tmp_path}/store") as db:
        assert list(db.snapshot().scan()) == []


def test_tpcb(run: Run) -> None:
    words = ["tpcb", "-n", "60", "--warmup", "0", "--threads", "4", "--accounts", "5"]
    done = run(*words)
    assert done.exit_code == 0, done.stderr
    assert "the books balance" in done.stdout
    assert json.loads(run(*words, "--api", "raw", "--json").stdout)["check"]["is_sound"]


def test_books_that_do_not_balance_end_with_a_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytikv.bench.tpcb._HISTORY_BYTES", 50)
    monkeypatch.setattr("pytikv.bench.tpcb._OWN_BRANCH_SHARE", 1.0)
    real = pytikv.bench.tpcb.TpcB.pairs  # type: ignore[attr-defined]  # loaded by the command before

    def pairs(bank: Any) -> Any:
        for key, value in real(bank):
            yield key, pytikv.bench.tpcb.row(7) if b"branch" in key else value  # type: ignore[attr-defined]

    monkeypatch.setattr("pytikv.bench.tpcb.TpcB.pairs", pairs)
    done = run("tpcb", "-n", "5", "--warmup", "0", "--accounts", "5")
    assert done.exit_code == 1
    assert "DO NOT BALANCE" in done.stderr


def test_compare(run: Run, tmp_path: Path) -> None:
    one, other = tmp_path / "a.json", tmp_path / "b.json"
    run("ycsb", "c", "-n", "50", "--warmup", "0", "--records", "20", "--report", str(one))
    record = json.loads(one.read_text())
    record["intervals"] = [record["intervals"][0]] * 5
    one.write_text(json.dumps(record))
    slower = json.loads(one.read_text())
    slower["options"]["records"] = 99
    slower["operations"]["read"]["per_second"] /= 2
    for interval in slower["intervals"]:
        interval["per_second"]["read"] /= 2
    other.write_text(json.dumps(slower))
    done = run("compare", str(one), str(other))
    assert done.exit_code == 0
    assert "-50.0%" in done.stdout
    assert "not alike: records: 20 and 99" in done.stderr
    done = run("compare", str(one), str(other), "--fail-over", "10%", "--json")
    assert done.exit_code == 1
    assert "worse by more than 10%: read per_second -50.0%" in done.stderr
    (rate,) = [delta for delta in json.loads(done.stdout)["deltas"] if delta["figure"] == "per_second"]
    assert rate["is_significant"]
    assert run("compare", str(other), str(one), "--fail-over", "10%").exit_code == 0
    assert run("compare", str(one), str(one), "--fail-over", "0").exit_code == 0


@pytest.mark.parametrize(
    "words",
    [
        ["ycsb", "g"],
        ["ycsb", "a", "--report", "r.xml"],
        ["ycsb", "a", "--report", "/nowhere/r.json"],
        ["ycsb", "a", "--rate", "0"],
        ["ycsb", "a", "--threads", "2", "--asyncio", "2"],
        ["compare", "/nowhere.json", "/nowhere.json"],
    ],
)
def test_wrong_usage(run: Run, words: list[str]) -> None:
    assert run(*words).exit_code == 2


def test_wrong_share_and_wrong_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("{}")
    assert run("compare", str(file), str(file), "--fail-over", "much").exit_code == 2
    done = run("compare", str(file), str(file))
    assert done.exit_code == 2
    assert "is not a report" in done.stderr


@pytest.mark.parametrize("flags", [["--threads", "3"], ["--asyncio", "3", "--pessimistic"]])
def test_tables(run: Run, flags: list[str]) -> None:
    done = run("table", "booking", "-n", "60", "--records", "2", "--warmup", "0", *flags, "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["workload"], report["operations"]["booking"]["count"]) == ("table-booking", 60)
    assert report["check"]["text"] == "seats and tickets agree: 60 seats sold, 60 tickets"
    assert run("table", "lookup").exit_code == 2
