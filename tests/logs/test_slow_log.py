"""The slow-call log: which calls it takes, what a line says, how many there are."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pytikv
from pytikv.observe import telemetry
from pytikv.observe.slow_log import MAX_PER_SECOND, MAX_PHASES, SlowLog, slow_facts
from pytikv.observe.telemetry import CallRecord, Telemetry, current_record


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class World:
    def __init__(self, slow_s: float | None) -> None:
        self.clock = Clock()
        self.telemetry = Telemetry(self.clock, self.clock, "tikv://pd1:2379", slow_s)

    def call(
        self, seconds: float, body: Callable[[CallRecord], None] = lambda _: None, method: str = "txn_get"
    ) -> CallRecord:
        async def run() -> CallRecord:
            record = current_record()
            assert record is not None
            body(record)
            self.clock.now += seconds
            return record

        coroutine = self.telemetry.run(method, run())
        with pytest.raises(StopIteration) as done:
            coroutine.send(None)
        record = done.value.value
        assert isinstance(record, CallRecord)
        return record


@pytest.fixture(autouse=True)
def sink() -> Iterator[SlowLog]:
    found = SlowLog()
    telemetry.install(found)
    yield found
    telemetry.remove(found)


def steps(record: CallRecord) -> None:
    record.note(start_ts=42)
    record.step("tso", "wait", 100.0, 100.01)
    record.step("rpc", "KvGet", 100.01, 100.06, "UNAVAILABLE", "s1:20160", (b"", None))
    record.step("backoff", "tikvRPC", 100.06, 100.1)
    record.step("rpc", "KvGet", 100.1, 100.2, "ok", "s2:20160", (b"", b""))
    record.step("lock_wait", "read", 100.2, 100.4)
    record.step("phase", "prewrite", 100.0, 100.4)


def test_a_slow_call_is_told_with_its_phases_and_causes(caplog: pytest.LogCaptureFixture) -> None:
    World(0.1).call(0.5, steps)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("pytikv.slow", "WARNING")
    assert record.getMessage() == (
        "txn_get took 500 ms: lock wait read 200, network s2:20160 100, client 100, network s1:20160 50, "
        "back-off tikvRPC 40, timestamps 10"
    )
    facts = record.__dict__["pytikv"]
    assert facts["phases"] == {
        "lock wait read": 200.0,
        "network s2:20160": 100.0,
        "client": 100.0,
        "network s1:20160": 50.0,
        "back-off tikvRPC": 40.0,
        "timestamps": 10.0,
    }
    assert sum(facts["phases"].values()) == pytest.approx(facts["duration_ms"])
    assert facts["txn_phases"] == {"prewrite": 400.0}
    assert facts["causes"] == ["KvGet s1:20160 UNAVAILABLE", "tikvRPC"]
    assert (facts["rpcs"], facts["retries"], facts["start_ts"], facts["store"]) == (2, 1, "42", "s2:20160")


def test_only_calls_over_the_clients_own_limit_are_told(caplog: pytest.LogCaptureFixture) -> None:
    World(0.1).call(0.0999)
    World(None).call(60.0)
    World(2.0).call(1.0)
    assert not caplog.records
    World(0.1).call(0.125)
    assert len(caplog.records) == 1


def test_a_call_that_failed_says_so(caplog: pytest.LogCaptureFixture) -> None:
    world = World(0.1)

    async def run() -> None:
        world.clock.now += 1.0
        raise pytikv.Overloaded("the store is busy")

    with pytest.raises(pytikv.Overloaded):
        world.telemetry.run("raw_get", run()).send(None)
    (record,) = caplog.records
    assert record.getMessage().startswith("raw_get took 1000 ms and failed (Overloaded): client 1000")
    assert record.__dict__["pytikv"]["error_code"] == "Overloaded"


def test_a_flood_is_held_back_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    world = World(0.001)
    for _ in range(MAX_PER_SECOND + 7):
        world.call(0.002)
    assert len(caplog.records) == MAX_PER_SECOND
    world.call(2.0)
    assert caplog.records[-1].getMessage().endswith("; 7 more were not logged")
    assert caplog.records[-1].__dict__["pytikv"]["suppressed"] == 7


def test_a_line_is_bounded_however_many_stores_a_call_met() -> None:
    def many(record: CallRecord) -> None:
        for number in range(100):
            began = 100.0 + number / 100
            record.step("rpc", "KvGet", began, began + 0.01, "UNAVAILABLE", f"s{number}:20160", (b"", None))

    record = World(0.1).call(1.0, many)
    facts = slow_facts(record)
    assert len(facts["phases"]) == MAX_PHASES + 1
    assert sum(facts["phases"].values()) == pytest.approx(1000.0, abs=0.1)
    assert len(facts["causes"]) == 8


def test_as_json() -> None:
    stream = io.StringIO()
    with pytikv.logging.json(stream, service="shop"), pytikv.context(tenant_id="acme"):
        World(0.1).call(0.5, steps)
    found: dict[str, Any] = json.loads(stream.getvalue())
    assert (found["logger"], found["service"], found["tenant"]) == ("pytikv.slow", "shop", "acme")
    assert found["phases"]["lock wait read"] == 200.0
    assert logging.getLogger("pytikv").handlers == []


def test_the_option_of_a_client_holds_for_its_calls_and_its_life(
    sink: SlowLog, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry.remove(sink)
    with (
        pytikv.RawClient.connect("embedded://:memory:", slow_log=0.0) as slow,
        pytikv.RawClient.connect("embedded://:memory:") as silent,
    ):
        silent.get(b"k")
        slow.put(b"k", b"v")
        slow.with_options(timeout=5.0).get(b"k")
        with pytikv.RawClient.connect("embedded://:memory:", slow_log=60.0) as other:
            other.get(b"k")
        slow.get(b"k")
        assert len(telemetry.sinks()) == 1
    assert telemetry.sinks() == ()
    assert [record.getMessage().split()[0] for record in caplog.records] == ["raw_put", "raw_get", "raw_get"]


@pytest.mark.parametrize("given", ["-1", "fast", True])
def test_a_limit_that_is_none_is_refused(given: object) -> None:
    with pytest.raises(pytikv.ConfigError, match="slow_log"):
        pytikv.ClientConfig(slow_log=given)  # type: ignore[arg-type]
