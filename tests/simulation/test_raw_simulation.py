"""Raw data under simulated faults: histories are linearizable, runs replay, and planted mistakes are found."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pytikv.client import request_sender, rpcs
from pytikv.client.rpcs import Kind
from pytikv.errors import ConnectionFailed
from pytikv.server.services import kv_service, pending
from pytikv.testing import simulate
from pytikv.testing.linearizability import Verdict
from pytikv.testing.simulation import RawOptions, run_raw

SEEDS_A_TEST = 10
MUTANT_SEEDS = 60


@pytest.mark.parametrize("first", range(0, 60, SEEDS_A_TEST))
def test_histories_are_linearizable(first: int) -> None:
    for seed in range(first, first + SEEDS_A_TEST):
        outcome = run_raw(seed)
        assert outcome.ok, outcome.describe()
        assert outcome.counts()["ok"] > outcome.options.keys


def test_the_weather_is_bad_enough() -> None:
    """Faults of every kind strike, answers are lost, and still most operations succeed."""
    outcomes = [run_raw(seed) for seed in range(20)]
    faults = {name for outcome in outcomes for name in outcome.faults}
    assert faults == {"crash", "pause", "partition", "break", "client death", "split"}
    counts = [outcome.counts() for outcome in outcomes]
    assert sum(c["undetermined"] for c in counts) > 30
    assert sum(c["failed"] for c in counts) > 10
    assert sum(c["ok"] for c in counts) > 1000


@pytest.mark.parametrize("seed", [3, 14])
def test_a_seed_replays_exactly(seed: int) -> None:
    first, second = run_raw(seed), run_raw(seed)
    assert first.digest == second.digest
    assert list(first.history.to_json_lines()) == list(second.history.to_json_lines())
    assert run_raw(seed + 1).digest != first.digest


@pytest.mark.process
def test_a_seed_replays_in_another_process() -> None:
    """Nothing hangs on the addresses of objects or the order of sets."""
    code = "from pytikv.testing.simulation import run_raw; print(run_raw(5).digest)"
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == run_raw(5).digest


# --- planted mistakes ---


def first_violation(**fixed: Any) -> str:
    """Run seeds until one shows a violation, and return its story."""
    for seed in range(MUTANT_SEEDS):
        outcome = run_raw(seed, RawOptions.draw(seed, **fixed))
        assert outcome.error is None, outcome.describe()
        if outcome.report is not None and outcome.report.verdict is Verdict.VIOLATION:
            return outcome.describe()
    pytest.fail(f"{MUTANT_SEEDS} seeds did not find the mistake")


def test_server_that_answers_before_the_disk_is_found() -> None:
    assert "none of these can come next" in first_violation(sync=False)


def test_server_that_shows_what_is_not_durable_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes wait for the disk, but reads do not wait for the writes that they meet."""
    monkeypatch.setattr(pending.PendingWrites, "gate", lambda self, key, body: body)
    monkeypatch.setattr(pending.PendingWrites, "gate_all", lambda self, body: body)
    assert "get(" in first_violation()


def test_server_that_reads_stale_data_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    answers: dict[bytes, Any] = {}
    honest = kv_service.KvService._raw_get

    def stale(self: kv_service.KvService, data: bytes) -> Any:
        if data not in answers or rng.random() < 0.7:
            answers[data] = honest(self, data)
        return answers[data]

    monkeypatch.setattr(kv_service.KvService, "_raw_get", stale)
    assert "get(" in first_violation(api_version="1")


def remake_kinds(monkeypatch: pytest.MonkeyPatch, kind_of: Callable[[str], Kind | None]) -> None:
    for name in dir(rpcs):
        rpc = getattr(rpcs, name)
        if isinstance(rpc, rpcs.Rpc) and (kind := kind_of(rpc.name)) is not None:
            monkeypatch.setattr(rpcs, name, dataclasses.replace(rpc, kind=kind))


def test_client_that_repeats_a_compare_and_swap_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only compare-and-swaps are sent again after a lost answer; puts are not, so that they are not to blame."""

    def kind_of(name: str) -> Kind | None:
        if name == "RawCompareAndSwap":
            return Kind.PUT
        return Kind.SWAP if name in ("RawPut", "RawDelete", "RawBatchPut") else None

    remake_kinds(monkeypatch, kind_of)
    assert "cas(" in first_violation(retry_lost_writes=True)


def test_repeated_puts_are_not_linearizable_as_the_documentation_says() -> None:
    first_violation(retry_lost_writes=True)


def test_client_that_calls_a_lost_write_not_applied_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: Any, rpc: Any, cause: str, not_processed: bool, call: Any, *, is_timeout: bool) -> None:
        if rpc.is_write and not not_processed:
            raise ConnectionFailed(cause)  # its outcome says NOT_APPLIED

    monkeypatch.setattr(request_sender.RequestSender, "_account_for_loss", careless)
    first_violation()


# --- the command ---


def test_command_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate.main(["--kind", "raw", "--seeds", "4", "--jobs", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["seeds"], record["failed"]) == (4, [])
    assert record["totals"]["raw ok"] > 100
    assert simulate.main(["--kind", "raw", "--seeds", "1"]) == 0
    assert "1 seeds in" in capsys.readouterr().out


def test_command_prints_a_failing_seed_that_replays(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending.PendingWrites, "gate", lambda self, key, body: body)
    monkeypatch.setattr(pending.PendingWrites, "gate_all", lambda self, body: body)
    assert simulate.main(["--kind", "raw", "--seeds", str(MUTANT_SEEDS), "--jobs", "1"]) == 1
    out, err = capsys.readouterr()
    assert "FAILED: seeds raw " in out
    replay = next(line for line in err.splitlines() if line.startswith("replay: "))
    seed = replay.rsplit(" ", 1)[1]
    assert simulate.main(["--kind", "raw", "--seed", seed, "--history"]) == 1
    out, err = capsys.readouterr()
    assert "violation" in err
    assert "digest" in err
    assert json.loads(out.splitlines()[0])["invoked"] == 1
