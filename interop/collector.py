"""The traces of our client, sent by OTLP to a real OpenTelemetry collector, and looked at as they arrived.

The collector is built from its published Go modules (`otel/`): it takes spans over OTLP/HTTP and writes them to a file.
A raw write and read, a transaction below a span of the program's own, and a call that fails are traced by the
SDK and its exporter, as a program would; then the file must have their names, attributes, parents and times.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from programs import BIN, HERE, Skipped, run_build, tool
from results import Result

_START_SECONDS = 20.0
_STOP_SECONDS = 20.0
_CONFIG = """
receivers:
  otlp:
    protocols:
      http: {{endpoint: "127.0.0.1:{port}"}}
exporters:
  file: {{path: "{path}"}}
service:
  telemetry:
    metrics: {{level: none}}
    logs: {{level: warn}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [file]}}
"""


def build() -> str:
    """Build the collector; returns its path. Raises Skipped where there is no Go or a module cannot be had."""
    try:
        run_build([tool("go"), "build", "-o", str(BIN / "otel"), "."], HERE / "otel")
    except RuntimeError as error:
        raise Skipped(f"the collector cannot be built: {str(error)[-200:]}") from None
    return str(BIN / "otel")


class Collector:
    """A collector that runs: a context manager. `endpoint` takes OTLP/HTTP; `spans` are there after the end."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._folder = tempfile.TemporaryDirectory()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}/v1/traces"
        self._file = Path(self._folder.name) / "traces.json"
        self._config = Path(self._folder.name) / "config.yml"
        self._config.write_text(_CONFIG.format(port=port, path=self._file))
        self.spans: list[dict[str, Any]] = []

    def __enter__(self) -> Collector:
        self._log = open(Path(self._folder.name) / "log", "w+")  # closed by __exit__
        self._process = subprocess.Popen(
            [self._program, "--config", str(self._config)], stdout=self._log, stderr=subprocess.STDOUT
        )
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait(self) -> None:
        ends = time.monotonic() + _START_SECONDS
        body = urllib.request.Request(self.endpoint, b"{}", {"Content-Type": "application/json"})
        while True:
            try:
                with urllib.request.urlopen(body, timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError) as error:
                if self._process.poll() is not None or time.monotonic() > ends:
                    self._log.seek(0)
                    raise RuntimeError(f"the collector did not start ({error}): {self._log.read()[-500:]}") from None
                time.sleep(0.05)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)  # it writes out what it has
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        if self._file.exists():
            self.spans = list(_spans(self._file.read_text()))
        self._folder.cleanup()


def _spans(text: str) -> Iterator[dict[str, Any]]:
    """Yield the spans of a file of OTLP in JSON, each with its attributes, and the resource's, as plain values."""
    for line in text.splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    found = {
                        "parentSpanId": "",
                        **span,
                        "scope": scope["scope"]["name"],
                        "attributes": _values(span.get("attributes", [])),
                    }
                    found["resource"] = _values(resource["resource"]["attributes"])
                    yield found


def _values(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["key"]: _value(one["value"]) for one in attributes}


