"""Spans of records, by the SDK of OpenTelemetry with an exporter in memory."""

from __future__ import annotations

import asyncio
import importlib
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

import pytikv
from pytikv.ambient import current_context
from pytikv.errors import KeyExists, WriteConflict, WrongType
from pytikv.observe import telemetry, tracing
from pytikv.observe.telemetry import CallRecord, Telemetry, current_record
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
UNIX = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Spans:
    """Tracing on, and what came of it."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.clock = Clock()
        self.telemetry = Telemetry(self.clock, lambda: self.clock.now + UNIX, "tikv://pd1:2379,[::1]:2380/shop")

    def call(self, body: Callable[[CallRecord], Any], method: str = "txn_commit", **facts: Any) -> CallRecord:
        """Make a call whose body is given its record."""

        async def run() -> CallRecord:
            record = current_record()
            assert record is not None
            body(record)
            return record

        return asyncio.run(self.telemetry.run(method, run(), facts or None))  # type: ignore[arg-type]

    def done(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = Spans()
    with tracing.enable(found.provider):
        yield found
    found.provider.shutdown()


def request(region: int) -> bytes:
    context = kvrpcpb.Context(region_id=region)
    return kvrpcpb.GetRequest(context=context, key=b"k").SerializeToString()


def answer(total_ms: int, wait_ms: int) -> bytes:
    found = kvrpcpb.GetResponse(value=b"v" * 1000)
    detail = found.exec_details_v2.time_detail_v2
    detail.total_rpc_wall_time_ns, detail.wait_wall_time_ns = total_ms * 1_000_000, wait_ms * 1_000_000
    return found.SerializeToString()


def test_a_call_is_a_span_of_the_database_conventions(spans: Spans) -> None:
    def body(record: CallRecord) -> None:
        record.step("tso", "tso", 100.0, 100.001, detail=3)
        record.step("rpc", "KvGet", 100.001, 100.003, "ok", "store1:20160", (request(7), answer(1, 0)))
        spans.clock.now = 100.5

    spans.call(body, "txn_get", keys=3, start_ts=42)
    call = spans.done()["txn_get shop"]
    assert call.kind is SpanKind.CLIENT
    assert call.start_time == int((100.0 + UNIX) * 1e9)
    assert call.end_time == int((100.5 + UNIX) * 1e9)
    assert call.status.status_code is StatusCode.UNSET
    assert dict(call.attributes or {}) == {
        "db.system.name": "tikv",
        "db.operation.name": "txn_get",
        "db.namespace": "shop",
        "server.address": "pd1",
        "server.port": 2379,
        "db.operation.batch.size": 3,
        "tikv.start_ts": 42,
        "tikv.region_id": 7,
        "tikv.store": "store1:20160",
        "network.peer.address": "store1",
        "network.peer.port": 20160,
    }


def test_rpcs_and_waits_are_children_with_the_times_that_they_had(spans: Spans) -> None:
    def body(record: CallRecord) -> None:
        record.step("rpc", "KvGet", 100.25, 100.5, "ok", "[::1]:20160", (request(300), answer(4, 1)))
        record.step("lock_wait", "read", 100.5, 101.0)
        record.step("tso", "tso", 101.0, 101.5, "ok", "pd1:2379", 12)

    spans.call(body)
    done = spans.done()
    call, rpc = done["txn_commit shop"], done["tikvpb.Tikv/KvGet"]
    for name in ("tikvpb.Tikv/KvGet", "lock_wait read", "tso"):
        parent = done[name].parent
        assert parent is not None
        assert parent.span_id == call.context.span_id
    assert (rpc.start_time, rpc.end_time) == (int((100.25 + UNIX) * 1e9), int((100.5 + UNIX) * 1e9))
    assert rpc.kind is SpanKind.CLIENT
    assert dict(rpc.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": "tikvpb.Tikv/KvGet",
        "rpc.response.status_code": "OK",
        "server.address": "::1",
        "server.port": 20160,
        "tikv.region_id": 300,
        "tikv.server_ms": 4.0,
        "tikv.server_wait_ms": 1.0,
    }
    assert done["lock_wait read"].kind is SpanKind.INTERNAL
    assert (done["tso"].attributes or {})["tikv.tso_batch_size"] == 12


def test_retries_and_phases_are_events_and_attributes(spans: Spans) -> None:
    def body(record: CallRecord) -> None:
        record.step("phase", "prewrite", 100.0, 100.25)
        record.step("backoff", "regionMiss", 100.25, 100.375, detail="the region moved")
        record.step("backoff", "tikvRPC", 100.375, 100.5)
        record.step("phase", "commit", 100.5, 100.75)
        record.step("rpc", "KvPrewrite", 100.0, 100.1, "UNAVAILABLE", "store1:20160", (request(1), None))
        record.step("rpc", "KvPrewrite", 100.0, 100.1, "ok", "store2:20160", (request(2), b""))

    spans.call(body)
    call = spans.done()["txn_commit shop"]
    attributes = dict(call.attributes or {})
    assert attributes["tikv.retries"] == 2
    assert attributes["tikv.backoff_ms"] == 250.0
    assert attributes["tikv.phase.prewrite_ms"] == 250.0
    assert attributes["tikv.region_ids"] == (1, 2)
    assert attributes["tikv.stores"] == ("store1:20160", "store2:20160")
    assert "network.peer.address" not in attributes
    events = {event.name: event for event in call.events}
    assert list(events) == ["phase prewrite", "backoff regionMiss", "backoff tikvRPC", "phase commit"]
    assert dict(events["backoff regionMiss"].attributes or {}) == {
        "tikv.duration_ms": 125.0,
        "tikv.detail": "the region moved",
    }
    failed = [span for span in spans.exporter.get_finished_spans() if span.status.status_code is StatusCode.ERROR]
    assert [(span.attributes or {})["error.type"] for span in failed] == ["UNAVAILABLE"]


def test_a_wall_clock_that_jumps_moves_later_calls_and_tears_none_apart(spans: Spans) -> None:
    wall = UNIX
    spans.telemetry = Telemetry(spans.clock, lambda: spans.clock.now + wall)

    def body(record: CallRecord) -> None:
        nonlocal wall
        wall += 3600.0
        record.step("rpc", "RawGet", 100.0, 100.25)
        spans.clock.now = 100.5

    spans.call(body, "raw_get")
    spans.call(lambda _: None, "raw_put")
    done = spans.done()
    call, rpc, after = done["raw_get"], done["tikvpb.Tikv/RawGet"], done["raw_put"]
    assert (call.start_time, rpc.start_time, rpc.end_time, call.end_time) == tuple(
        int((at + UNIX) * 1e9) for at in (100.0, 100.0, 100.25, 100.5)
    )
    assert after.start_time == int((100.5 + UNIX + 3600.0) * 1e9)


def test_secrets_of_the_context_are_in_no_span(spans: Spans) -> None:
    with pytikv.context(tenant_id="acme", user_token="hunter2", request_source="batch", baggage={"note": "private"}):
        spans.call(lambda record: record.step("rpc", "RawGet", 100.0, 100.1), "raw_get")
    attributes = dict(spans.done()["raw_get shop"].attributes or {})
    assert (attributes["tikv.tenant_id"], attributes["tikv.request_source"]) == ("acme", "batch")
    told = "".join(span.to_json() for span in spans.exporter.get_finished_spans())
    assert "hunter2" not in told
    assert "private" not in told


def test_an_error_ends_in_the_status_and_its_outcome(spans: Spans) -> None:
    def body(_: CallRecord) -> None:
        raise WriteConflict("another transaction wrote the key", key=b"k")

    with pytest.raises(WriteConflict):
        spans.call(body)
    call = spans.done()["txn_commit shop"]
    assert call.status.status_code is StatusCode.ERROR
    assert call.status.description == "another transaction wrote the key"
    attributes = dict(call.attributes or {})
    assert (attributes["error.type"], attributes["tikv.outcome"]) == ("WriteConflict", "not_applied")


def test_the_parent_is_the_current_span_before_the_ambient_trace(spans: Spans) -> None:
    with pytikv.context(trace_id=TRACE, span_id=SPAN, tenant_id="acme"):
        record = spans.call(lambda _: None, "raw_get")
        ambient = spans.done()["raw_get shop"]
        assert ambient.parent is not None
        assert (f"{ambient.context.trace_id:032x}", f"{ambient.parent.span_id:016x}") == (TRACE, SPAN)
        assert (ambient.attributes or {})["tikv.tenant_id"] == "acme"
        assert telemetry.trace_id_of(record) == TRACE
        assert telemetry.span_id_of(record) == f"{ambient.context.span_id:016x}"
        with spans.provider.get_tracer("app").start_as_current_span("request") as outer:
            record = spans.call(lambda _: None, "raw_put")
        assert telemetry.trace_id_of(record) == f"{outer.get_span_context().trace_id:032x}"
        parent = spans.done()["raw_put shop"].parent
        assert parent is not None
        assert parent.span_id == outer.get_span_context().span_id


def test_an_inbound_traceparent_that_is_not_sampled_is_heeded(spans: Spans) -> None:
    with pytikv.context.from_headers({"traceparent": f"00-{TRACE}-{SPAN}-00"}):
        record = spans.call(lambda _: None)
    assert not spans.done()
    assert telemetry.trace_id_of(record) == TRACE


def test_a_call_within_a_call_is_its_child_and_stores_hear_the_ids(spans: Spans) -> None:
    heard = []

    async def inner() -> None:
        whose = current_context()
        assert whose is not None
        heard.append((whose.trace_id, whose.span_id, trace.get_current_span().get_span_context().span_id))

    async def outer() -> None:
        await spans.telemetry.run("txn_get", inner())

    asyncio.run(spans.telemetry.run("client_run", outer()))  # type: ignore[arg-type]
    done = spans.done()
    get, run = done["txn_get shop"], done["client_run shop"]
    assert get.parent is not None
    assert get.parent.span_id == run.context.span_id
    assert heard == [(f"{run.context.trace_id:032x}", f"{get.context.span_id:016x}", get.context.span_id)]
    assert current_context() is None
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_work_beyond_the_calls_end_is_still_its_child(spans: Spans) -> None:
    record = spans.call(lambda _: None)
    record.step("rpc", "KvCommit", 101.0, 102.0, "ok", "store1:20160", (request(9), b""))
    record.step("backoff", "tikvRPC", 102.0, 103.0)
    done = spans.done()
    parent = done["tikvpb.Tikv/KvCommit"].parent
    assert parent is not None
    assert parent.span_id == done["txn_commit shop"].context.span_id


def test_children_are_bounded_and_the_rest_counted(spans: Spans) -> None:
    def body(record: CallRecord) -> None:
        for _ in range(telemetry.MAX_STEPS + 10):
            record.step("rpc", "RawGet", 100.0, 100.1)

    spans.call(body)
    assert len(spans.exporter.get_finished_spans()) == telemetry.MAX_STEPS + 1
    assert (spans.done()["txn_commit shop"].attributes or {})["tikv.steps_dropped"] == 10


def test_a_span_that_is_not_sampled_has_nothing_but_ids() -> None:
    found = Spans(sampler=ALWAYS_OFF)
    with tracing.enable(found.provider):
        record = found.call(lambda record: record.step("rpc", "RawGet", 100.0, 100.1))
    assert not found.exporter.get_finished_spans()
    assert len(telemetry.trace_id_of(record)) == 32
    assert set(record.extra or {}) == {"trace"}
    found.provider.shutdown()


def test_what_is_no_provider_is_refused() -> None:
    with pytest.raises(WrongType, match="is an OpenTelemetry TracerProvider, not str"):
        tracing.enable("otlp")  # type: ignore[arg-type]
    assert not telemetry.sinks()


def test_without_a_provider_calls_pass_by_and_the_first_after_one_is_traced() -> None:
    program = """
