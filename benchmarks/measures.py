"""The measures: each function answers lines for the table. The goals were set before anything was measured."""

from __future__ import annotations

import contextlib
import csv
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import harness
from contest import Contender, Effort, Network, ratio_line
from harness import Entry, Unavailable, Worker, interleave
from report import Line

_IDLE_SECONDS = 5
_EMBEDDED_SIZES = [10**3, 10**4, 10**5, 10**6, 10**7]


_WORKERS = [
    # Ours come first: they write the keys that all read.
    Contender("ours", "ours_blocking.py"),
    Contender("ours async", "ours_async.py"),
    Contender("ours uvloop", "ours_async.py", ("uvloop",)),
    Contender("floor", "floor.py"),
    Contender("grpcio stub", "grpcio_stub.py", of_peers=True),
    Contender("tikv-python", "tikv_python.py", of_peers=True),
    Contender("tikv-client", "tikv_client_rust.py", of_peers=True),
]


@contextlib.contextmanager
def network(effort: Effort, arrangement: str) -> Iterator[Network]:
    """The neutral server with all workers connected to it."""
    with (
        harness.neutral_server(arrangement) as server,
        contextlib.closing(Network(server, _WORKERS, effort, arrangement)) as net,
    ):
        yield net


def single_requests(net: Network) -> list[Line]:
    """One request at a time."""
    names = ["floor", "ours", "ours async", "ours uvloop", "grpcio stub", "tikv-python", "tikv-client"]
    got = net.compare(*((name, "get") for name in names))
    put = net.compare(*((name, "put") for name in ("ours", "tikv-python", "tikv-client")))
    return [
        net.against(got, "blocking get, times the floor", "ours/get", "floor/get", goal=1.6, lower=True),
        net.against(got, "blocking get, times as fast as tikv-python", "tikv-python/get", "ours/get", goal=4),
        net.against(got, "blocking get, times as fast as tikv-client", "tikv-client/get", "ours/get", goal=6),
        net.against(got, "bare grpcio stub, times the floor", "grpcio stub/get", "floor/get", lower=True),
        net.against(got, "tikv-python, times the floor", "tikv-python/get", "floor/get", lower=True),
        net.against(got, "asyncio get one by one, times the floor", "ours async/get", "floor/get", lower=True),
        net.against(got, "uvloop get one by one, times the floor", "ours uvloop/get", "floor/get", lower=True),
        net.against(put, "blocking put, times as fast as tikv-python", "tikv-python/put", "ours/put"),
        net.against(put, "blocking put, times as fast as tikv-client", "tikv-client/put", "ours/put"),
    ]


def many_in_flight(net: Network) -> list[Line]:
    """Many requests at a time: asyncio tasks, and threads on one client."""
    names = ["ours async", "ours uvloop", "tikv-python", "tikv-client"]
    got = net.compare(*((name, "get_async") for name in names))
    threads = net.compare(("ours", "get_threads"), ("tikv-python", "get_threads"))
    ours, uvloop = "ours async/get_async", "ours uvloop/get_async"
    return [
        net.against(got, "asyncio, 64 in flight, times tikv-python's rate", "tikv-python/get_async", ours, goal=4),
        net.against(got, "asyncio, 64 in flight, times tikv-client's rate", "tikv-client/get_async", ours, goal=4),
        net.against(got, "uvloop, 64 in flight, times asyncio's rate", ours, uvloop),
        net.against(
            threads, "16 threads, times tikv-python's rate", "tikv-python/get_threads", "ours/get_threads", goal=3
        ),
    ]


def batches(net: Network) -> list[Line]:
    """Batches of 100 keys against single requests of our own client."""
    got = net.compare(("ours", "get"), ("ours", "put"), ("ours", "batch_get"), ("ours", "batch_put"))
    theirs = net.compare(*((n, c) for c in ("batch_get", "batch_put") for n in ("ours", "tikv-python", "tikv-client")))
    return [
        net.against(
            got, "batch_get of 100 keys, in single gets", "ours/batch_get", "ours/get", unit="gets", goal=3, lower=True
        ),
        net.against(
            got,
            "batch_put of 100 pairs, times as fast as 100 puts",
            "ours/put",
            "ours/batch_put",
            goal=20,
            divisor=0.01,  # of a put
        ),
        net.against(
            theirs, "batch_get of 100 keys, times as fast as tikv-python", "tikv-python/batch_get", "ours/batch_get"
        ),
        net.against(
            theirs, "batch_get of 100 keys, times as fast as tikv-client", "tikv-client/batch_get", "ours/batch_get"
        ),
    ]


def idle(net: Network) -> list[Line]:
    """Processor time of connected clients with nothing to do."""
    lines = []
    for name in ("ours", "ours async", "tikv-python", "tikv-client"):
        title = f"idle client ({name}), CPU"
        if name not in net.workers:
            lines.append(Line(title, skipped=net.missing.get(name, "")))
            continue
        answer = net.workers[name].run("idle", _IDLE_SECONDS)
        per_mille = answer["cpu_seconds"] / answer["seconds"] * 1000
        goal = 1.0 if name.startswith("ours") else None  # 1 ms a second is what the question itself costs
        detail = f"{answer['cpu_seconds'] * 1000:.1f} ms in {answer['seconds']:.0f} s"
        lines.append(Line(title, "ms/s", per_mille, goal, detail=detail, load=harness.load()))
    return lines


