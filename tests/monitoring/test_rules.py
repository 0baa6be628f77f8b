"""The rules as Prometheus' own tools see them: they parse, and alerts fire when they should and only then."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from pytikv.monitoring import yaml
from pytikv.monitoring.board import metric_names
from pytikv.monitoring.rules import ALERTS, FAILURES, RECORDINGS, alert_rules_yaml, recording_yaml

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian package prometheus) is not installed")

COUNT = "tikv_request_duration_seconds_count"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    (tmp_path / "recording.yml").write_text(recording_yaml())
    (tmp_path / "alerts.yml").write_text(alert_rules_yaml())
    return tmp_path


def promtool(*words: str, cwd: Path) -> str:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *words], cwd=cwd, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_rules_are_valid(rules: Path) -> None:
    said = promtool("check", "rules", "--lint-fatal", "recording.yml", "alerts.yml", cwd=rules)
    assert f"{len(RECORDINGS)} rules found" in said
    assert f"{len(ALERTS)} rules found" in said


def test_texts_are_complete() -> None:
    names = [alert.name for alert in ALERTS]
    assert len(set(names)) == len(names)
    for alert in ALERTS:
        for text in (alert.summary, alert.description, alert.advice):
            assert len(text) > 20, alert.name


def test_a_rule_reads_only_what_was_recorded_before() -> None:
    known: set[str] = set()
    for rule in RECORDINGS:
        read = {word for word in rule.expr.replace("(", " ").replace(")", " ").split() if ":" in word}
        assert read <= known, rule.name
        assert metric_names(rule.expr) or read, rule.name
        known.add(rule.name)


def test_conflicts_do_not_spend_the_error_budget() -> None:
    assert not {"WriteConflict", "KeyExists", "KeyLocked", "InvalidArgument", "cancelled", "ok"} & set(
        FAILURES.split("|")
    )


# --- firing and not firing --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """Series, one sample a minute, and which alerts fire at minute `at`, with one of their labels each."""

    series: dict[str, str]
    at: int
    fires: dict[str, dict[str, str]]


JOB = 'job="shop",instance="a:1"'
OK = f'{COUNT}{{{JOB},method="raw_get",status="ok"}}'
CALM = {OK: "0+6000x400", f'pytikv_build_info{{{JOB},version="1"}}': "1x400"}
JOB_ONLY = {"job": "shop"}


def failing(each_minute: int) -> dict[str, str]:
    return CALM | {f'{COUNT}{{{JOB},method="raw_get",status="ConnectionFailed"}}': f"0+{each_minute}x400"}


def histogram(name: str, labels: str, above: str) -> dict[str, str]:
    """A histogram all of whose observations are above `above`."""
    return {f'{name}_bucket{{{labels},le="{above}"}}': "0x400", f'{name}_bucket{{{labels},le="+Inf"}}': "0+600x400"}


LATE = {
    f'tikv_request_duration_seconds_bucket{{{JOB},method="raw_get",status="ok",le="1"}}': "0x400",
    f'tikv_request_duration_seconds_bucket{{{JOB},method="raw_get",status="ok",le="+Inf"}}': "0+6000x400",
}

CASES: dict[str, Case] = {
    "calm": Case(CALM, 120, {}),
    "conflicts are no failures": Case(
        CALM | {f'{COUNT}{{{JOB},method="txn_commit",status="WriteConflict"}}': "0+6000x400"}, 120, {}
    ),
    "one call of 5000 fails": Case(failing(1), 390, {}),
    "2 % fail": Case(
        failing(120),
        120,
        {
            "TikvErrorBudgetBurnsFast": JOB_ONLY,
            "TikvErrorBudgetBurns": JOB_ONLY,
            "TikvErrorBudgetBurnsSlowly": JOB_ONLY,
        },
    ),
    "1 % fail": Case(failing(60), 390, {"TikvErrorBudgetBurns": JOB_ONLY, "TikvErrorBudgetBurnsSlowly": JOB_ONLY}),
    "failures that are over": Case(
        CALM | {f'{COUNT}{{{JOB},method="raw_get",status="ConnectionFailed"}}': "0+120x20 2400x100"},
        50,
        {},
    ),
    "slow": Case(CALM | LATE, 60, {"TikvRequestsSlow": JOB_ONLY}),
    "breaker open": Case(
        CALM | {f'tikv_breaker_state{{{JOB},store="s:1"}}': "0x9 2x20"},
        15,
        {"TikvBreakerOpen": JOB_ONLY | {"store": "s:1"}},
    ),
    "breaker half open": Case(CALM | {f'tikv_breaker_state{{{JOB},store="s:1"}}': "1x30"}, 15, {}),
    "breaker flaps": Case(
        CALM | {f'tikv_breaker_transitions_total{{{JOB},store="s:1",to="open"}}': "0+1x30"},
        20,
        {"TikvBreakerFlaps": JOB_ONLY | {"store": "s:1"}},
    ),
    "pool exhausted": Case(
        CALM
        | {
            f'tikv_pool_connections{{{JOB},store="s:1",state="in_use"}}': "8x30",
            f"tikv_pool_connections_max{{{JOB}}}": "8x30",
            f"tikv_pool_waiting{{{JOB}}}": "3x30",
        },
        20,
        {"TikvPoolExhausted": JOB_ONLY},
    ),
    "pool full, nobody waits": Case(
        CALM
        | {
            f'tikv_pool_connections{{{JOB},store="s:1",state="in_use"}}': "8x30",
            f"tikv_pool_connections_max{{{JOB}}}": "8x30",
            f"tikv_pool_waiting{{{JOB}}}": "0x30",
        },
        20,
        {},
    ),
    "shed": Case(
        CALM | {f'tikv_rejected_total{{{JOB},store="s:1",reason="queue_full"}}': "0+600x30"},
        20,
        {"TikvCallsRejected": JOB_ONLY | {"store": "s:1"}},
    ),
    "many conflicts": Case(
        CALM
        | {
            f'tikv_txn_total{{{JOB},result="committed",mode="optimistic"}}': "0+300x60",
            f'tikv_txn_total{{{JOB},result="conflict",mode="optimistic"}}': "0+100x60",
        },
        40,
        {"TikvConflictsMany": JOB_ONLY},
    ),
    "few conflicts": Case(
        CALM
        | {
            f'tikv_txn_total{{{JOB},result="committed",mode="optimistic"}}': "0+3000x60",
            f'tikv_txn_total{{{JOB},result="conflict",mode="optimistic"}}': "0+100x60",
        },
        40,
        {},
    ),
    "PD slow": Case(CALM | histogram("tikv_tso_wait_seconds", JOB, "0.25"), 30, {"TikvTsoSlow": JOB_ONLY}),
    "retries storm": Case(
        CALM | {f'tikv_retries_total{{{JOB},kind="tikvServerBusy"}}': "0+12000x60"}, 30, {"TikvRetriesStorm": JOB_ONLY}
    ),
    "some retries": Case(CALM | {f'tikv_retries_total{{{JOB},kind="regionMiss"}}': "0+600x60"}, 30, {}),
    "long lock waits": Case(
        CALM | histogram("tikv_lock_wait_seconds", f'{JOB},kind="write"', "10"),
        30,
        {"TikvLockWaitsLong": JOB_ONLY | {"kind": "write"}},
    ),
    "a first undetermined commit": Case(
        CALM | {f'tikv_txn_total{{{JOB},result="undetermined",mode="optimistic"}}': "_x19 1x30"},
        22,
        {"TikvCommitsUndetermined": JOB_ONLY},
    ),
    "an old undetermined commit": Case(
        CALM | {f'tikv_txn_total{{{JOB},result="undetermined",mode="optimistic"}}': "_x19 1x60"}, 45, {}
    ),
    "not scraped": Case(
        CALM | {'up{job="pytikv",instance="a:1",role="client"}': "1x9 0x60"},
        30,
        {"TikvClientDown": {"job": "pytikv", "instance": "a:1", "role": "client"}},
    ),
    "silent": Case(
        {OK: "0+60x30 1800x100", f'pytikv_build_info{{{JOB},version="1"}}': "1x400"}, 55, {"TikvClientSilent": JOB_ONLY}
    ),
    "nobody there": Case({}, 30, {"TikvClientGone": {}}),
    "store down": Case(
        CALM | {'up{job="tikv",instance="s:1",role="tikv"}': "1x9 0x60"},
        30,
        {"TikvServerDown": {"job": "tikv", "instance": "s:1", "role": "tikv"}},
    ),
    "store slow": Case(
        CALM | histogram("tikv_grpc_msg_duration_seconds", 'job="tikv",instance="s:1",type="kv_commit"', "1"),
        30,
        {"TikvServerSlow": {"instance": "s:1", "type": "kv_commit"}},
    ),
}


def firing(case: Case) -> dict[str, object]:
    """The check that the alerts of `case`, with exactly these labels, fire and no others."""
    severity = {alert.name: alert.severity for alert in ALERTS}
    expected = [
        {"alertname": name, "alertstate": "firing", "severity": severity[name]} | labels
        for name, labels in case.fires.items()
    ]
    samples = [
        {"labels": f"ALERTS{{{','.join(f'{label}={json.dumps(text)}' for label, text in labels.items())}}}", "value": 1}
        for labels in expected
    ]
    return {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{case.at}m", "exp_samples": samples}


def unit_test(name: str, case: Case) -> dict[str, object]:
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "promql_expr_test": [firing(case)],
    }


def run_unit_tests(rules: Path, tests: list[dict[str, object]]) -> None:
    (rules / "tests.yml").write_text(yaml.dump({"rule_files": ["recording.yml", "alerts.yml"], "tests": tests}))
    promtool("test", "rules", "tests.yml", cwd=rules)


@needs_promtool
@pytest.mark.parametrize("name", CASES)
def test_alerts_fire_when_they_should_and_only_then(rules: Path, name: str) -> None:
    run_unit_tests(rules, [unit_test(name, CASES[name])])


def test_every_alert_is_seen_to_fire() -> None:
    assert {name for case in CASES.values() for name in case.fires} == {alert.name for alert in ALERTS}


@needs_promtool
def test_texts_are_filled_in(rules: Path) -> None:
    alert = next(alert for alert in ALERTS if alert.name == "TikvBreakerOpen")
    case = CASES["breaker open"]
    check = {
        "eval_time": f"{case.at}m",
        "alertname": alert.name,
        "exp_alerts": [
            {
                "exp_labels": {"severity": "page", "job": "shop", "store": "s:1"},
                "exp_annotations": {
                    "summary": "shop: the breaker of store s:1 is open",
                    "description": "Calls to s:1 fail at once or go to another replica, since too many failed or were"
                    " slow.",
                    "advice": alert.advice,
                },
            }
        ],
    }
    run_unit_tests(rules, [unit_test("texts", case) | {"alert_rule_test": [check]}])