import asyncio
import importlib
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pytikv.observe import tracing
from pytikv.observe.telemetry import Telemetry, current_record

async def body():
    return current_record()

telemetry = Telemetry(lambda: 1.0, lambda: 2.0)
with tracing.enable() as on:
    assert on is tracing.enable()
    coroutine = body()
    assert telemetry.run("raw_get", coroutine) is coroutine  # not even wrapped
    assert asyncio.run(coroutine) is None
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    assert asyncio.run(telemetry.run("raw_get", body())) is not None
    print([span.name for span in exporter.get_finished_spans()])
assert asyncio.run(telemetry.run("raw_get", body())).extra is None
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['raw_get']", done.stderr


class Broken(SpanExporter):
    """An exporter that is down."""

    def export(self, spans: Any) -> SpanExportResult:
        raise ConnectionError("nobody listens")


def test_an_exporter_that_is_down_hurts_no_call(caplog: pytest.LogCaptureFixture) -> None:
    found = Spans()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Broken()))
    with tracing.enable(provider), caplog.at_level(logging.CRITICAL):
        record = found.call(lambda record: record.step("rpc", "RawGet", 100.0, 100.1))
    assert record.status == "ok"
    provider.shutdown()


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("user_token=hunter2 was refused"), "user_token=*** was refused"),
        (asyncio.CancelledError(), "CancelledError"),
        (Rude(), "Rude"),
        (ValueError("x" * 5000), "x" * 253 + "..."),
    ],
)
def test_the_text_of_any_error_is_bounded_and_without_secrets(spans: Spans, error: BaseException, text: str) -> None:
    def body(_: CallRecord) -> None:
        raise error

    with pytest.raises(type(error)):
        spans.call(body)
    call = spans.done()["txn_commit shop"]
    assert (call.status.status_code, call.status.description) == (StatusCode.ERROR, text)


