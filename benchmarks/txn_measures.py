"""The measures of transactions. The goals were set before anything was measured.

A round trip is a wait for an answer, however many requests were sent at once. They are counted by a neutral server that
answers late: how often its delay fits into a transaction's duration. The requests of a transaction are counted apart.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping

import harness
from contest import Contender, Effort, Network, ratio_line
from harness import Entry, Unavailable, Worker, interleave
from report import Line

_REGIONS = 10
_BACKGROUND_TRIPS = 4
"""Round trips to wait before requests are counted: secondaries are committed after the transaction's end, in one."""
_BEGINS = 1_000
_FLAT = 1.5
_LEFTOVER_SECONDS = 2.0

_OURS, _FLOOR = Contender("ours", "ours_txn.py"), Contender("floor", "floor.py")
_ASYNC = Contender("ours async", "ours_txn_async.py")
_PEER = Contender("tikv-client", "tikv_client_txn.py", of_peers=True)

TRANSACTIONS = {
    "2pc": ("2PC over two regions", 4),
    "2pc_causal": ("2PC over two regions, causal", 4),
    "async": ("async commit over two regions", 3),
    "async_causal": ("async commit over two regions, causal", 2),
    "1pc": ("1PC", 3),
    "1pc_causal": ("1PC, causal", 2),
    "1pc_1_read": ("1PC after one read", 4),
    "1pc_2_reads": ("1PC after two reads", 5),
    "2pc_1_read": ("2PC over two regions after one read", 5),
}
"""Cases of `workers/ours_txn.py`: what they do, and how many round trips they may take."""


@contextlib.contextmanager
def network(effort: Effort, arrangement: str) -> Iterator[Network]:
    """The neutral server with ten regions, and all workers connected to it."""
    with (
        harness.neutral_server(arrangement, regions=_REGIONS, txn=True) as server,
        contextlib.closing(Network(server, [_OURS, _ASYNC, _FLOOR, _PEER], effort, arrangement)) as net,
    ):
        yield net


def reads(net: Network) -> list[Line]:
    """Snapshot reads against raw ones, against the peer's, and over regions."""
    got = net.compare(("ours", "raw_get"), ("ours", "get"), ("floor", "get"), ("tikv-client", "get"))
    many = net.compare(("ours async", "get_async"), ("tikv-client", "get_async"))
    names = [("ours", "batch_get_one"), ("ours", "batch_get_ten"), ("tikv-client", "batch_get")]
    batches = net.compare(*names, probe=10)
    one, ten = "ours/batch_get_one", "ours/batch_get_ten"
    return [
        net.against(got, "snapshot get, times the raw get", "ours/get", "ours/raw_get", goal=1.1, lower=True),
        net.against(got, "snapshot get, times the floor", "ours/get", "floor/get", lower=True),
        net.against(got, "snapshot get, times as fast as tikv-client", "tikv-client/get", "ours/get"),
        net.against(
            many,
            "asyncio snapshot gets, 64 in flight, times tikv-client's rate",
            "tikv-client/get_async",
            "ours async/get_async",
            goal=4,
        ),
        net.against(batches, "batch_get of 1,000 keys, 10 regions, times one region", ten, one, goal=2.5, lower=True),
        net.against(batches, "batch_get of 1,000 keys, times as fast as tikv-client", "tikv-client/batch_get", one),
    ]


def transactions(net: Network, trips: Mapping[str, int]) -> list[Line]:
    """What a round trip costs in each kind of transaction, and large ones against the peer's. See `round_trips`."""
    got = net.compare(("floor", "get"), *(("ours", case) for case in TRANSACTIONS))
    lines = [
        net.against(
            got,
            f"transaction, {what}, a round trip, times the floor",
            f"ours/{case}",
            "floor/get",
            goal=1.8,
            lower=True,
            divisor=trips.get(case, allowed),
        )
        for case, (what, allowed) in TRANSACTIONS.items()
    ]
    small = net.compare(("ours", "1pc"), ("tikv-client", "small"))
    large = net.compare(("ours", "large"), ("tikv-client", "large"), probe=5)
    tasks = net.compare(("ours async", "large_async"), ("tikv-client", "large_async"), probe=5)
    rate = "transaction of 1,000 keys"
    return [
        *lines,
        net.against(small, "transaction of 1 key, times tikv-client's rate", "tikv-client/small", "ours/1pc"),
        net.against(large, f"{rate}, times tikv-client's rate", "tikv-client/large", "ours/large", goal=5),
        net.against(
            tasks,
            f"{rate}, asyncio, times tikv-client's rate",
            "tikv-client/large_async",
            "ours async/large_async",
            goal=5,
        ),
    ]


