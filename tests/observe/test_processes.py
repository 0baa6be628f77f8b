"""Metrics and processes: forked children count from zero, and several processes are told as one.

Each case is a program of its own: prometheus_client chooses how it counts when it is first imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from .scraping import samples_in

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

PRELUDE = """
import os, sys, time
import pytikv
from prometheus_client import generate_latest, REGISTRY, CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

def use(gets):
    with pytikv.RawClient.connect("embedded://:memory:", metrics=True) as client:
        for _ in range(gets):
            client.get(b"k")

def in_child(function):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return pid
"""


def run(program: str, **environment: str) -> str:
    """Run a program; returns what it printed."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith(("PYTIKV_", "PROMETHEUS_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        env=clean | environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_a_forked_child_counts_from_zero() -> None:
    text = run(
        """
        use(3)
        def child():
            use(2)
            print(generate_latest(REGISTRY).decode())
        in_child(child)
        print("----")
        print(generate_latest(REGISTRY).decode())
        """
    )
    child, parent = text.split("----")
    for part, gets in ((child, 2), (parent, 3)):
        assert samples_in(part, "tikv_request_duration_seconds_count") == {("raw_get", "ok"): gets}


def test_a_forked_child_closes_the_server_of_its_parent() -> None:
    text = run(
        """
        import socket
        from pytikv.observe import metrics
        server = metrics.serve()
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.read(read, 1)  # until the parent has closed its own
            os._exit(0)
        server.close()
        again = metrics.serve(server.port)  # the child does not hold the port
        os.write(write, b"x")
        os.waitpid(pid, 0)
        again.close()
        print("free")
        """
    )
    assert text == "free\n"


def test_several_processes_are_told_as_one(tmp_path: Path) -> None:
    text = run(
        """
        import urllib.request
        use(1)
        pids = [in_child(lambda: use(10)), in_child(lambda: use(100))]
        with pytikv.observe.metrics.serve() as server:
            with urllib.request.urlopen(server.url, timeout=10) as answer:
                print(answer.read().decode())
        """,
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path),
    )
    assert samples_in(text, "tikv_request_duration_seconds_count") == {("raw_get", "ok"): 111}
    assert samples_in(text, "tikv_request_duration_seconds_bucket")["+Inf", "raw_get", "ok"] == 111
    assert sum(1 for line in text.splitlines() if line.startswith("# TYPE tikv_request_duration_seconds ")) == 1
    assert samples_in(text, "pytikv_build_info") != {}
    assert len(list(tmp_path.glob("histogram_*.db"))) == 3


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    text = run(
        """
        try:
            pytikv.metrics.install()
        except pytikv.ConfigError as error:
            print(error)
        use_without = pytikv.RawClient.connect("embedded://:memory:")
        use_without.put(b"k", b"v")
        use_without.close()
        """,
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "missing"),
    )
    assert text.startswith("PROMETHEUS_MULTIPROC_DIR: its files cannot be written: ")
    assert "No such file or directory" in text


def test_gauges_of_several_processes(tmp_path: Path) -> None:
    text = run(
        """
        from pytikv.testing.server import ServerProcess
        from pytikv.observe import metrics
        import signal

        def scrape():
            together = CollectorRegistry()
            MultiProcessCollector(together)
            return generate_latest(together).decode()

        metrics.install()
        with ServerProcess() as server:
            workers = []
            for _ in range(2):  # each holds a client open until it is told to go
                ready, tell = os.pipe()
                wait, go = os.pipe()
                pid = os.fork()
                if pid == 0:
                    client = server.client()
                    client.get(b"k")
                    os.write(tell, b"x")
                    os.read(wait, 1)
                    client.close()
                    os.write(tell, b"x")
                    os.read(wait, 1)
                    os._exit(0)
                os.read(ready, 1)
                workers.append((pid, go, ready))
            until = time.monotonic() + 20  # the gauges are written in a moment
            while "tikv_pool_connections_max 512.0" not in scrape() and time.monotonic() < until:
                time.sleep(0.05)
            print(scrape())
            print("----")
            for _, go, ready in workers:
                os.write(go, b"x")
                os.read(ready, 1)
            print(scrape())
            print("----")
            for pid, go, _ in workers:
                os.write(go, b"x")
                os.waitpid(pid, 0)
                mark_process_dead(pid)
            print(scrape())
        """,
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path),
    )
    alive, closed, gone = text.split("----")
    assert samples_in(alive, "tikv_pool_connections_max") == {(): 512}
    assert samples_in(alive, "tikv_requests_in_flight") == {(): 0}
    assert samples_in(alive, "tikv_store_avoided") == dict.fromkeys(samples_in(alive, "tikv_store_avoided"), 0)
    assert samples_in(alive, "tikv_region_cache_lookups_total") == {("hit",): 0, ("miss",): 2}
    assert samples_in(closed, "tikv_pool_connections_max") == {(): 0}
    assert set(samples_in(closed, "tikv_pool_connections").values()) == {0}
    assert samples_in(gone, "tikv_pool_connections_max") == {(): 0}  # this process has none
    assert samples_in(gone, "tikv_request_duration_seconds_count") == {("raw_get", "ok"): 2}