def test_redacted_keys_stay_out_of_spans(spans: Spans) -> None:
    from pytikv.errors import format_key

    pytikv.redact_keys(True)
    try:

        def body(_: CallRecord) -> None:
            raise KeyExists(f"{format_key(b'secret-key')} exists", key=b"secret-key")

        with pytest.raises(KeyExists):
            spans.call(body)
    finally:
        pytikv.redact_keys(False)
    assert "secret" not in spans.done()["txn_commit shop"].to_json()


def test_the_embedded_store_has_no_server_and_no_path_in_its_spans() -> None:
    from pytikv.observe.semconv import target_attributes

    assert target_attributes("embedded:///var/lib/app", "raw_get") == {
        "db.system.name": "tikv",
        "db.operation.name": "raw_get",
        "tikv.embedded": True,
    }


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("RawGet", "tikvpb.Tikv/RawGet"),
        ("KVPessimisticRollback", "tikvpb.Tikv/KVPessimisticRollback"),
        ("SplitRegion", "tikvpb.Tikv/SplitRegion"),
        ("UnsafeDestroyRange", "tikvpb.Tikv/UnsafeDestroyRange"),
        ("GetRegion", "pdpb.PD/GetRegion"),
        ("GetGCState", "pdpb.PD/GetGCState"),
        ("LoadKeyspace", "keyspacepb.Keyspace/LoadKeyspace"),
    ],
)
def test_rpcs_are_named_with_their_service(name: str, method: str) -> None:
    from pytikv.observe.semconv import step_name
    from pytikv.observe.telemetry import Step

    assert step_name(Step("rpc", name, 0.0, 1.0)) == method


