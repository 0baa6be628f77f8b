"""The plugin as a user of the package meets it: in a project of its own, found by its entry point."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pytikv
from pytikv.testing.server import ServerProcess

PROJECT = """
import pytikv
import threading

def test_embedded(tikv):
    assert list(tikv.scan()) == []
    tikv.put(b"k", b"v")
    assert tikv.get(b"k") == b"v"

def test_embedded_is_fresh(tikv):
    assert tikv.get(b"k") is None

def test_server(tikv_server):
    assert tikv_server.url.startswith("tikv://127.0.0.1:")
    with pytikv.RawClient.connect(tikv_server.url) as client:
        client.put(b"k", b"v")
        assert client.get(b"k") == b"v"
    tikv_server.clear()
    with tikv_server.client() as client:
        assert client.get(b"k") is None

def test_leak(pytikv_leak_guard):
    threading.Thread(target=threading.Event().wait, daemon=True, name="forgotten").start()
"""


@pytest.mark.process
def test_fixtures_in_a_project_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "test_project.py").write_text(PROJECT)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
        "--rootdir",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert "4 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "the test left behind: thread 'forgotten'" in done.stdout


def test_plugin_loads_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); import pytest; pytest_modules = set(sys.modules);"
        "import pytikv.testing.pytest_plugin;"
        "print(*sorted(m for m in set(sys.modules) - pytest_modules if m.partition('.')[0] != 'pytest'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    heavy = ("google", "asyncio", "pytikv.client.raw", "pytikv.client.blocking", "pytikv.server", "pytikv.proto")
    assert [module for module in loaded if module.startswith(heavy)] == []
    assert "rocksdict" not in done.stdout


@pytest.mark.process
def test_server_process_keeps_its_data_and_its_address(tmp_path: Path) -> None:
    with ServerProcess(str(tmp_path / "data")) as server:
        url = server.url
        with server.client() as client:
            client.put(b"k", b"v")
        server.restart(kill=True)
        assert server.url == url
        with server.client() as client:
            assert client.get(b"k") == b"v"
        assert server.stop() == 0


@pytest.mark.process
def test_server_that_does_not_start_tells_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match=r"its log ends: .*pytikv serve: "):
        ServerProcess(str(tmp_path / "file" / "data")).start()


@pytest.mark.process
def test_paused_server_is_met_by_a_deadline() -> None:
    with ServerProcess() as server, server.client(timeout=0.3) as client:
        client.put(b"k", b"v")
        server.pause()
        with pytest.raises((pytikv.DeadlineExceeded, pytikv.ConnectionFailed)):
            client.get(b"k")
        server.resume()
        assert client.with_options(timeout=10.0).get(b"k") == b"v"