def embedded(effort: Effort) -> list[Line]:
    """The embedded store against bare rocksdict, and whether it stays flat as the store grows."""
    lines, gets = [], {}
    for size in (size for size in _EMBEDDED_SIZES if size <= effort.largest_store):
        exponent = f"10^{len(str(size)) - 1}"
        with harness.scratch() as directory:
            try:
                worker = Worker(f"embedded {exponent}", "embedded.py", str(directory), str(size))
            except Unavailable as error:
                lines.append(Line(f"embedded, {exponent} keys", skipped=str(error)))
                continue
            with contextlib.closing(worker):
                cases = [Entry(label, worker, case) for case, label in _EMBEDDED_LABELS.items()]
                interleave(cases, rounds=effort.rounds, round_seconds=effort.round_seconds / 2)
                bare_get, bare_put, get, put = cases
                gets[size] = get
                name = f"embedded get, {exponent} keys, times bare rocksdict"
                lines.append(ratio_line(name, get, bare_get, goal=12, unit="x", lower=True, arrangement=""))
                name = f"embedded put (sync=off), {exponent} keys, times bare rocksdict"
                lines.append(ratio_line(name, put, bare_put, goal=6, unit="x", lower=True, arrangement=""))
    if len(gets) > 1:
        small, large = gets[min(gets)], gets[max(gets)]
        growth = large.median_us / small.median_us
        detail = f"{large.median_us:.1f} us against {small.median_us:.1f} us"
        lines.append(
            Line(
                f"embedded get, {max(gets):.0e} keys against 1e+03",
                "x",
                growth,
                2.0,
                detail=detail,
                load=harness.load(),
            )
        )
    return lines


_EMBEDDED_LABELS = {"bare_get": "rocksdict", "bare_put": "rocksdict put", "get": "embedded", "put": "embedded put"}


def region_cache(effort: Effort) -> list[Line]:
    """A look-up in the region cache."""
    name = f"region cache look-up at {effort.largest_region_cache:.0e} regions"
    try:
        worker = Worker("region cache", "region_cache.py", str(effort.largest_region_cache))
    except Unavailable as error:
        return [Line(name, skipped=str(error), goal=2)]
    lines = []
    with contextlib.closing(worker):
        entries = {"keys at random": Entry("uniform", worker, "uniform"), "1000 hot keys": Entry("hot", worker, "hot")}
        interleave(list(entries.values()), rounds=effort.rounds, round_seconds=effort.round_seconds / 2)
        for title, entry in entries.items():
            best = f"best round {min(entry.seconds) * 1e6:.2f} us"
            rounds = {entry.label: entry.seconds}
            lines.append(
                Line(f"{name}, {title}", "us", entry.median_us, 2.0, detail=best, load=harness.load(), rounds=rounds)
            )
    return lines


def our_server(effort: Effort) -> list[Line]:
    """Gets a second that our own server, one process in memory, answers to our client on asyncio in another process."""
    lines = []
    for case, count in (("get_async", 64), ("get_async_256", 256)):
        name = f"our server, gets a second ({count} in flight)"
        try:
            with harness.our_server() as server:
                worker = Worker("our server", "ours_async.py", server.url)
                with contextlib.closing(worker):
                    entry = Entry("get", worker, case)
                    interleave([entry], rounds=effort.rounds, round_seconds=effort.round_seconds)
        except Unavailable as error:
            lines.append(Line(name, skipped=str(error), goal=15_000, lower_is_better=False))
            continue
        rate = 1 / statistics.median(entry.seconds)
        client = statistics.median(entry.cpu_seconds) * 1e6
        detail = f"{entry.median_us:.1f} us a get, of which {client:.1f} us are the client's CPU"
        lines.append(Line(name, "/s", rate, 15_000, False, detail, load=harness.load(), rounds={"get": entry.seconds}))
    return lines


def imports(effort: Effort) -> list[Line]:
    """Rows a second that `pytikv import` writes into the embedded store, synced, from a CSV file of ten columns."""
    lines = []
    for title, flags in _IMPORTS.items():
        name = f"import, rows a second ({title})"
        with harness.scratch() as directory:
            file = directory / "rows.csv"
            _write_rows(file, effort.import_rows)
            command = [sys.executable, "-m", "pytikv", "import", str(file), *flags, "--json"]
            done = subprocess.run(
                [*command, "--url", f"embedded://{directory / 'store'}"],
                capture_output=True,
                text=True,
                cwd=harness.ROOT,
                check=False,
            )
            if done.returncode:
                words = (done.stderr or done.stdout).strip().splitlines()[-1:]
                lines.append(Line(name, skipped=" ".join(words)[:200], goal=40_000, lower_is_better=False))
                continue
            report = json.loads(done.stdout)
            detail = f"{report['rows']:,} rows in {report['seconds']:.2f} s"
            rate = report["rows"] / report["seconds"]
            lines.append(Line(name, "/s", rate, 40_000, False, detail, load=harness.load()))
    return lines


_IMPORTS = {
    "one column as value": ["--key", "row/{id}", "--value", "payload"],
    "whole row as JSON": ["--key", "row/{id}", "--value-json"],
}


def _write_rows(file: Path, count: int) -> None:
    chooser = random.Random(11)
    names = ["id", "carrier", "origin", "dest", "year", "month", "day", "delay", "distance", "payload"]
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(names)
        for i in range(count):
            numbers = [2013, chooser.randrange(1, 13), chooser.randrange(1, 29), chooser.randrange(-9, 99), i % 5000]
            writer.writerow([f"{i:09}", "UA", "EWR", "IAH", *numbers, f"payload of row {i}, some forty characters"])
