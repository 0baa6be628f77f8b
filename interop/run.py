"""Runs other clients of TiKV against `pytikv serve`, on the same keys as our own client; `make interop`.

For each mode of the store a server is started and its data cut into several regions. Then for each peer, under a prefix
of its own: our client writes 50 pairs; the peer's program reads them by get, batch get and scan, does its own checks
and leaves 50 pairs behind; our client reads those the same three ways. See README.md beside this file.

Peers whose toolchain is missing are named and skipped. The exit code is 1 when a check failed, 0 otherwise, also when
peers were skipped (`--require` turns named skips into failures).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import peers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BIN = HERE / "bin"
CONFORMANCE = ROOT.parent / "shared" / "conformance"
CONFORMANCE_FILES = ["raw_*.json", "api_v2.json", "context.json", "split.json", "pd.json"]
H2SPEC = "v2.2.1+incompatible"
MODES = {"v1": "1", "v1ttl": "1ttl", "v2": "2"}
SHARED = 50
_PROGRAM_SECONDS = 60
_BUILD_SECONDS = 1200
_READY_SECONDS = 30


class Skipped(Exception):
    """A peer cannot run here; the text says why."""


@dataclasses.dataclass
class Peer:
    """One program: how to build it (answers the command) and in which modes it runs with which further flags."""

    name: str
    build: Callable[[], list[str]]
    modes: dict[str, list[str]]
    reads_data: bool = True


@dataclasses.dataclass
class Result:
    """What one program's run came to."""

    peer: str
    mode: str
    passed: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    skipped: str = ""
    left_out: int = 0  # conformance scenarios that need transactions


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise Skipped(f"no {name} here")
    return path


def _build(command: Sequence[str], directory: Path, **environment: str) -> None:
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
    def build() -> list[str]:
        _build([_tool("go"), "build", "-o", str(BIN / directory), "."], HERE / directory)
        return [str(BIN / directory)]

    return build


def _rust() -> list[str]:
    _build([_tool("cargo"), "build", "--locked"], HERE / "rust", CARGO_PROFILE_DEV_DEBUG="0")
    return [str(HERE / "rust" / "target" / "debug" / "pytikv-interop")]


def _java() -> list[str]:
    java, target = _tool("java"), HERE / "java" / "target"
    _build([_tool("mvn"), "--quiet", "--batch-mode", "compile"], HERE / "java")
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


PEERS = [
    Peer("tikv-python", _python("tikv_python.py", "tikv"), {"v1": [], "v1ttl": ["-ttl"]}),
    Peer("tikv-client", _python("tikv_client_rust.py", "tikv_client"), {"v1": []}),
    Peer("client-go", _go("go"), {"v1": [], "v1ttl": ["-ttl"], "v2": ["-api-version", "2", "-ttl"]}),
    Peer("pd/client", _go("pdclient"), {"v1": []}, reads_data=False),
    Peer("pd/client, router", _go("pdclient"), {"v1": ["-router"]}, reads_data=False),
    Peer("pd/client, keyspace", _go("pdclient"), {"v2": ["-keyspace", "DEFAULT"]}, reads_data=False),
    Peer("client-java", _java, {"v1": [], "v1ttl": ["-ttl"], "v2": ["-api-version", "2", "-ttl"]}),
    Peer("client-rust", _rust, {"v1": [], "v1ttl": ["-ttl"], "v2": ["-keyspace", "DEFAULT", "-ttl"]}),
]


