"""What the programs of the two Python clients share: flags, lines, and the checks that both can do.

See interop/README.md for the contract. A program of raw calls makes a `Peer` and calls `run`, others make checks of
their own and call `run_all`. The process ends by `os._exit`, since `tikv-client` may crash in the interpreter's
tear-down after correct results.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

SHARED = 50
BATCH = 300


@dataclasses.dataclass
class Peer:
    """A client's raw calls in one shape. `scan(start, end, limit)` answers pairs; `extra` are checks of its own."""

    get: Callable[[bytes], bytes | None]
    put: Callable[[bytes, bytes], Any]
    delete: Callable[[bytes], Any]
    batch_get: Callable[[list[bytes]], Mapping[bytes, bytes]]
    batch_put: Callable[[dict[bytes, bytes]], Any]
    batch_delete: Callable[[list[bytes]], Any]
    scan: Callable[[bytes, bytes, int], Iterable[tuple[bytes, bytes]]]
    delete_range: Callable[[bytes, bytes], Any]


class Checks:
    """The checks of one client against one prefix."""

    def __init__(self, peer: Peer, prefix: bytes) -> None:
        self.peer, self.prefix = peer, prefix

    def key(self, tail: str) -> bytes:
        """A key below the prefix."""
        return self.prefix + tail.encode()

    def read_ours(self) -> None:
        wanted = {self.key(f"pytikv_{i:04}"): b"value %d" % i for i in range(SHARED)}
        for key, value in wanted.items():
            same("get", self.peer.get(key), value)
        same("batch get", dict(self.peer.batch_get(list(wanted))), wanted)
        same("scan", list(self.peer.scan(self.key("pytikv_"), self.key("pytikv_~"), 2 * SHARED)), list(wanted.items()))

    def put_get(self) -> None:
        for value in (b"one", b"two"):
            self.peer.put(self.key("point"), value)
            same("get", self.peer.get(self.key("point")), value)
        self.peer.delete(self.key("point"))
        same("get after delete", self.peer.get(self.key("point")), None)

    def binary(self) -> None:
        for tail in (b"\0", b"\xff", b"\0\xff\0", b"\xff" * 9):
            self.peer.put(self.key("binary") + tail, tail + b"\0\xff")
            same("binary", self.peer.get(self.key("binary") + tail), tail + b"\0\xff")
        large = b"\xa5\0" * (1 << 20)
        self.peer.put(self.key("large"), large)
        same("large", self.peer.get(self.key("large")) == large, True)
        self.peer.delete(self.key("large"))

    def batches(self) -> None:
        pairs = {self.key(f"batch_{i:04}"): b"b%d" % i for i in range(BATCH)}
        self.peer.batch_put(pairs)
        same("batch get", dict(self.peer.batch_get([*pairs, self.key("absent")])), pairs)
        self.peer.batch_delete(list(pairs)[: BATCH // 2])
        left = list(self.peer.scan(self.key("batch_"), self.key("batch_~"), 2 * BATCH))
        same("keys left", len(left), BATCH - BATCH // 2)

    def scans(self) -> None:
        for i in range(20):
            self.peer.put(self.key(f"scan_{i:02}"), b"s%d" % i)
        wanted = [(self.key(f"scan_{i:02}"), b"s%d" % i) for i in range(5, 10)]
        same("scan", list(self.peer.scan(self.key("scan_05"), self.key("scan_10"), 100)), wanted)
        same("limited scan", list(self.peer.scan(self.key("scan_05"), self.key("scan_10"), 3)), wanted[:3])

    def delete_range(self) -> None:
        for i in range(10):
            self.peer.put(self.key(f"range_{i}"), b"r")
        self.peer.delete_range(self.key("range_3"), self.key("range_7"))
        same("keys left", len(list(self.peer.scan(self.key("range_"), self.key("range_~"), 100))), 6)

    def write_theirs(self) -> None:
        for i in range(SHARED):
            self.peer.put(self.key(f"theirs_{i:04}"), b"value %d" % i)

    def all(self, extra: Mapping[str, Callable[[Checks], None]]) -> dict[str, Callable[[], None]]:
        """All checks by name, in order."""
        bodies: dict[str, Callable[[], None]] = {
            "read what pytikv wrote": self.read_ours,
            "put and get": self.put_get,
            "binary keys and large values": self.binary,
            "batches": self.batches,
            "scans": self.scans,
            "delete range": self.delete_range,
        }
        bodies |= {name: functools.partial(body, self) for name, body in extra.items()}
        bodies["write for pytikv"] = self.write_theirs
        return bodies


def same(what: str, got: object, wanted: object) -> None:
    """Raise when a check's answer is not as wanted."""
    if got != wanted:
        raise AssertionError(f"{what}: {str(got)[:80]} instead of {str(wanted)[:80]}")


def report(name: str, body: Callable[[], Any]) -> bool:
    """Run a check and print its line."""
    detail = ""
    try:
        body()
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"[:300]
    print(json.dumps({"check": name, "ok": not detail, "detail": detail}), flush=True)
    return not detail


def run(connect: Callable[[argparse.Namespace], tuple[Peer, Mapping[str, Callable[[Checks], None]]]]) -> None:
    """Connect, run the raw checks and end the process: 0 when all passed."""

    def make(arguments: argparse.Namespace) -> Mapping[str, Callable[[], None]]:
        peer, extra = connect(arguments)
        return Checks(peer, arguments.prefix.encode()).all(extra)

    run_all(make)


def run_all(make: Callable[[argparse.Namespace], Mapping[str, Callable[[], None]]]) -> None:
    """Connect and make the checks by `make`, run them and end the process: 0 when all passed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-pd", default="127.0.0.1:2379")
    parser.add_argument("-prefix", default="interop_")
    parser.add_argument("-ttl", action="store_true")
    parser.add_argument("-txn", action="store_true")
    parser.add_argument("-timeout", type=float, default=60)
    arguments = parser.parse_args()

    def out_of_time() -> None:
        print(json.dumps({"check": "within the time given", "ok": False, "detail": "time out"}), flush=True)
        os._exit(1)

    guard = threading.Timer(arguments.timeout, out_of_time)
    guard.daemon = True
    guard.start()
    bodies: dict[str, Callable[[], None]] = {}
    outcomes = [report("connect", lambda: bodies.update(make(arguments)))]
    outcomes += [report(name, body) for name, body in bodies.items()]
    os._exit(0 if all(outcomes) else 1)
