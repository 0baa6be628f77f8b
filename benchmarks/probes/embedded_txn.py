"""What a transaction of one key costs in the embedded store, counted in bare puts of the engine below it.

`python benchmarks/probes/embedded_txn.py` prints, for `sync=off`: a put of rocksdict in microseconds, a transaction
that puts one key and commits it in one phase (begin, put, commit), a snapshot get, and their quotients. The parts are
measured in turn, in many short rounds, of this thread alone, and the best ones compared. `--profile` prints
where the time of the transaction goes.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import rocksdict

import pytikv

ROUNDS = 40
COUNT = 300


def micros(function: Callable[[], object], count: int = COUNT) -> float:
    begun = time.thread_time()
    for _ in range(count):
        function()
    return (time.thread_time() - begun) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true")
    profile = parser.parse_args().profile
    with tempfile.TemporaryDirectory() as place:
        bare = rocksdict.Rdict(str(Path(place) / "bare"), rocksdict.Options(raw_mode=True))
        with pytikv.TransactionClient.connect(f"embedded://{place}/store?sync=off") as db:
            value = b"v" * 100
            number = 0

            def put() -> None:
                nonlocal number
                number += 1
                bare[b"key%012d" % number] = value

            def commit() -> None:
                nonlocal number
                number += 1
                with db.begin() as txn:
                    txn.put(b"key%012d" % number, value)

            snapshot = db.snapshot(cache=False)

            def get() -> None:
                snapshot.get(b"key%012d" % number)

            parts = {"rocksdict put": put, "one-key commit": commit, "snapshot get": get}
            times: dict[str, list[float]] = {name: [] for name in parts}
            for _ in range(ROUNDS):
                for name, part in parts.items():
                    times[name].append(micros(part))
            base = min(times["rocksdict put"])
            for name, found in times.items():
                best = min(found)
                print(f"{name:16} {best:8.2f} us  {best / base:6.1f} puts")
            if profile:
                profiler = cProfile.Profile()
                profiler.runcall(micros, commit, 5000)
                pstats.Stats(profiler).sort_stats("tottime").print_stats(35)
        bare.close()


if __name__ == "__main__":
    main()
