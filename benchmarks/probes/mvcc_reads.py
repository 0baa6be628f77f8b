"""Probe for `mvcc.point_getter` and `mvcc.scanner`: what a transactional read costs beside a bare get of rocksdict.

Keys with 1 to 1,000 versions of a short value, read at the newest and at the oldest version; the best of several
passes, in microseconds. A get must not grow with the versions, a scan not with those that it passes over.

    python benchmarks/probes/mvcc_reads.py [records]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable

from pytikv.codec import memcomparable
from pytikv.server.engine.interface import CF_WRITE, WriteBatch
from pytikv.server.engine.rocks import RocksEngine
from pytikv.server.mvcc.keys import data_key
from pytikv.server.mvcc.records import Write, WriteType
from pytikv.server.mvcc.scanner import Scanner
from pytikv.server.storage.concurrency import ConcurrencyManager
from pytikv.server.storage.txn_reads import TxnReads

OLDEST = 450_000_000_000_000_000
STEP = 1000
GETS = 5000


def fill(engine: RocksEngine, keys: int, versions: int) -> None:
    batch = WriteBatch()
    for i in range(keys):
        key = memcomparable.encode(b"user_%08d" % i)
        for n in range(versions):
            commit_ts = OLDEST + n * STEP
            write = Write(WriteType.PUT, commit_ts - STEP // 2, b"value_%08d" % n)
            batch.put(CF_WRITE, data_key(key, commit_ts), write.encode())
        if len(batch) > 10_000:
            engine.write(batch)
            batch = WriteBatch()
    engine.write(batch)
    engine.compact(CF_WRITE)


def best_us(run: Callable[[], object], operations: int, passes: int = 7) -> float:
    best = float("inf")
    for _ in range(passes):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best / operations * 1e6


def scan(engine: RocksEngine, ts: int, down: bool) -> None:
    Scanner(engine.snapshot(), b"", b"", ts, reverse=down).scan(1 << 30)


def measure(records: int, versions: int) -> None:
    keys = max(1, records // versions)
    newest = OLDEST + versions * STEP
    path = tempfile.mkdtemp()
    engine = RocksEngine(path)
    try:
        fill(engine, keys, versions)
        reads = TxnReads(engine, ConcurrencyManager(lambda: newest))
        asked = [b"user_%08d" % (i * 7919 % keys) for i in range(GETS)]
        stored = [data_key(memcomparable.encode(key), OLDEST) for key in asked]
        bare = engine.getter(CF_WRITE)
        row = [best_us(lambda: [bare(key) for key in stored], GETS)]
        for ts in (newest, OLDEST):
            row += [best_us(lambda ts=ts: [reads.get(key, ts) for key in asked], GETS)]
            row += [best_us(lambda ts=ts, down=down: scan(engine, ts, down), keys) for down in (False, True)]
        print(f"| {versions} | {keys} | " + " | ".join(f"{figure:.2f}" for figure in row) + " |")
    finally:
        engine.close()
        shutil.rmtree(path)


def main() -> None:
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    print("| versions | keys | bare get | get newest | scan | scan down | get oldest | scan | scan down |")
    print("|---|---|---|---|---|---|---|---|---|")
    for versions in (1, 10, 100, 1000):
        measure(records, versions)


if __name__ == "__main__":
    main()
