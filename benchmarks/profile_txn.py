"""Where the time of a transaction goes: `python benchmarks/profile_txn.py [--calls] [--only WORD ...]`.

Against the neutral server with ten regions, both on one core, blocking. The ladder shows each part of a transaction and
whole ones by kind; then the profiler's view of each, as in `profile_get.py`.
"""

from __future__ import annotations

import argparse
import os
import sys

import harness

sys.path.insert(0, str(harness.WORKERS))

import loop
import ours_txn
from profile_get import Run, ladder, profiled

import pytikv


def rungs(raw: pytikv.RawClient, db: pytikv.TransactionClient) -> dict[str, Run]:
    """The parts, and transactions of one key (2PC and async commit: of two keys in two regions)."""
    lower, upper = ours_txn.ONE_REGION, ours_txn.TEN_REGIONS[-10:]

    def timestamp(n: int) -> None:
        for _ in range(n):
            db.current_timestamp()

    def begin(n: int) -> None:
        for _ in range(n):
            db.begin().rollback()

    def raw_get(n: int) -> None:
        for key in loop.take(n):
            raw.get(key)

    def raw_put(n: int) -> None:
        for key in loop.take(n):
            raw.put(key, loop.VALUE)

    def get(n: int) -> None:
        for size in loop.passes(n):
            snapshot = db.snapshot()
            for key in loop.take(size):
                snapshot.get(key)

    def write(kind: str) -> Run:
        options, keys = ours_txn.KINDS[kind], 1 if kind.startswith("1pc") else 2

        def run(n: int) -> None:
            for i in range(n):
                with db.begin(**options) as txn:
                    for key in (lower[i % len(lower)], upper[i % len(upper)])[:keys]:
                        txn.put(key, loop.VALUE)

        return run

    parts: dict[str, Run] = {
        "raw get": raw_get,
        "raw put": raw_put,
        "snapshot get": get,
        "timestamp": timestamp,
        "begin, rollback": begin,
    }
    return parts | {kind: write(kind) for kind in ours_txn.KINDS}


def main() -> None:
    """Print the views."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", action="store_true", help="also the functions that take most time")
    parser.add_argument("--only", nargs="*", metavar="WORD", help="only parts whose name holds a word")
    parser.add_argument("-n", type=int, default=2_000, help="operations in a round")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})  # the server inherits it
    with (
        harness.neutral_server(regions=10, txn=True) as server,
        pytikv.RawClient.connect(server.url) as raw,
        pytikv.TransactionClient.connect(server.url) as db,
    ):
        raw.batch_put([(key, loop.VALUE) for key in loop.KEYS])
        made = {
            name: run
            for name, run in rungs(raw, db).items()
            if not arguments.only or any(word in name for word in arguments.only)
        }
        print(f"load {harness.load()}, commit {harness.commit()}, one core for client and server")
        ladder(made, arguments.n)
        for name, run in made.items():
            profiled(name, run, arguments.n, calls=arguments.calls)


if __name__ == "__main__":
    main()
