"""The commands against a server, over the network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytikv.demo import dataset
from pytikv.testing.server import ServerProcess

Run = Callable[..., Any]

pytestmark = pytest.mark.process


@pytest.fixture
def url(tikv_server: ServerProcess) -> str:
    """What the commands of this module talk to, in place of an embedded store."""
    tikv_server.clear()
    return tikv_server.url


def test_get_put_scan_delete(run: Run) -> None:
    assert run("put", r"k\x00", r"\xff").code == 0
    assert run("get", r"k\x00").out == "\\xff\n"
    assert run("scan", "--json").json() == {"key": "k\\x00", "value": "\\xff"}
    assert run("delete", "--prefix", "k", "--yes").code == 0
    assert run("get", r"k\x00").code == 1


def test_ttl_where_the_store_has_none_is_one_line(run: Run) -> None:
    done = run("put", "k", "v", "--ttl", "5")
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "ttl" in done.err.lower()


def test_stores_and_regions(run: Run) -> None:
    (store,) = run("stores", "--json").json_lines()
    assert store["state"] == "Up"
    assert store["address"].startswith("127.0.0.1:")
    assert f"{store['id']}\t{store['address']}\tUp" in run("stores").out
    regions = run("regions", "--json").json_lines()
    assert regions[0]["start_key"] == ""
    assert regions[-1]["end_key"] == ""
    assert regions[0]["leader_store_id"] == store["id"]
    assert run("regions", "--key", "somewhere", "--json").json()["id"] in [region["id"] for region in regions]
    assert "-inf" in run("regions", "--limit", "1").out


def test_stores_of_a_keyspace(run: Run) -> None:
    with ServerProcess(None, "--keyspace", "shop", api_version="2") as server:
        done = run("stores", "--url", f"{server.url}/shop", "--json")
        assert done.code == 0, done.err
        assert len(done.json_lines()) == 1
        assert "api_version=2" in run("stores", "--url", server.url).err


def test_export_and_import(run: Run, tmp_path: Path) -> None:
    rows = "".join(f'{{"key": "k{n:05}", "value": "{n}"}}\n' for n in range(3000))
    assert run("import", "-", "--format", "jsonl", "--json", stdin=rows).json()["rows"] == 3000
    assert run("export", str(tmp_path / "x.jsonl.gz"), "--json").json()["pairs"] == 3000
    assert run("scan", "--limit", "0").out.count("\n") == 3000


@pytest.mark.skipif(not dataset.installed(dataset.FLIGHTS), reason="the demonstration's data is not installed")
def test_demo(run: Run, url: str) -> None:
    record = run("demo", "--rows", "1000", "--url", url, "--json").json()
    assert record["ok"] is True
    assert record["target"] == url
    assert record["rows"] == {"airports": 1000, "flights": 1000}


def test_bench(run: Run) -> None:
    assert run("bench", "-n", "100", "-c", "2", "--json").json()["results"]["put"]["operations"] == 100


def test_wrong_api_version_is_a_usage_error(run: Run, url: str) -> None:
    done = run("get", "k", "--url", f"{url}?api_version=2")
    assert done.code == 2
    assert "api_version" in done.err


def test_serve_prints_one_line_and_stops_with_code_0(tmp_path: Path) -> None:
    with ServerProcess(str(tmp_path / "data"), api_version="2") as server:
        with server.client() as client:
            client.put(b"k", b"v", ttl=100)
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--addr", "0.0.0.0:0"], 2, "use TLS"),
        (["--addr", "nonsense"], 2, "addr"),
        (["--cert", "x.pem"], 2, "certificate and a key"),
        (["--api-version", "3"], 2, ""),
        (["--pd-addr", "127.0.0.1:0", "--cert", "/nowhere.pem", "--key", "/nowhere.key"], 1, "nowhere"),
    ],
)
def test_serve_refuses(words: list[str], code: int, text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytikv", "serve", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert text in done.stderr
    assert "Traceback" not in done.stderr
