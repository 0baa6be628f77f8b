"""The application as a whole: help, errors, exit codes, the missing extra."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytikv import errors
from pytikv.cli import failures
from pytikv.cli.chart import bars
from pytikv.server.config import ServeConfig

Run = Callable[..., Any]
COMMANDS = [
    *("serve", "get", "put", "delete", "scan", "import", "export", "regions", "stores", "demo", "bench", "config"),
    *("txn", "mvcc", "gc"),
]


def pytikv(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytikv", *words], capture_output=True, text=True, timeout=60, check=False, **options
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(run: Run, command: str) -> None:
    done = run(command, "--help")
    assert done.code == 0
    assert "Examples" in done.out
    assert f"pytikv {command}" in done.out
    if command != "serve":
        assert "--url" in done.out
        assert "--json" in done.out


def test_help_names_all_commands(run: Run) -> None:
    out = run("--help").out
    assert all(command in out for command in COMMANDS)
    assert run().code in (0, 2)  # help too; click changed its mind about the code


def test_version(run: Run) -> None:
    assert run("--version").out.startswith("pytikv ")


def test_no_server_there(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    target = f"tikv://127.0.0.1:{port}?timeout=1"
    done = run("get", "k", "--url", target)
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert str(port) in done.err
    assert "pytikv serve" in done.err
    record = json.loads(run("get", "k", "--url", target, "--json").err)["error"]
    assert record["code"] in ("ConnectionFailed", "DeadlineExceeded")
    assert record["outcome"] == "not_applied"
    assert record["retryable"] is True


@pytest.mark.parametrize(
    "target", ["nonsense://x", "tikv://", "tikv://h:1?timeot=5", "embedded://", "tikv://h:99999", "tikv://h?timeout=x"]
)
def test_bad_target(run: Run, target: str) -> None:
    done = run("get", "k", "--url", target)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_unknown_command_and_option_are_usage_errors(run: Run) -> None:
    assert run("gte", "k").code == 2
    assert run("get").code == 2
    assert run("get", "k", "--jsn").code == 2


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (errors.ConnectionFailed("no"), 3, "error: no; start a server"),
        (errors.DeadlineExceeded("late."), 3, "error: late; try again"),
        (errors.DeadlineExceeded("late", outcome=errors.Outcome.UNDETERMINED), 4, "error: late; the write may"),
        (errors.StorageError("two\nlines"), 1, "error: two lines\n"),
        (errors.ServerError(""), 1, "error: ServerError\n"),
        (PermissionError(13, "denied", "f"), 1, "error: [Errno 13] denied: 'f'\n"),
    ],
)
def test_errors_are_one_line(error: Exception, code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert failures.fail(error, as_json=False) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(text)
    assert err.count("\n") == 1


def test_missing_extra_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from pytikv.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'error: the command line needs typer: pip install "pytikv[cli]"\n'


def test_real_process_and_no_traceback(tmp_path: Path) -> None:
    url = f"embedded://{tmp_path}/store"
    assert pytikv("put", "k", "é", "--url", url).returncode == 0
    done = pytikv("get", "k", "--url", url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\xc3\\xa9\n", "")
    done = pytikv("get", "k", "--url", f"embedded://{tmp_path}/store/nowhere\x01/x?sync=maybe")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_reader_that_goes_away(tmp_path: Path) -> None:
    url = f"embedded://{tmp_path}/store"
    rows = "key,value\n" + "".join(f"k{n:06},{'v' * 100}\n" for n in range(5000))
    assert pytikv("import", "-", "--format", "csv", "--url", url, input=rows).returncode == 0
    with subprocess.Popen(
        [sys.executable, "-m", "pytikv", "scan", "--limit", "0", "--url", url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("k000000")
        process.stdout.close()
        assert process.wait(timeout=30) == 141
        assert process.stderr.read() == ""


def test_defaults_of_serve_are_the_servers(run: Run) -> None:
    out = run("serve", "--help").out
    defaults = ServeConfig()
    assert f"[default: {defaults.region_split_keys}]" in out
    assert f"[default: {defaults.region_split_size_bytes}]" in out


def test_config(run: Run) -> None:
    done = run("config", "--url", "tikv://pd1/shop?timeout=2.5", env={"PYTIKV_RPC_TIMEOUT": "1"})
    assert "timeout\t2.5\tset" in done.out
    assert "rpc_timeout\t1.0\tset" in done.out
    record = run("config", "--url", "tikv://pd1/shop?ca=x.pem", "--json").json()
    assert record["target"] == "tikv://pd1:2379/shop"
    assert record["options"]["keyspace"] == "shop"
    assert record["options"]["tls"] == {"ca": "x.pem", "cert": None, "key": None}


def test_bars() -> None:
    assert bars([("a", 8, "x"), ("bb", 1, "y"), ("c", 0, "z")], width=4) == [" a ████ x", "bb ▌    y", " c      z"]
    assert bars([]) == []
    assert bars([("a", 1000, ""), ("b", 1, "")], width=4)[1].startswith("b ▏")


def test_embedded_store_is_one_store_and_one_region(run: Run, url: str) -> None:
    (store,) = run("stores", "--json").json_lines()
    assert (store["address"], store["state"]) == (url, "Up")
    assert run("regions").out == "1\t-inf\t+inf\t1\t1\t1.1\n"
