"""The programs that stand for other clients: how each is built, and in which modes of the store it runs."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import peers

HERE = Path(__file__).resolve().parent
BIN = HERE / "bin"
_BUILD_SECONDS = 1200


class Skipped(Exception):
    """A peer cannot run here; the text says why."""


@dataclasses.dataclass
class Peer:
    """One program: how to build it (answers the command) and in which modes it runs with which further flags."""

    name: str
    build: Callable[[], list[str]]
    modes: dict[str, list[str]]
    suite: str = "raw"
    """`raw` and `txn`: what it reads and writes; `pd`: it makes no calls of data."""
    meets: tuple[str, ...] = ("prewrite", "committed", "async", "pessimistic")
    """Kinds of locks that it meets, of those in `transactions.py`."""
    leaves: tuple[str, ...] = ()
    """Kinds of locks that it leaves behind."""


def tool(name: str) -> str:
    """Find a program of the machine. Raises Skipped."""
    path = shutil.which(name)
    if path is None:
        raise Skipped(f"no {name} here")
    return path


def run_build(command: Sequence[str], directory: Path, **environment: str) -> None:
    """Run a build, politely. Raises RuntimeError with its last words."""
    nice = ["nice"] if shutil.which("nice") else []
    done = subprocess.run(
        [*nice, *command],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()[-800:]}")


def _go(directory: str) -> Callable[[], list[str]]:
    @functools.cache
    def build() -> list[str]:
        run_build([tool("go"), "build", "-o", str(BIN / directory), "."], HERE / directory)
        return [str(BIN / directory)]

    return build


@functools.cache
def _rust() -> list[str]:
    run_build([tool("cargo"), "build", "--locked"], HERE / "rust", CARGO_PROFILE_DEV_DEBUG="0")
    return [str(HERE / "rust" / "target" / "debug" / "pytikv-interop")]


@functools.cache
def _java() -> list[str]:
    java, target = tool("java"), HERE / "java" / "target"
    run_build([tool("mvn"), "--quiet", "--batch-mode", "compile"], HERE / "java")
    return [java, "-cp", f"{target / 'classes'}{os.pathsep}{target / 'lib' / '*'}", "dev.pytikv.interop.Main"]


def _python(script: str, module: str) -> Callable[[], list[str]]:
    def build() -> list[str]:
        try:
            python = str(peers.interpreter())
        except subprocess.CalledProcessError as error:
            raise Skipped(f"the environment of the Python peers cannot be made ({error})") from None
        if subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode:
            raise Skipped(f"{module} does not load in {python}")
        return [python, str(HERE / "python" / script)]

    return build


_CLIENT_GO, _PD_CLIENT = _go("go"), _go("pdclient")
_TXN = functools.partial(Peer, suite="txn")
_TWO_PHASES = ("prewrite", "committed")

PEERS = [
    Peer("tikv-python", _python("tikv_python.py", "tikv"), {"v1": [], "v1ttl": ["-ttl"]}),
    Peer("tikv-client", _python("tikv_client_rust.py", "tikv_client"), {"v1": []}),
    Peer("client-go", _CLIENT_GO, {"v1": [], "v1ttl": ["-ttl"], "v2": ["-api-version", "2", "-ttl"]}),
    Peer("pd/client", _PD_CLIENT, {"v1": []}, "pd"),
    Peer("pd/client, router", _PD_CLIENT, {"v1": ["-router"]}, "pd"),
    Peer("pd/client, keyspace", _PD_CLIENT, {"v2": ["-keyspace", "DEFAULT"]}, "pd"),
    Peer("client-java", _java, {"v1": [], "v1ttl": ["-ttl"], "v2": ["-api-version", "2", "-ttl"]}),
    Peer("client-rust", _rust, {"v1": [], "v1ttl": ["-ttl"], "v2": ["-keyspace", "DEFAULT", "-ttl"]}),
    _TXN(
        "tikv-client, txn",
        _python("tikv_client_txn.py", "tikv_client"),
        {"v1": ["-txn"]},
        meets=(*_TWO_PHASES, "pessimistic"),
        leaves=("held",),
    ),
    _TXN("client-go, txn", _CLIENT_GO, {"v1": ["-txn"]}, leaves=(*_TWO_PHASES, "async", "pessimistic")),
    _TXN("client-java, txn", _java, {"v1": ["-txn"]}, meets=_TWO_PHASES, leaves=_TWO_PHASES),
    _TXN(
        "client-rust, txn",
        _rust,
        {"v1": ["-txn"], "v2": ["-txn", "-keyspace", "DEFAULT"]},
        leaves=(*_TWO_PHASES, "async", "held"),
    ),
]
