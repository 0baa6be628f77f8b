"""Spans as a real OpenTelemetry collector gets them, and an exporter that nobody answers."""

from __future__ import annotations

import logging
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import pytikv
from pytikv.observe import tracing

INTEROP = Path(__file__).resolve().parents[2] / "interop"


@pytest.mark.process
@pytest.mark.timeout(600)  # the first build of the collector takes a minute or more
@pytest.mark.skipif(shutil.which("go") is None, reason="the collector is built with Go, which is not here")
def test_a_collector_gets_calls_with_their_children(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytikv.testing.server import ServerProcess

    monkeypatch.syspath_prepend(str(INTEROP))
    import collector

    with ServerProcess() as server:
        result = collector.traces(server.url.removeprefix("tikv://"))
    for name in ("collector", "programs", "results", "peers"):
        sys.modules.pop(name, None)
    if result.skipped:
        pytest.skip(result.skipped)
    assert result.failures == []
    assert result.passed == 5


def test_an_exporter_without_a_collector_delays_no_call(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as probe:  # bound and not listening: refused at once, and nobody else gets the port
        probe.bind(("127.0.0.1", 0))
        provider = TracerProvider()
        exporter = OTLPSpanExporter(f"http://127.0.0.1:{probe.getsockname()[1]}/v1/traces", timeout=1)
        provider.add_span_processor(
            BatchSpanProcessor(exporter, schedule_delay_millis=10, max_queue_size=64, max_export_batch_size=64)
        )
        began = time.monotonic()
        with (
            caplog.at_level(logging.CRITICAL),
            tracing.enable(provider),
            pytikv.RawClient.connect("embedded://:memory:") as client,
        ):
            for number in range(500):  # more than the processor's queue: the rest is dropped
                client.put(b"k%d" % number, b"v")
            assert client.get(b"k499") == b"v"
        assert time.monotonic() - began < 5.0
        provider.shutdown()
