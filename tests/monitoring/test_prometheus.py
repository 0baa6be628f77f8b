"""A real Prometheus scrapes the demonstration and its servers: every panel's query and every rule has data.

The demonstration runs as a user would run it, with everything switched on, against `pytikv serve` on RocksDB. Data for
the panels of trouble come from real trouble: buyers who conflict and wait for locks, a server that stands still until
the breaker opens, and a request that makes no sense.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import pytest
from typer.testing import CliRunner

from pytikv.cli.app import app
from pytikv.cli.topology import find_stores
from pytikv.client.pool import ConnectionPool
from pytikv.demo import dataset
from pytikv.monitoring.board import Board, substitute
from pytikv.monitoring.client_board import CLIENT_BOARD
from pytikv.monitoring.rules import ALERTS, RECORDINGS
from pytikv.monitoring.server_board import SERVER_BOARD
from pytikv.rt.aio import AioRuntime
from pytikv.testing.server import ServerProcess
from pytikv.wire.errors import RpcError

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not dataset.installed(dataset.FLIGHTS), reason="the demonstration's data is not installed"),
]

Samples = Sequence[dict[str, Any]]


class Prometheus(Protocol):
    """What conftest starts."""

    def api(self, path: str, **parameters: str) -> Any: ...
    def query(self, expr: str) -> Samples: ...
    def wait_until(self, condition: Callable[[], bool], seconds: float, what: Callable[[], object]) -> None: ...


StartPrometheus = Callable[[Path], Prometheus]

OPTIONS = "rpc_timeout=0.5&breaker.min_calls=3&breaker.window_s=3&retry_budget=on&adaptive_limit=on&hedge_after_ms=20"


@contextlib.contextmanager
def demo(url: str) -> Iterator[str]:
    """The demonstration, while it goes on; gives the address of its metrics."""
    command = [sys.executable, "-m", "pytikv", "demo", "--url", f"{url}?{OPTIONS}", "--rows", "200"]
    command += ["--buyers", "8", "--seats", "24"]
    process = subprocess.Popen(
        [*command, "--serve-metrics", "0", "--keep", "300"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={name: text for name, text in os.environ.items() if not name.startswith("PYTIKV_")},
    )
    assert process.stderr is not None
    try:
        yield metrics_address(process.stderr)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def metrics_address(said: IO[str]) -> str:
    line = said.readline()
    assert line.startswith("metrics at http://"), line + said.read()
    return line.split("/")[2]


async def send_nonsense(address: str) -> None:
    """Make a store refuse a request: its message is no protobuf."""
    rt = AioRuntime()
    pool = ConnectionPool(rt)
    try:
        channel = await pool.channel(address, rt.now() + 5)
        with pytest.raises(RpcError):
            await channel.unary(b"/tikvpb.Tikv/RawChecksum", b"\xff", deadline=rt.now() + 5)
    finally:
        await pool.close()
        await rt.close()


def questions() -> dict[str, str]:
    """What must have data: every query of every panel, and every recorded series."""

    def of(board: Board, job: str) -> dict[str, str]:
        return {
            f"{board.uid} / {panel.title} / {query.legend}": substitute(query.expr, job=job)
            for panel in board.panels
            for query in panel.queries
        }

    return of(CLIENT_BOARD, "pytikv") | of(SERVER_BOARD, "tikv|pd") | {rule.name: rule.name for rule in RECORDINGS}


def test_every_panel_and_rule_has_data(tmp_path: Path, prometheus: StartPrometheus) -> None:
    with ServerProcess(str(tmp_path / "store")) as server, demo(server.url) as metrics:
        words = ["init", str(tmp_path), "--target", metrics, "--url", server.url, "--scrape-interval", "500ms"]
        done = CliRunner().invoke(app, ["monitoring", *words])
        assert done.exit_code == 0, done.stderr
        prom = prometheus(tmp_path)
        prom.wait_until(lambda: len(prom.query("up == 1")) == 3, 20, lambda: prom.api("targets"))
        make_trouble(server, prom)
        left = questions()

        def all_answered() -> bool:
            for name in [name for name, expr in left.items() if prom.query(expr)]:
                del left[name]
            return not left

        prom.wait_until(all_answered, 30, lambda: f"no data: {left}")
        check_rules(prom)
        check_figures(prom)


def make_trouble(server: ServerProcess, prom: Prometheus) -> None:
    asyncio.run(send_nonsense(find_stores(server.url)[0].address))
    # Only the traffic that comes after the demonstration's stages has trace ids.
    prom.wait_until(lambda: bool(trace_ids(prom)), 30, lambda: f"no traffic: {prom.query('up')}")
    server.pause()
    opened = "max(tikv_breaker_transitions_total{to='open'}) > 0"
    prom.wait_until(lambda: bool(prom.query(opened)), 20, lambda: "no breaker opened")
    server.resume()
    closed = "max(tikv_breaker_state) == 0"
    prom.wait_until(lambda: bool(prom.query(closed)), 20, lambda: "the breaker stayed open")


def trace_ids(prom: Prometheus) -> set[str]:
    """The trace ids of exemplars: points of a histogram that lead to a trace."""
    found = prom.api("query_exemplars", query="tikv_request_duration_seconds_bucket", start="0", end="9999999999")
    return {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}


def check_rules(prom: Prometheus) -> None:
    """All rules were loaded and can be evaluated."""
    rules = [rule for group in prom.api("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {rule.name for rule in (*RECORDINGS, *ALERTS)}
    assert [rule for rule in rules if rule["health"] != "ok"] == []


def check_figures(prom: Prometheus) -> None:
    """A few figures make sense together."""
    assert len(prom.query('up{role="client"} == 1')) == 1
    assert prom.query("sum(tikv_lock_wait_seconds_count) > 0")
    assert prom.query("sum(tikv_retries_total) > 0")
    assert prom.query('sum(tikv_txn_conflicts_total{kind="WriteConflict"}) > 0')
    assert prom.query('sum(tikv_rejected_total{reason="open"}) > 0')
    assert prom.query('sum(tikv_request_duration_seconds_count{status!="ok"}) > 0')
    sent = 'sum(tikv_rpc_duration_seconds_count{rpc="RawGet",status="ok"})'
    served = 'sum(tikv_grpc_msg_duration_seconds_count{type="raw_get"})'
    assert 0.8 < float(prom.query(f"{sent} / {served}")[0]["value"][1]) < 1.2, "client and server count the same"
