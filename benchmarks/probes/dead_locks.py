"""Probe for `server.engine.lock_keys`: what locks that are gone cost a scan.

RocksDB keeps what was deleted until a compaction, and an iterator that looks for the next lock steps over all of it.
Shown: microseconds of a scan that finds no lock, by a snapshot, which knows what is locked, and by an iterator; and how
many dead entries the iterator stepped over.

    python benchmarks/probes/dead_locks.py
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable

from pytikv.server.engine.interface import CF_LOCK, WriteBatch
from pytikv.server.engine.rocks import RocksEngine

LIVES = 3000
PASSES = 200


def median_us(scan: Callable[[], Iterable[object]]) -> float:
    times = []
    for _ in range(PASSES):
        begin = time.perf_counter()
        list(scan())
        times.append(time.perf_counter() - begin)
    return sorted(times)[PASSES // 2] * 1e6


def lock_and_unlock(engine: RocksEngine, first: int, count: int) -> None:
    """As transactions do: each key is locked by one change, and let go by another."""
    for number in range(first, first + count):
        key = b"key_%08d" % number
        engine.put(CF_LOCK, key, b"lock" * 15)
        gone = WriteBatch()
        gone.delete(CF_LOCK, key)
        engine.write(gone)


def main() -> None:
    path = tempfile.mkdtemp()
    try:
        engine = RocksEngine(path)
        print(f"{'dead entries':>12} {'snapshot us':>12} {'iterator us':>12}")
        for turn in range(8):
            dead = engine.number(CF_LOCK, "rocksdb.num-entries-active-mem-table")
            snapshot = engine.snapshot()
            by_snapshot = median_us(lambda snapshot=snapshot: snapshot.scan(CF_LOCK))
            by_iterator = median_us(lambda: engine.scan(CF_LOCK))
            snapshot.close()
            print(f"{dead:>12,} {by_snapshot:>12.1f} {by_iterator:>12.1f}")
            lock_and_unlock(engine, turn * LIVES, LIVES)
        engine.close()
    finally:
        shutil.rmtree(path)


if __name__ == "__main__":
    main()
