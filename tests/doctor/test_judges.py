"""Evidence in, findings out: each threshold from both sides, with no cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytikv.doctor import evidence as ev
from pytikv.doctor import judges
from pytikv.doctor.examine import CHECKS
from pytikv.doctor.findings import CheckResult, Finding, Report, Severity
from pytikv.types import Timestamp

OK, INFO, WARNING, CRITICAL = Severity.OK, Severity.INFO, Severity.WARNING, Severity.CRITICAL
DAY = 86_400.0
GIB = 1 << 30
NOW = Timestamp.compose(1_800_000_000_000)


def ago(seconds: float) -> Timestamp:
    return Timestamp.compose(NOW.physical_ms - int(seconds * 1000))


def clock(offset_ms: float, round_trip_ms: float = 1.0) -> ev.ClockSample:
    return ev.ClockSample(1000.0, 1000.0 + round_trip_ms / 2 + offset_ms, 1000.0 + round_trip_ms)


def store(store_id: int, total_s: float, server_s: float = 0.0, queued_s: float = 0.0) -> ev.StoreLatency:
    server, queued = ((server_s,) * 20, (queued_s,) * 20) if server_s else ((), ())
    return ev.StoreLatency(store_id, f"s:{store_id}", (total_s,) * 20, server, queued)


def lock(age_s: float, ttl_ms: int) -> ev.Locks:
    return ev.Locks(NOW, (ev.Lock("k", "p", ago(age_s), "Put", ttl_ms),), 1)


def tls(days: float, error: str = "") -> ev.Certificates:
    return ev.Certificates(True, 0.0, (ev.Certificate("a:1", days * DAY, ("a",), error),))


def process(late_s: float, threads: int = 4, waiting: int = 0) -> ev.Process:
    return ev.Process((late_s,) * 100, threads, 0.005, 8, 8, waiting)


PD, PD2 = ev.Endpoint("pd", "p:1", is_leader=True), ev.Endpoint("pd", "p:2")
DEAD_PD = ev.Endpoint("pd", "p:3", error="connection refused")
STORE, DEAD_STORE = ev.Endpoint("store", "s:1"), ev.Endpoint("store", "s:2", error="no answer")
SAME = {"s:1": "8.5.0", "s:2": "8.5.0"}

CASES: list[tuple[Callable[[Any], list[Finding]], Any, Severity, str]] = [
    (judges.endpoints, ev.Endpoints((PD, STORE)), OK, "1 PD and 1 store answer"),
    (judges.endpoints, ev.Endpoints((PD, DEAD_PD, STORE)), WARNING, "1 of 2 PD endpoints"),
    (judges.endpoints, ev.Endpoints((DEAD_PD,)), CRITICAL, "no PD answers"),
    (judges.endpoints, ev.Endpoints((PD2, STORE)), CRITICAL, "no leader"),
    (judges.endpoints, ev.Endpoints((PD,), "unknown keyspace"), CRITICAL, "cannot connect"),
    (judges.endpoints, ev.Endpoints((PD, STORE, DEAD_STORE)), CRITICAL, "1 of 2 stores"),
    (judges.certificates, ev.Certificates(False, 0.0), OK, "nothing leaves this machine"),
    (judges.certificates, ev.Certificates(False, 0.0, plaintext_hosts=("db:1",)), WARNING, "not encrypted"),
    (judges.certificates, tls(90), OK, "good for 90 days"),
    (judges.certificates, tls(14), WARNING, "expires soon"),
    (judges.certificates, tls(2), CRITICAL, "about to expire"),
    (judges.certificates, tls(0, "certificate has expired"), CRITICAL, "refused"),
    (judges.versions, ev.Versions("1", "v8.5.0", SAME, 1, ""), OK, "versions agree"),
    (judges.versions, ev.Versions("1", "v8.5.0", SAME | {"s:3": "8.1.0"}, 1, ""), WARNING, "different versions"),
    (judges.versions, ev.Versions("1", "v4.0.9", {"s:1": "4.0.9"}, 1, ""), WARNING, "old"),
    (judges.versions, ev.Versions("1", "v9.0.0", SAME, 1, ""), INFO, "different major"),
    (judges.versions, ev.Versions("1", "v8.5.0", SAME, 2, "", "pass api_version=2"), WARNING, "do not fit"),
    (judges.clocks, ev.Clocks((clock(40), clock(0, 5000))), OK, "agrees"),
    (judges.clocks, ev.Clocks((clock(700),)), WARNING, "differs"),
    (judges.clocks, ev.Clocks((clock(-700),)), WARNING, "differs"),
    (judges.clocks, ev.Clocks((clock(700, 2000),)), OK, "agrees"),  # the round trip may explain it
    (judges.clocks, ev.Clocks((clock(-3_600_000),)), CRITICAL, "far off"),
    (judges.latencies, ev.Latencies((store(1, 0.001), store(2, 0.002))), OK, "alike"),
    (judges.latencies, ev.Latencies((store(1, 0.001), store(2, 0.001), store(3, 0.02))), WARNING, "s:3 is slow"),
    (judges.latencies, ev.Latencies((store(1, 0.2),)), WARNING, "takes 200 ms"),
    (judges.latencies, ev.Latencies((store(1, 0.02, 0.019, 0.015),)), WARNING, "queues"),
    (judges.latencies, ev.Latencies((ev.StoreLatency(1, "s:1", error="no"),)), CRITICAL, "did not answer"),
    (
        judges.stores,
        ev.Stores((ev.StoreState(1, "s:1", silent_s=5, capacity=GIB, available=GIB),)),
        OK,
        "1 store, all up",
    ),
    (judges.stores, ev.Stores((ev.StoreState(1, "s:1", "Down", 4000),)), CRITICAL, "is Down"),
    (judges.stores, ev.Stores((ev.StoreState(1, "s:1", "Offline"),)), WARNING, "is Offline"),
    (judges.stores, ev.Stores((ev.StoreState(1, "s:1", silent_s=90),)), WARNING, "silent"),
    (judges.stores, ev.Stores((ev.StoreState(1, "s:1", capacity=100, available=10),)), WARNING, "out of disk"),
    (judges.stores, ev.Stores((ev.StoreState(1, "s:1", capacity=100, available=1),)), CRITICAL, "out of disk"),
    (judges.stores, ev.Stores((ev.StoreState(1, "s:1", slow_score=95),)), WARNING, "slow in PD's eyes"),
    (judges.balance, ev.Balance({1: 20, 2: 22}, {1: 42, 2: 42}, 42), OK, "evenly"),
    (judges.balance, ev.Balance({1: 42, 2: 0}, {1: 42, 2: 42}, 42), WARNING, "leaders are not balanced"),
    (judges.balance, ev.Balance({1: 3, 2: 0}, {1: 3, 2: 3}, 3), OK, "evenly"),  # too few to tell
    (judges.balance, ev.Balance({1: 1}, {1: 1}, 2, without_leader=(7,)), CRITICAL, "without a leader"),
    (judges.balance, ev.Balance({1: 1}, {1: 1}, 1, with_down_peers=(7,)), WARNING, "down"),
    (judges.hotspots, ev.Hotspots(()), OK, "no region"),
    (judges.hotspots, ev.Hotspots((ev.HotRegion("read", 4, 1, 9 << 20, 100, 0.9),)), WARNING, "region 4 is hot"),
    (judges.hotspots, ev.Hotspots((ev.HotRegion("read", 4, 1, 9 << 20, 100, 0.2),)), OK, "no region"),
    (judges.hotspots, ev.Hotspots((ev.HotRegion("write", 4, 1, 900, 10, 1.0),)), OK, "no region"),
    (judges.locks, lock(2, 3000), OK, "none of them old"),
    (judges.locks, lock(4, 3000), WARNING, "outlived"),
    (judges.locks, lock(30, 60_000), WARNING, "held for more than 10 s"),
    (judges.values, ev.Values(2, 10, (ev.Value("raw", "k", 5),)), OK, "no large values"),
    (judges.values, ev.Values(1, 2 << 20, (ev.Value("raw", "k", 2 << 20),)), WARNING, "larger than 1 MiB"),
    (judges.values, ev.Values(1, 7 << 20, (ev.Value("txn", "k", 7 << 20),)), CRITICAL, "larger than 1 MiB"),
    (judges.collection, ev.Collection(NOW, Timestamp(0), Timestamp(0)), INFO, "never"),
    (judges.collection, ev.Collection(NOW, ago(600), ago(600)), OK, "is collected"),
    (judges.collection, ev.Collection(NOW, ago(600), ago(9000)), INFO, "behind"),
    (judges.collection, ev.Collection(NOW, ago(600), ago(2 * DAY), "backup"), WARNING, "far behind"),
    (judges.process, process(0.0001), OK, "when it wants"),
    (judges.process, process(0.005), WARNING, "contended"),
    (judges.process, process(0.03, threads=1), WARNING, "gets the CPU late"),
    (judges.process, process(0.0001, waiting=3), WARNING, "wait for connections"),
    (judges.groups, ev.Groups({"default": (2**31 - 1, True)}), OK, "1 resource group"),
    (judges.groups, ev.Groups({"default": (1000, False)}, "shop"), WARNING, "no resource group 'shop'"),
]


@pytest.mark.parametrize(
    ("judge", "evidence", "severity", "words"),
    CASES,
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:40],
)
def test_judgement(judge: Callable[[Any], list[Finding]], evidence: Any, severity: Severity, words: str) -> None:
    findings = judge(evidence)
    assert max(finding.severity for finding in findings) is severity
    assert words in " ".join(finding.title for finding in findings)
    for finding in findings:
        if finding.severity >= WARNING:
            assert finding.advice or finding.evidence, finding


def test_every_judge_has_cases() -> None:
    assert {judge for judge, *_ in CASES} == {check.judge for check in CHECKS}


def test_the_evidence_is_shown() -> None:
    (finding,) = judges.locks(lock(30, 3000))
    assert str(int(ago(30))) in finding.evidence[0]
    assert "ttl 3,000 ms" in finding.evidence[0]
    assert "primary p" in finding.evidence[0]
    (finding,) = judges.latencies(ev.Latencies((store(1, 0.010, 0.004, 0.001),)))
    assert "network 6.00 ms + queue 1.00 ms + server 3.00 ms" in finding.evidence[0]
    (finding,) = judges.clocks(ev.Clocks((clock(-700),)))
    assert "700 ms ahead of the oracle" in finding.evidence[0]
    (finding,) = judges.clocks(ev.Clocks((clock(700),)))
    assert "700 ms behind the oracle" in finding.evidence[0]


@pytest.mark.parametrize(("severity", "code"), [(OK, 0), (INFO, 0), (WARNING, 1), (CRITICAL, 2)])
def test_exit_codes(severity: Severity, code: int) -> None:
    checks = (CheckResult("a", "A", (Finding(OK, "x"), Finding(severity, "y"))), CheckResult("b", "B", could_not="no"))
    assert Report("t", checks).exit_code == code


def test_what_could_not_be_checked_changes_no_exit_code() -> None:
    report = Report("t", (CheckResult("a", "A", could_not="no"),))
    assert report.exit_code == 0
    assert report.checks[0].record()["severity"] == "unknown"