def round_trips(*, delay_ms: int = 25, counted: int = 4) -> tuple[list[Line], dict[str, int]]:
    """Round trips of each kind of transaction, as lines and by case: `counted` of each, answers `delay_ms` late."""
    lines, trips = [], {}
    try:
        with (
            harness.neutral_server(regions=_REGIONS, txn=True, delay_ms=delay_ms) as server,
            contextlib.closing(_OURS.start(server.url, harness.ALL_CORES)) as worker,
        ):
            for case, (what, allowed) in TRANSACTIONS.items():
                trips[case], requests = _count(server, worker, case, delay_ms / 1000, counted)
                name = f"round trips of a transaction, {what}"
                lines.append(Line(name, "trips", trips[case], allowed, detail=requests, load=harness.load()))
    except Unavailable as error:
        lines.append(Line("round trips of transactions", skipped=str(error)))
    return lines, trips


def _count(server: harness.Server, worker: Worker, case: str, delay_s: float, counted: int) -> tuple[int, str]:
    worker.run(case, 1)  # regions and connections are known from here on
    time.sleep(_BACKGROUND_TRIPS * delay_s)
    server.requests()
    # The quickest counts: a machine that is busy only ever adds to the time.
    seconds = min(worker.run(case, 1)["seconds"] for _ in range(counted))
    time.sleep(_BACKGROUND_TRIPS * delay_s)
    requests = server.requests()
    for background in ("BatchCommands", "GetGCSafePoint", "GetStore"):
        requests.pop(background, None)
    each = ", ".join(f"{name} {number / counted:g}" for name, number in sorted(requests.items()))
    return round(seconds / delay_s), f"requests: {each}"


def begins(net: Network) -> list[Line]:
    """Requests for timestamps of a thousand transactions that begin at once, in tasks and in threads."""
    lines = []
    for name, title in (("ours async", "asyncio tasks"), ("ours", "100 threads")):
        name_of_line = f"requests to the oracle for 1,000 begins, {title}"
        goal = 20 if name == "ours async" else None
        try:
            worker = net.workers[name]
            worker.run("begins", _BEGINS)
            net.server.requests()
            answer = worker.run("begins", _BEGINS)
        except (KeyError, Unavailable) as error:
            reason = net.missing.get(name, str(error))
            lines.append(Line(name_of_line, skipped=reason, goal=goal, arrangement=net.arrangement))
            continue
        count, detail = net.server.requests().get("Tso", 0), f"{answer['seconds'] * 1000:.1f} ms for all"
        lines.append(
            Line(name_of_line, "requests", count, goal, detail=detail, arrangement=net.arrangement, load=harness.load())
        )
    return lines


def embedded(effort: Effort) -> list[Line]:
    """Commits in the embedded store against bare puts, reads against raw reads, and over many versions."""
    with harness.scratch() as directory:
        try:
            worker = Worker("embedded txn", "embedded_txn.py", str(directory))
        except Unavailable as error:
            return [Line("embedded transactions", skipped=str(error))]
        with contextlib.closing(worker):
            put, commit, both, get, raw = cases = [
                Entry(label, worker, case)
                for case, label in {
                    "bare_put": "rocksdict put",
                    "commit": "1PC commit",
                    "read_and_commit": "get and 1PC commit",
                    "get": "snapshot get",
                    "raw_get": "raw get",
                }.items()
            ]
            interleave(cases, rounds=effort.rounds, round_seconds=effort.round_seconds / 2)
            return [
                ratio_line("embedded commit of 1 key (sync=off), in bare rocksdict puts", commit, put, goal=30),
                ratio_line("embedded get and commit of 1 key (sync=off), in bare puts", both, put, goal=None),
                ratio_line("embedded snapshot get, times the raw get", get, raw, goal=None),
                *_versions("embedded", worker, effort),
            ]


def _versions(where: str, worker: Worker, effort: Effort) -> list[Line]:
    lines = []
    for which in ("newest", "oldest"):
        entries = [Entry(f"{count} versions", worker, f"{which}_{count}") for count in (1, 10, 100, 1_000)]
        interleave(entries, rounds=effort.rounds, round_seconds=effort.round_seconds / 4)
        few, *_, many = entries
        line = ratio_line(f"{where}, get of the {which} of 1,000 versions, times one", many, few, goal=_FLAT)
        line.detail = ", ".join(f"{entry.label} {entry.median_us:.1f} us" for entry in entries)
        lines.append(line)
    return lines


