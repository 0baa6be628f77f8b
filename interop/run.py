"""Runs other clients of TiKV against `pytikv serve`, on the same keys as our own client; `make interop`.

For each mode of the store two servers are started, for raw data and for transactions, and their data cut into several
regions. Then for each peer, under a prefix of its own: our client writes 50 pairs; the peer's program reads them by
get, batch get and scan, does its own checks and leaves 50 pairs behind; our client reads those the same three ways.
With transactions both sides also leave locks of clients that died, for the other side to meet (`transactions.py`). See
README.md beside this file.

Also run: the recorded conformance scenarios, h2spec (`suites.py`), and an OpenTelemetry collector that our client's
traces are sent to (`collector.py`).

Peers whose toolchain is missing are named and skipped. The exit code is 1 when a check failed, 0 otherwise, also when
peers were skipped (`--require` turns named skips into failures).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import collector
from programs import HERE, PEERS, Peer, Skipped
from results import Result, show
from suites import conformance, h2spec

ROOT = HERE.parent
MODES = {"v1": "1", "v1ttl": "1ttl", "v2": "2"}
SHARED = 50
_PROGRAM_SECONDS = 60


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


def cut(address: str, mode: str, prefix: str, suite: str) -> None:
    """Split the regions at the prefix's borders."""
    import split

    key_prefix = {"raw": b"r\0\0\0", "txn": b"x\0\0\0"}[suite] if mode == "v2" else b""  # of the keyspace DEFAULT
    keys = [key_prefix + key for key in borders(prefix)]
    split.split(address, keys, is_memcomparable=mode == "v2" or suite == "txn")


def run_peer(peer: Peer, command: list[str], mode: str, address: str) -> Result:
    """One peer in one mode."""
    result, started = Result(peer.name, mode), time.monotonic()
    prefix = f"interop_{peer.name.replace('/', '_').replace(', ', '_')}_"
    command = [*command, "-pd", address, *peer.modes[mode]]
    if peer.suite == "pd":
        _run_program(command, result)
    else:
        cut(address, mode, prefix, peer.suite)
        url, api_version = f"tikv://{address}", 2 if mode == "v2" else 1
        program = functools.partial(_run_program, [*command, "-prefix", prefix], result)
        if peer.suite == "raw":
            _run_raw(program, url, api_version, prefix, result)
        else:
            _run_txn(program, url, api_version, prefix, result, peer)
    result.seconds = time.monotonic() - started
    return result


def _run_raw(program: Callable[[], None], url: str, api_version: int, prefix: str, result: Result) -> None:
    import pytikv

    with pytikv.RawClient.connect(url, api_version=api_version) as ours:
        ours.batch_put({f"{prefix}pytikv_{i:04}".encode(): b"value %d" % i for i in range(SHARED)})
        program()
        if not result.failures:
            _read_theirs(ours, prefix, result)


def _run_txn(program: Callable[[], None], url: str, api_version: int, prefix: str, result: Result, peer: Peer) -> None:
    import transactions

    with transactions.OurSide(url, api_version, prefix) as ours:
        ours.prepare(peer.meets)
        program()
        for name, body in ours.checks(peer.leaves).items():
            try:
                body()
            except Exception as error:
                result.failures.append(f"pytikv, {name}: {type(error).__name__}: {error}")
            else:
                result.passed += 1


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


def _guarded(peer: Peer, command: list[str], mode: str, address: str) -> Result:
    print(f"{peer.name}, {mode} ...", flush=True)
    try:
        return run_peer(peer, command, mode, address)
    except Exception as error:  # our own client's failure is a result too
        return Result(peer.name, mode, failures=[f"pytikv: {type(error).__name__}: {error}"])


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
        # In API version 1 raw borders are plain and those of transactions encoded: a cluster is cut for one of the two.
        for is_txn in (False, True):
            ready = [p for p in wanted if p.name in commands and mode in p.modes and (p.suite == "txn") == is_txn]
            if ready:
                with serve(mode) as address:
                    results += [_guarded(peer, commands[peer.name], mode, address) for peer in ready]
        if not arguments.only or "conformance" in arguments.only:
            with serve(mode) as address:  # the scenarios expect a fresh store
                print(f"conformance, {mode} ...", flush=True)
                results.append(conformance(mode, address))
    if not arguments.only or "h2spec" in arguments.only:
        with serve("v1") as address:
            print("h2spec ...", flush=True)
            results.append(h2spec(address))
    if not arguments.only or "otel" in arguments.only:
        with serve("v1") as address:
            print("OpenTelemetry collector ...", flush=True)
            results.append(collector.traces(address))
    show(results)
    failed = any(r.failures for r in results)
    return 1 if failed or (arguments.require and any(r.skipped for r in results)) else 0


if __name__ == "__main__":
    raise SystemExit(main())
