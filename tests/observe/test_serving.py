"""Metrics over HTTP: the server of a client, and the applications for WSGI and ASGI."""

from __future__ import annotations

import asyncio
import gzip
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import pytikv
from pytikv.errors import ConfigError, WrongType
from pytikv.observe import metrics, telemetry

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture(autouse=True)
def nothing_installed() -> Iterator[None]:
    yield
    metrics.uninstall()
    assert telemetry.sinks() == ()


def fetch(url: str, accept: str = "*/*") -> tuple[str, str]:
    """Return the type and the text of an answer."""
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def gets(text: str, parse: Callable[[str], Any] = parse_text) -> float:
    """Return how many raw_gets a text tells of."""
    for family in parse(text):
        for sample in family.samples:
            if sample.name == "tikv_request_duration_seconds_count" and sample.labels["method"] == "raw_get":
                return sample.value
    return 0.0


def test_a_blocking_client_serves() -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as client, client.serve_metrics() as server:
        client.get(b"k")
        client.get(b"k")
        assert server.url == f"http://127.0.0.1:{server.port}/metrics"
        kind, text = fetch(server.url)
        assert kind.startswith("text/plain")
        assert gets(text) == 2
        kind, text = fetch(server.url, OPENMETRICS)
        assert kind.startswith("application/openmetrics-text")
        assert gets(text, parse_openmetrics) == 2
        assert text.endswith("# EOF\n")


def test_the_transactional_and_the_asynchronous_clients_serve() -> None:
    async def use() -> None:
        raw = await pytikv.AsyncRawClient.connect("embedded://:memory:")
        db = await pytikv.AsyncTransactionClient.connect("embedded://:memory:")
        async with raw, db:
            with raw.serve_metrics() as first, db.serve_metrics() as second:
                await raw.get(b"k")
                loop = asyncio.get_running_loop()
                for server in (first, second):
                    _, text = await loop.run_in_executor(None, fetch, server.url)
                    assert gets(text) == 1

    asyncio.run(use())
    with pytikv.TransactionClient.connect("embedded://:memory:") as db, db.serve_metrics() as server:
        assert "tikv_txn_total" in fetch(server.url)[1]


def test_a_server_outlives_its_client_and_frees_its_port() -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as client:
        server = client.serve_metrics()
        client.get(b"k")
    assert gets(fetch(server.url)[1]) == 1
    server.close()
    server.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)
    metrics.serve(port=server.port).close()


def test_a_port_in_use() -> None:
    with metrics.serve() as server, pytest.raises(ConfigError, match=f"{server.port}: Address already in use"):
        metrics.serve(port=server.port)
    with pytest.raises(ConfigError, match="cannot be served"):
        metrics.serve(port=70_000)
    with pytest.raises(ConfigError, match=r"cannot be served at 192\.0\.2\.1:0"):
        metrics.serve(host="192.0.2.1")


@pytest.mark.parametrize("place", [{"port": "9100"}, {"port": 1.5}, {"port": True}, {"host": 5}])
def test_what_is_no_port_and_no_host(place: dict[str, Any]) -> None:
    with pytest.raises(WrongType, match=f"^{next(iter(place))} is a"):
        metrics.serve(**place)


def test_a_scraper_that_goes_away_hurts_nobody() -> None:
    with metrics.serve() as server:
        gone = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        gone.sendall(b"GET /met")
        gone.close()
        assert "pytikv_build_info" in fetch(server.url)[1]


def ask_wsgi(app: Callable[..., Any], headers: dict[str, str]) -> tuple[str, dict[str, str], bytes]:
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ["PATH_INFO"] = "/metrics"
    environ.update({f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()})
    started: list[Any] = []
    body = b"".join(app(environ, lambda status, found: started.extend((status, dict(found)))))
    return started[0], started[1], body


def test_wsgi() -> None:
    app = pytikv.metrics.wsgi_app()
    with pytikv.RawClient.connect("embedded://:memory:") as client:
        client.get(b"k")
    status, headers, body = ask_wsgi(app, {"Accept": OPENMETRICS, "Accept-Encoding": "gzip"})
    assert status.startswith("200")
    assert headers["Content-Encoding"] == "gzip"
    assert gets(gzip.decompress(body).decode(), parse_openmetrics) == 1
    assert gets(ask_wsgi(app, {})[2].decode()) == 1


def test_asgi() -> None:
    registry = CollectorRegistry()
    app = metrics.asgi_app(registry)
    try:
        with pytikv.RawClient.connect("embedded://:memory:") as client:
            client.get(b"k")
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/metrics", "query_string": b"", "headers": []}
        asyncio.run(app(scope, receive, send))
    finally:
        metrics.uninstall(registry)
    assert sent[0]["status"] == 200
    assert gets(sent[1]["body"].decode()) == 1


WITHOUT = """
import sys
sys.modules["prometheus_client"] = None
import pytikv
from pytikv import *
with pytikv.RawClient.connect("embedded://:memory:") as client:
    for attempt in (client.serve_metrics, lambda: pytikv.metrics, lambda: pytikv.RawClient.connect(
            "embedded://:memory:", metrics=True)):
        try:
            attempt()
        except pytikv.ConfigError as error:
            print(error)
"""


def test_without_prometheus_client() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ['metrics need prometheus_client: pip install "pytikv[metrics]"'] * 3


def test_a_client_loads_no_prometheus_client() -> None:
    program = "import sys, pytikv; pytikv.RawClient.connect('embedded://:memory:').close(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "prometheus_client" not in done.stdout
