"""Transactions under simulated faults: isolation holds, runs replay, and planted mistakes are found by some seed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pytikv.client.txn import committer, lock_decisions, lock_resolver, prewrite
from pytikv.errors import TransactionAborted
from pytikv.server.mvcc import gc, point_getter, scanner
from pytikv.server.storage import txn_reads
from pytikv.server.storage.actions import acquire_pessimistic_lock, prewrite_checks
from pytikv.server.storage.concurrency import ConcurrencyManager
from pytikv.testing import simulate
from pytikv.testing.txn_simulation import TxnRunOptions, run_txn

SEEDS_A_TEST = 5
MUTANT_SEEDS = 60


@pytest.mark.parametrize("first", range(0, 20, SEEDS_A_TEST))
def test_snapshot_isolation_holds(first: int) -> None:
    for seed in range(first, first + SEEDS_A_TEST):
        outcome = run_txn(seed)
        assert outcome.ok, outcome.describe()
        assert outcome.counts()["committed"] > 5


def test_a_seed_replays_exactly() -> None:
    first, second = run_txn(3), run_txn(3)
    assert first.digest == second.digest
    assert list(first.history_lines()) == list(second.history_lines())
    assert run_txn(4).digest != first.digest


def test_the_weather_is_bad_enough() -> None:
    """Faults of every kind strike, transactions end in every way, and write skew, which is allowed, is found."""
    outcomes = [run_txn(seed) for seed in range(20, 30)]
    assert {name for outcome in outcomes for name in outcome.faults} == {
        *("crash", "pause", "partition", "break", "client death", "split", "clock of a client", "clock of the server")
    }
    counts = [outcome.counts() for outcome in outcomes]
    assert sum(count["committed"] for count in counts) > 500
    assert sum(count["aborted"] for count in counts) > 100
    assert sum(count["undetermined"] for count in counts) > 10
    assert sum(count["totals of the bank"] for count in counts) > 50
    assert any("G2-item (write skew)" in count for count in counts)


# --- planted mistakes ---

Plant = Callable[[pytest.MonkeyPatch], None]


def first_story(shown: str, **fixed: Any) -> str:
    """Run seeds until one tells of `shown`. (A mistake may end other runs in other ways before.)"""
    for seed in range(MUTANT_SEEDS):
        story = run_txn(seed, TxnRunOptions.draw(seed, **fixed)).describe()
        if shown in story:
            return story
    pytest.fail(f"{MUTANT_SEEDS} seeds did not find the mistake")


def max_ts_not_pushed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ConcurrencyManager, "update_max_ts", lambda self, ts: None)


def locks_ignored_by_reads(patch: pytest.MonkeyPatch) -> None:
    for module in (point_getter, scanner, txn_reads):
        patch.setattr(module, "check_ts_conflict", lambda *arguments: None)


def conflicts_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(prewrite_checks.Prewriting, "_conflicts", lambda self, commit_ts, write: False)


def locking_read_of_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    def previous_value(reader: Any, key: bytes, params: Any, newest: Any, *, load: bool) -> bytes | None:
        found = reader.get_write(key, params.start_ts)
        return None if found is None else reader.load_value(key, found[1])

    patch.setattr(acquire_pessimistic_lock, "_previous_value", previous_value)


def garbage_collected_too_far(patch: pytest.MonkeyPatch) -> None:
    def can_go(self: Any, commit_ts: int, write: Any) -> bool:
        return bool(commit_ts <= self._safe_point)

    patch.setattr(gc._Key, "can_go", can_go)


def committed_primary_rolled_back(patch: pytest.MonkeyPatch) -> None:
    honest = lock_decisions.status_of

    def status_of(answer: Any) -> Any:
        status = honest(answer)
        return lock_decisions.TxnStatus.final(0) if status.is_final else status

    patch.setattr(lock_resolver, "status_of", status_of)


def missing_secondary_taken_for_committed(patch: pytest.MonkeyPatch) -> None:
    def settle(self: Any, commit_ts: int) -> None:
        self._is_missing = True

    patch.setattr(lock_decisions.SecondaryCheck, "_settle", settle)


def prewritten_called_not_applied(patch: pytest.MonkeyPatch) -> None:
    """An async commit or 1PC whose last answer was lost is taken for failed, and rolled back."""
    patch.setattr(prewrite.Prewrite, "may_be_committed", property(lambda self: False))


def undetermined_called_not_applied(patch: pytest.MonkeyPatch) -> None:
    def careless(self: Any, error: Exception) -> TransactionAborted:
        self.outcome = TransactionAborted.outcome
        return TransactionAborted(str(error))

    patch.setattr(committer.Committer, "_undetermined", careless)


@pytest.mark.parametrize(
    ("plant", "fixed", "shown"),
    [
        (max_ts_not_pushed, {"async_commit_share": 1.0}, "a read that is not of its snapshot"),
        (locks_ignored_by_reads, {}, "a read that is not of its snapshot"),
        (conflicts_not_checked, {"pessimistic_share": 0.0}, "lost update"),
        (locking_read_of_the_snapshot, {"pessimistic_share": 1.0}, "lost update"),
        (garbage_collected_too_far, {}, "a read that is not of its snapshot"),
        (committed_primary_rolled_back, {}, "the store's records disagree"),
        (
            missing_secondary_taken_for_committed,
            {"async_commit_share": 1.0, "one_pc_share": 0.0},
            "has no record of it",
        ),
        (prewritten_called_not_applied, {"async_commit_share": 1.0}, "was not committed, but the store has it"),
        (undetermined_called_not_applied, {}, "was not committed, but the store has it"),
        (None, {"sync": False}, "the store has no record of it"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_planted_mistake_is_found(
    plant: Plant | None, fixed: dict[str, Any], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if plant is not None:
        plant(monkeypatch)
    assert first_story(shown, **fixed).startswith("seed ")


# --- the command ---


def test_command_runs_both_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate.main(["--seeds", "1", "--jobs", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["seeds"], record["failed"]) == (3, [])
    assert record["totals"]["raw ok"] > 0
    assert record["totals"]["txn committed"] > 0
    assert simulate.main(["--kind", "txn", "--seed", "1", "--history"]) == 0
    out, err = capsys.readouterr()
    assert "txn seed 1: " in err
    assert json.loads(out.splitlines()[0])["number"] == 0