def _value(value: dict[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "arrayValue":
        return [_value(one) for one in content.get("values", [])]
    return int(content) if kind == "intValue" else content


# --- the checks -------------------------------------------------------------------------------------------------------


def traces(address: str) -> Result:
    """Trace calls to the cluster whose PD is at `address`, and check what the collector got."""
    result, started = Result("OpenTelemetry collector", "v1"), time.monotonic()
    try:
        program = build()
    except Skipped as skipped:
        result.skipped = str(skipped)
        return result
    with Collector(program) as collector:
        outer = _make_traces(collector.endpoint, f"tikv://{address}")
    for name, check in _CHECKS.items():
        try:
            check(collector.spans, outer)
        except (AssertionError, KeyError, ValueError) as error:
            result.failures.append(f"{name}: {type(error).__name__}: {error}")
        else:
            result.passed += 1
    result.seconds = time.monotonic() - started
    return result


def _make_traces(endpoint: str, url: str) -> str:
    """Make calls as a program does that exports by OTLP; returns the span id of the program's own span."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    import pytikv
    from pytikv.observe import tracing

    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    try:
        with tracing.enable(provider), pytikv.TransactionClient.connect(url) as client:
            with provider.get_tracer("shop").start_as_current_span("order") as span, client.begin() as txn:
                txn.put(b"otel_1", b"v")
                txn.get(b"otel_2")
            loser, winner = client.begin(), client.begin()
            for one in (winner, loser):
                one.put(b"otel_1", b"w")
            winner.commit()
            with contextlib.suppress(pytikv.WriteConflict):
                loser.commit()
            with pytikv.RawClient.connect(url) as raw:
                raw.batch_put({b"otel_%d" % number: b"v" for number in range(3)})
    finally:
        provider.shutdown()
    return f"{span.get_span_context().span_id:016x}"


Spans = list[dict[str, Any]]


def _named(spans: Spans, name: str) -> dict[str, Any]:
    found = [span for span in spans if span["name"] == name]
    if not found:
        raise AssertionError(f"no span is named {name}; there are {sorted({span['name'] for span in spans})}")
    return found[0]


def _check_calls(spans: Spans, outer: str) -> None:
    """Calls lie below the program's span, of kind CLIENT, by the conventions for databases."""
    for name in ("txn_begin", "txn_get", "txn_commit"):
        span = _named([span for span in spans if span["parentSpanId"] == outer], name)
        assert span["kind"] == 3, span["kind"]
        assert span["scope"] == "pytikv", span["scope"]
        assert span["resource"]["service.name"] == "shop", span["resource"]
        attributes = span["attributes"]
        assert attributes["db.system.name"] == "tikv", attributes
        assert attributes["db.operation.name"] == name, attributes
        assert attributes["server.address"] == "127.0.0.1", attributes
        assert isinstance(attributes["server.port"], int), attributes


def _check_transaction(spans: Spans, outer: str) -> None:
    """A commit names its timestamp, its region and its store, and a prewrite is its child."""
    commit = _named([span for span in spans if span["parentSpanId"] == outer], "txn_commit")
    attributes = commit["attributes"]
    assert attributes["tikv.start_ts"] > 0, attributes
    assert attributes["tikv.region_id"] > 0, attributes
    assert attributes["tikv.store"] == f"{attributes['network.peer.address']}:{attributes['network.peer.port']}"
    children = [span for span in spans if span["parentSpanId"] == commit["spanId"]]
    prewrite = _named(children, "tikvpb.Tikv/KvPrewrite")
    assert prewrite["kind"] == 3, prewrite["kind"]
    assert prewrite["attributes"]["rpc.system.name"] == "grpc", prewrite["attributes"]
    assert prewrite["attributes"]["rpc.response.status_code"] == "OK", prewrite["attributes"]
    assert prewrite["attributes"]["tikv.region_id"] == attributes["tikv.region_id"], prewrite["attributes"]


def _check_times(spans: Spans, outer: str) -> None:
    """Children lie within their parents, but for work in the background, which begins there; all in one trace."""
    by_id = {span["spanId"]: span for span in spans}
    for span in spans:
        begun, ended = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
        assert begun <= ended, span["name"]
        assert abs(begun / 1e9 - time.time()) < 600, span["name"]
        parent = by_id.get(span["parentSpanId"])
        if parent is not None and parent["scope"] == "pytikv":
            assert int(parent["startTimeUnixNano"]) - 1000 <= begun, f"{span['name']} in {parent['name']}"
            assert span["traceId"] == parent["traceId"], span["name"]
            if span["name"] in ("tikvpb.Tikv/KvPrewrite", "tikvpb.Tikv/KvGet", "tikvpb.Tikv/RawBatchPut"):
                assert ended <= int(parent["endTimeUnixNano"]) + 1000, f"{span['name']} in {parent['name']}"
    assert by_id[outer]["name"] == "order"


def _check_failure(spans: Spans, _: str) -> None:
    """A conflict is the status of its call."""
    (failed,) = (span for span in spans if span["attributes"].get("error.type") == "WriteConflict")
    assert failed["name"] == "txn_commit", failed["name"]
    assert failed["status"]["code"] == 2, failed["status"]
    assert failed["attributes"]["tikv.outcome"] == "not_applied", failed["attributes"]


def _check_batch(spans: Spans, _: str) -> None:
    """A batch tells its size, and its RPC is a child."""
    batch = _named(spans, "raw_batch_put")
    assert batch["attributes"]["db.operation.batch.size"] == 3, batch["attributes"]
    _named([span for span in spans if span["parentSpanId"] == batch["spanId"]], "tikvpb.Tikv/RawBatchPut")


_CHECKS: dict[str, Callable[[Spans, str], None]] = {
    "calls": _check_calls,
    "transaction": _check_transaction,
    "times": _check_times,
    "failure": _check_failure,
    "batch": _check_batch,
}