def our_server(effort: Effort) -> list[Line]:
    """The same against `pytikv serve`: reads, commits, many versions, and the peer's large transactions."""
    try:
        with (
            harness.our_server() as server,
            contextlib.closing(Network(server, [_OURS, _ASYNC, _PEER], effort, "pytikv serve")) as net,
            contextlib.closing(Worker("versions", "versions.py", server.url)) as versions,
        ):
            got = net.compare(("ours", "raw_get"), ("ours", "get"))
            large = net.compare(("ours", "large"), ("tikv-client", "large"), probe=3)
            small = net.compare(("ours", "1pc"), ("tikv-client", "small"), ("ours", "2pc"))
            flight = net.compare(("ours async", "get_async"), ("ours async", "small_async"))
            return [
                net.against(got, "snapshot get, times the raw get", "ours/get", "ours/raw_get", lower=True),
                net.against(small, "transaction of 1 key, times tikv-client's rate", "tikv-client/small", "ours/1pc"),
                net.against(
                    large, "transaction of 1,000 keys, times tikv-client's rate", "tikv-client/large", "ours/large"
                ),
                *_rates(net, {**flight, **small, **large}),
                *_versions("our server", versions, effort),
            ]
    except Unavailable as error:
        return [Line("transactions against our server", skipped=str(error))]


def _rates(net: Network, entries: Mapping[str, Entry]) -> list[Line]:
    titles = {
        "ours async/get_async": "our server, snapshot gets a second (64 in flight)",
        "ours async/small_async": "our server, transactions of 1 key a second (64 in flight)",
        "ours/1pc": "our server, transactions of 1 key a second, one by one",
        "ours/2pc": "our server, transactions of 2 keys as 2PC a second, one by one",
        "ours/large": "our server, transactions of 1,000 keys a second, one by one",
    }
    lines = []
    for key, title in titles.items():
        if key not in entries:
            lines.append(Line(title, skipped=net.missing.get(key) or net.missing.get(key.partition("/")[0], "")))
            continue
        entry = entries[key]
        detail = f"{entry.median_us:.1f} us, of which {statistics.median(entry.cpu_seconds) * 1e6:.1f} the client's CPU"
        rate = 1 / statistics.median(entry.seconds)
        rounds = {entry.label: entry.seconds}
        lines.append(Line(title, "/s", rate, lower_is_better=False, detail=detail, load=harness.load(), rounds=rounds))
    return lines


_LEFTOVER = {
    "scan": "scan over",
    "batch_get": "batch_get over",
    "write": "a transaction over",
    "resolve": "resolve_locks of",
}
"""Cases of `workers/leftover.py`."""


def leftover_locks(effort: Effort) -> list[Line]:
    """Seconds until a read, a write and `resolve_locks` are through with 10,000 leftover locks."""
    lines = _leftover("embedded", "embedded://:memory:leftover", effort)
    with harness.our_server() as server:
        return lines + _leftover("our server", server.url, effort)


def _leftover(where: str, url: str, effort: Effort) -> list[Line]:
    try:
        worker = Worker(f"leftover {where}", "leftover.py", url, str(harness.ROOT / "interop"))
    except Unavailable as error:
        return [Line(f"{where}, 10,000 leftover locks", skipped=str(error), goal=_LEFTOVER_SECONDS)]
    with contextlib.closing(worker):
        return [_leftover_line(where, worker, way, count, effort) for way in _LEFTOVER for count in (1, 1_000)]


def _leftover_line(where: str, worker: Worker, way: str, count: int, effort: Effort) -> Line:
    name = f"{where}, {_LEFTOVER[way]} 10,000 leftover locks of {count:,} transaction{'s' * (count > 1)}"
    try:
        seconds = [worker.run(f"{way}_{count}", 1)["seconds"] for _ in range(min(effort.rounds, 5))]
    except Unavailable as error:
        return Line(name, skipped=str(error), goal=_LEFTOVER_SECONDS)
    return Line(
        name,
        "s",
        statistics.median(seconds),
        _LEFTOVER_SECONDS,
        spread=harness.quartiles(seconds),
        load=harness.load(),
        rounds={"seconds": seconds},
    )