def test_every_rpc_to_a_store_is_named_as_one() -> None:
    from pytikv.client import rpcs
    from pytikv.observe.semconv import step_name
    from pytikv.observe.telemetry import Step

    for one in vars(rpcs).values():
        if isinstance(one, rpcs.Rpc):
            assert step_name(Step("rpc", one.name, 0.0, 1.0)) == one.path.decode().strip("/")


def test_every_name_that_is_not_ours_is_one_of_the_conventions(spans: Spans) -> None:
    """As the SDK's package of the conventions has them, which is made from their source."""
    known = set()
    for area in ("db", "server", "error", "network"):
        module = importlib.import_module(f"opentelemetry.semconv.attributes.{area}_attributes")
        known |= {value for name, value in vars(module).items() if name.isupper()}
    rpc = importlib.import_module("opentelemetry.semconv._incubating.attributes.rpc_attributes")
    known |= {value for name, value in vars(rpc).items() if name.isupper()}

    def body(record: CallRecord) -> None:
        record.step("rpc", "KvGet", 100.0, 100.1, "UNAVAILABLE", "s1:20160", (request(1), None))
        record.step("tso", "wait", 100.1, 100.2, "cancelled", "pd1:2379", 3)
        record.step("backoff", "tikvRPC", 100.2, 100.3)
        raise WriteConflict("met another")

    with pytest.raises(WriteConflict), pytikv.context(tenant_id="acme", resource_group="rg", request_source="r"):
        spans.call(body, keys=5, start_ts=1, mode="optimistic", commit_ts=2)
    names = set()
    for span in spans.exporter.get_finished_spans():
        names |= set(span.attributes or {})
        for event in span.events:
            names |= set(event.attributes or {})
    ours = {name for name in names if name.startswith("tikv.")}
    assert names - ours <= known
    assert {"db.system.name", "db.operation.batch.size", "error.type", "rpc.method", "server.port"} <= names
