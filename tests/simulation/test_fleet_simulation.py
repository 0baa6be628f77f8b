"""Raw data of several stores under faults, with guarded clients: histories are linearizable, mistakes are found."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pytikv.client import request_sender
from pytikv.codec.envelope import varint
from pytikv.errors import ConnectionFailed
from pytikv.server.services import kv_service
from pytikv.testing.fleet_simulation import FleetOptions, run_fleet
from pytikv.testing.linearizability import Verdict

SEEDS_A_TEST = 15
MUTANT_SEEDS = 60


@pytest.mark.parametrize("first", range(0, 60, SEEDS_A_TEST))
def test_histories_are_linearizable(first: int) -> None:
    for seed in range(first, first + SEEDS_A_TEST):
        outcome = run_fleet(seed)
        assert outcome.ok, outcome.describe()
        assert outcome.counts()["ok"] > outcome.options.keys


def test_the_weather_is_bad_enough() -> None:
    """Faults of every kind strike, every guard is drawn, and still most operations succeed."""
    outcomes = [run_fleet(seed) for seed in range(20)]
    assert {name for outcome in outcomes for name in outcome.faults} == {
        *("crash", "pause", "slow store", "silent store", "partition", "break", "leader moved", "split"),
        *("PD brown-out", "client death"),
    }
    drawn = {name for seed in range(20) for name, _ in FleetOptions.draw(seed).guards}
    assert drawn == {"hedge_after_ms", "replica_read", "breaker", "bulkhead", "adaptive_limit", "retry_budget"}
    counts = [outcome.counts() for outcome in outcomes]
    assert sum(count["undetermined"] for count in counts) > 30
    assert sum(count["failed"] for count in counts) > 10
    assert sum(count["ok"] for count in counts) > 1000


def test_a_seed_replays_exactly() -> None:
    for seed in (3, 14, 21):
        first, second = run_fleet(seed), run_fleet(seed)
        assert first.digest == second.digest
        assert list(first.history.to_json_lines()) == list(second.history.to_json_lines())
        assert run_fleet(seed + 1).digest != first.digest


# --- planted mistakes ---


def first_violation(**fixed: Any) -> str:
    """Run seeds until one shows a violation, and return its story."""
    for seed in range(MUTANT_SEEDS):
        outcome = run_fleet(seed, FleetOptions.draw(seed, **fixed))
        assert outcome.error is None, outcome.describe()
        if outcome.report is not None and outcome.report.verdict is Verdict.VIOLATION:
            return outcome.describe()
    pytest.fail(f"{MUTANT_SEEDS} seeds did not find the mistake")


@pytest.mark.parametrize("guards", [(("replica_read", "mixed"),), (("hedge_after_ms", 1.0), ("hedge_ratio", 1.0))])
def test_a_replica_that_lags_is_found(monkeypatch: pytest.MonkeyPatch, guards: tuple[tuple[str, Any], ...]) -> None:
    """So reads do go to replicas, hedged ones too, and are judged."""
    rng = random.Random(1)
    answers: dict[bytes, Any] = {}
    honest = kv_service.KvService._raw_get
    replica_read = b"\x60\x01"  # the context's field 12: true

    def lagging(self: kv_service.KvService, data: bytes) -> Any:
        if replica_read not in data:
            return honest(self, data)
        if data not in answers or rng.random() < 0.5:
            answers[data] = honest(self, data)
        return answers[data]

    assert varint(12 << 3) == replica_read[:1]
    monkeypatch.setattr(kv_service.KvService, "_raw_get", lagging)
    assert "get(" in first_violation(api_version="1", guards=guards)


def test_a_client_that_calls_a_lost_write_not_applied_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: Any, rpc: Any, cause: str, not_processed: bool, call: Any, *, is_timeout: bool) -> None:
        if rpc.is_write and not not_processed:
            raise ConnectionFailed(cause)  # its outcome says NOT_APPLIED

    monkeypatch.setattr(request_sender.RequestSender, "_account_for_loss", careless)
    first_violation()