@contextlib.contextmanager
def serve(mode: str) -> Iterator[str]:
    """Run `pytikv serve` in memory; answers PD's address."""
    command = [sys.executable, "-m", "pytikv", "serve", "--api-version", MODES[mode]]
    command += ["--pd-addr", "127.0.0.1:0", "--addr", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        word, _, url = process.stdout.readline().strip().partition(" ")
        if word != "ready":
            raise RuntimeError(f"the server did not become ready ({process.poll()})")
        yield url.removeprefix("tikv://")
    finally:
        process.terminate()
        if process.stdout is not None:
            process.stdout.close()
        try:
            code = process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            raise RuntimeError("the server did not stop within 10 s of SIGTERM") from None
        if code:
            print(f"the server ended with code {code}", file=sys.stderr)


def borders(prefix: str) -> list[bytes]:
    """Where a peer's keys are cut: above all of them (client-rust's scans need that), and inside batches and scans."""
    return [prefix.encode() + tail for tail in (b"batch_0100", b"pytikv_0020", b"scan_07", b"theirs_0030", b"~")]


def cut(address: str, mode: str, prefix: str) -> None:
    """Split the regions at the prefix's borders."""
    import split

    key_prefix = b"r\0\0\0" if mode == "v2" else b""  # of the raw keys of the keyspace DEFAULT
    split.split(address, [key_prefix + key for key in borders(prefix)], api_v2=mode == "v2")


def run_peer(peer: Peer, command: list[str], mode: str, address: str) -> Result:
    """One peer in one mode."""
    import pytikv

    result, started = Result(peer.name, mode), time.monotonic()
    prefix = f"interop_{peer.name.replace('/', '_').replace(', ', '_')}_"
    pairs = {f"{prefix}pytikv_{i:04}".encode(): b"value %d" % i for i in range(SHARED)}
    with pytikv.RawClient.connect(f"tikv://{address}", api_version=2 if mode == "v2" else 1) as ours:
        if peer.reads_data:
            cut(address, mode, prefix)
            ours.batch_put(pairs)
            command = [*command, "-prefix", prefix]
        _run_program([*command, "-pd", address, *peer.modes[mode]], result)
        if peer.reads_data and not result.failures:
            _read_theirs(ours, prefix, result)
    result.seconds = time.monotonic() - started
    return result


def _run_program(command: list[str], result: Result) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * _PROGRAM_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        result.failures.append("the program did not end")
        return
    for line in done.stdout.splitlines():
        check = json.loads(line)
        if check["ok"]:
            result.passed += 1
        else:
            result.failures.append(f"{check['check']}: {check['detail']}")
    if done.returncode and not result.failures:
        words = done.stderr.strip().splitlines()[-1:]
        result.failures.append(f"exit code {done.returncode}: {' '.join(words)[:300]}")


def _read_theirs(ours: object, prefix: str, result: Result) -> None:
    wanted = {f"{prefix}theirs_{i:04}".encode(): b"value %d" % i for i in range(SHARED)}
    ways = {
        "get": lambda: {key: ours.get(key) for key in wanted},
        "batch_get": lambda: ours.batch_get(list(wanted)),
        "scan": lambda: dict(ours.scan_prefix(f"{prefix}theirs_".encode())),
    }
    for way, read in ways.items():
        try:
            got = read()
        except Exception as error:
            result.failures.append(f"pytikv's {way} of what it wrote: {error}")
            continue
        if got == wanted:
            result.passed += 1
        else:
            result.failures.append(f"pytikv's {way} of what it wrote: {len(got)} pairs, not the {len(wanted)} written")


def conformance(mode: str, address: str) -> Result:
    """The recorded scenarios under their Go runner, unary and batched, where they lie beside the repository."""
    result, started = Result("conformance (Go runner)", mode), time.monotonic()
    runner = CONFORMANCE / "runner"
    if not runner.is_dir():
        result.skipped = "the scenarios and their runner are not beside this checkout"
        return result
    try:
        _build([_tool("go"), "build", "-o", str(BIN / "conformance"), "."], runner)
    except Skipped as skipped:
        result.skipped = str(skipped)
        return result
    files = [str(path) for pattern in CONFORMANCE_FILES for path in sorted(CONFORMANCE.glob(pattern))]
    wanted, result.left_out = _raw_scenarios(files, mode)
    only = ["-only", f"^({'|'.join(map(re.escape, wanted))})$"]
    for flags in ([], ["-batch"]):
        command = [str(BIN / "conformance"), "-pd", address, "-api", mode, "-q", *only, *flags, *files]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        lines = done.stdout.splitlines()
        words = lines[-1].split() if lines else []
        if len(words) >= 4 and words[1].startswith("passed"):
            result.passed += int(words[0])
        failed = [line for line in lines[:-1] if line.startswith("FAIL")]
        result.failures += [f"{' '.join(flags)} {line}".strip()[:200] for line in failed]
        if done.returncode and not failed:
            result.failures.append(f"exit code {done.returncode}: {(done.stderr or done.stdout)[-200:]}")
    result.seconds = time.monotonic() - started
    return result


def h2spec(address: str) -> Result:
    """The HTTP/2 conformance suite (summerwind/h2spec, built from its Go module) against the store's port.

    PD's port would fail one case: it serves HTTP/1 too, and answers what the suite sends as a broken preface.
    """
    result, started = Result("h2spec --strict", "v1"), time.monotonic()
    with urllib.request.urlopen(f"http://{address}/pd/api/v1/stores", timeout=10) as answer:
        address = json.load(answer)["stores"][0]["store"]["address"]
    try:
        _build([_tool("go"), "install", f"github.com/summerwind/h2spec/cmd/h2spec@{H2SPEC}"], HERE, GOBIN=str(BIN))
    except (Skipped, RuntimeError) as reason:
        result.skipped = str(reason)[:80]
        return result
    host, _, port = address.rpartition(":")
    command = [str(BIN / "h2spec"), "--strict", "-h", host, "-p", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    count = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", done.stdout)
    result.passed = int(count[2]) if count else 0
    if done.returncode or count is None:
        result.failures.append(done.stdout[-800:] or done.stderr[-200:])
    result.seconds = time.monotonic() - started
    return result


def _raw_scenarios(files: Sequence[str], mode: str) -> tuple[list[str], int]:
    """The scenarios of a mode that make no transactional call, and how many do."""
    wanted, left_out = [], 0
    for file in files:
        for scenario in json.loads(Path(file).read_text())["scenarios"]:
            if mode != scenario["api"] and mode not in scenario["api"]:
                continue
            if any(step.get("rpc", "").startswith("Kv") for step in scenario["steps"]):
                left_out += 1
            else:
                wanted.append(scenario["name"])
    return wanted, left_out


def show(results: Sequence[Result]) -> None:
    """Print what came out, by rich where it is installed."""
    rows = []
    for r in results:
        state = f"skipped: {r.skipped}" if r.skipped else f"{len(r.failures)} failed" if r.failures else "passed"
        if r.left_out:
            state += f" ({r.left_out} scenarios need transactions: left out)"
        rows.append(
            [r.peer, r.mode, state, "" if r.skipped else str(r.passed), f"{r.seconds:.1f} s" if r.seconds else ""]
        )
    headings = ["peer", "mode", "result", "checks passed", "time"]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for row in [headings, *rows]:
            print("  ".join(f"{cell:<24}" for cell in row))
    else:
        table = Table(*headings)
        for row in rows:
            table.add_row(*row, style="yellow" if "skipped" in row[2] else "red" if "failed" in row[2] else "")
        Console(width=None if Console().is_terminal else 140).print(table)
    for r in results:
        for failure in r.failures:
            print(f"FAIL {r.peer}, {r.mode}: {failure}")


def main() -> int:
    """Build, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="WORD", help="only peers whose name holds a word")
    parser.add_argument("--modes", nargs="*", choices=list(MODES), default=list(MODES))
    parser.add_argument("--require", action="store_true", help="a peer that cannot run is a failure")
    arguments = parser.parse_args()
    wanted = [p for p in PEERS if not arguments.only or any(word in p.name for word in arguments.only)]
    commands: dict[str, list[str]] = {}
    results: list[Result] = []
    for peer in wanted:
        print(f"building {peer.name} ...", flush=True)
        try:
            commands[peer.name] = peer.build()
        except Skipped as skipped:
            results.append(Result(peer.name, "", skipped=str(skipped)))
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            results.append(Result(peer.name, "", failures=[str(error)]))
    for mode in arguments.modes:
        with serve(mode) as address:
            for peer in wanted:
                if peer.name in commands and mode in peer.modes:
                    print(f"{peer.name}, {mode} ...", flush=True)
                    try:
                        results.append(run_peer(peer, commands[peer.name], mode, address))
                    except Exception as error:  # our own client's failure is a result too
                        failure = f"pytikv: {type(error).__name__}: {error}"
                        results.append(Result(peer.name, mode, failures=[failure]))
        if not arguments.only or "conformance" in arguments.only:
            with serve(mode) as address:  # the scenarios expect a fresh store
                print(f"conformance, {mode} ...", flush=True)
                results.append(conformance(mode, address))
    if not arguments.only or "h2spec" in arguments.only:
        with serve("v1") as address:
            print("h2spec ...", flush=True)
            results.append(h2spec(address))
    show(results)
    failed = any(r.failures for r in results)
    return 1 if failed or (arguments.require and any(r.skipped for r in results)) else 0


if __name__ == "__main__":
    raise SystemExit(main())
