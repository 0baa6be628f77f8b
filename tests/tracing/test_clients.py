"""Tracing of real clients: the option, tasks at once, what the stores hear."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import pytikv
from pytikv.observe import telemetry, tracing
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.testing.server import ServerProcess

EMBEDDED = "embedded://:memory:"


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    found = TracerProvider()
    yield found
    found.shutdown()


@pytest.fixture
def exporter(provider: TracerProvider) -> Iterator[InMemorySpanExporter]:
    found = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(found))
    with tracing.enable(provider):
        yield found
    assert telemetry.sinks() == ()


def names(exporter: InMemorySpanExporter) -> list[str]:
    return [span.name for span in exporter.get_finished_spans()]


@pytest.mark.parametrize("by_environment", [False, True])
def test_the_option_switches_tracing_on(by_environment: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_environment:
        monkeypatch.setenv("PYTIKV_TRACING", "1")
    try:
        with pytikv.RawClient.connect(EMBEDDED, **({} if by_environment else {"tracing": True})) as client:
            assert [type(sink) for sink in telemetry.sinks()] == [tracing.Tracing]
            client.put(b"k", b"v")
    finally:
        tracing.disable()
    assert telemetry.sinks() == ()


def test_an_open_client_is_traced_and_traced_no_more(provider: TracerProvider) -> None:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytikv.RawClient.connect(EMBEDDED) as client:
        client.put(b"k", b"1")
        with tracing.enable(provider):
            client.put(b"k", b"2")
            client.batch_get([b"k", b"l"])
        client.put(b"k", b"3")
    assert names(exporter) == ["raw_put", "raw_batch_get"]
    attributes = dict(exporter.get_finished_spans()[1].attributes or {})
    assert attributes == {
        "db.system.name": "tikv",
        "db.operation.name": "raw_batch_get",
        "db.operation.batch.size": 2,
        "tikv.embedded": True,
    }


def test_tasks_at_once_keep_their_parents_apart(provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
    tracer = provider.get_tracer("app")

    async def request(client: pytikv.AsyncRawClient, number: int) -> tuple[str, int]:
        with tracer.start_as_current_span(f"request {number}") as span:
            await client.put(b"k%d" % number, b"v")
            await client.get(b"k%d" % number)
        return f"request {number}", span.get_span_context().span_id

    async def main() -> dict[str, int]:
        async with await pytikv.AsyncRawClient.connect(EMBEDDED) as client:
            return dict(await asyncio.gather(*(request(client, number) for number in range(20))))

    requests = asyncio.run(main())
    by_parent: dict[int, list[str]] = {}
    for span in exporter.get_finished_spans():
        if span.parent is not None:
            by_parent.setdefault(span.parent.span_id, []).append(span.name)
    assert by_parent == {span_id: ["raw_put", "raw_get"] for span_id in requests.values()}


def test_a_cancelled_call_ends_its_span(exporter: InMemorySpanExporter) -> None:
    async def main() -> None:
        async with await pytikv.AsyncTransactionClient.connect(EMBEDDED) as client:
            holder = await client.begin(pessimistic=True)
            await holder.lock_keys([b"k"])
            waiter = await client.begin(pessimistic=True)
            task = asyncio.ensure_future(waiter.lock_keys([b"k"]))
            for _ in range(10):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await waiter.rollback()
            await holder.rollback()

    asyncio.run(main())
    cancelled = [span for span in exporter.get_finished_spans() if span.name == "txn_lock"][-1]
    assert (cancelled.attributes or {})["error.type"] == "cancelled"


@pytest.mark.process
def test_stores_hear_the_ids_of_the_call(exporter: InMemorySpanExporter) -> None:
    heard: list[bytes] = []

    async def listen(rpc: Any, proceed: Any) -> bytes:
        request = kvrpcpb.RawGetRequest.FromString(rpc.request)  # the context has the same place in all requests
        heard.append(request.context.trace_id)
        answer = await proceed(rpc)
        assert isinstance(answer, bytes)
        return answer

    with ServerProcess() as server, pytikv.RawClient.connect(server.url, interceptors=listen) as client:
        client.get(b"k")
    calls: list[ReadableSpan] = [span for span in exporter.get_finished_spans() if span.name == "raw_get"]
    assert [bytes.fromhex(f"{span.context.trace_id:032x}") for span in calls] == heard
    (rpc,) = [span for span in exporter.get_finished_spans() if span.name == "tikvpb.Tikv/RawGet"]
    assert rpc.parent is not None
    assert rpc.parent.span_id == calls[0].context.span_id
    assert (rpc.attributes or {})["tikv.region_id"] == (calls[0].attributes or {})["tikv.region_id"]


@pytest.mark.process
def test_a_wait_for_a_lock_is_a_child(exporter: InMemorySpanExporter) -> None:
    with ServerProcess() as server, pytikv.TransactionClient.connect(server.url) as client:
        holder, waiter = client.begin(pessimistic=True), client.begin(pessimistic=True)
        holder.lock_keys([b"k"])
        with pytest.raises(pytikv.LockTimeout):
            waiter.lock_keys([b"k"], wait=0.05)
        waiter.rollback()
        holder.rollback()
    (wait,) = [span for span in exporter.get_finished_spans() if span.name == "lock_wait pessimistic"]
    assert (wait.end_time or 0) - (wait.start_time or 0) > 0.03e9


def test_without_the_package_the_error_says_what_to_install() -> None:
    program = """
import io, sys
sys.modules["opentelemetry"] = None
import pytikv
try:
    pytikv.RawClient.connect("embedded://:memory:", tracing=True)
except pytikv.ConfigError as error:
    print(error)
stream = io.StringIO()
with pytikv.logging.json(stream, calls="all"), pytikv.RawClient.connect("embedded://:memory:") as client:
    with pytikv.profile() as report:
        client.put(b"k", b"v")
print(report.calls, stream.getvalue().count("raw_put"))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ['tracing needs opentelemetry-api: pip install "pytikv[tracing]"', "1 2"]
