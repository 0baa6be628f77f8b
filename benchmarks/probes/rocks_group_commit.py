"""Probe for decision 0005: what a durable write costs through rocksdict, and whom it blocks.

Three ways of making a put durable, each with 1, 8 and 32 threads:

* synced: every put with WriteOptions.sync;
* flush each: an unsynced put, then flush_wal(True), per put;
* one lock: unsynced puts; whoever gets the lock flushes for all that have written so far;
* queue: as before, but the leader wakes those it has served and names the next leader.

Each is measured alone and beside one thread of pure Python, whose share tells for how long the GIL was held elsewhere.

    python benchmarks/probes/rocks_group_commit.py [seconds a cell]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable

from rocksdict import Options, Rdict, WriteOptions


class LockGroup:
    """Group commit with one lock: the holder flushes, the others find their write durable when they get the lock."""

    def __init__(self, db: Rdict) -> None:
        self.db = db
        self.written = 0
        self.durable = 0
        self.lock = threading.Lock()
        self.flushes = 0
        self.puts = 0

    def put(self, key: bytes, value: bytes) -> None:
        self.puts += 1
        self.db.put(key, value)
        self.written = ticket = self.written + 1
        if self.durable >= ticket:
            return
        with self.lock:
            if self.durable >= ticket:
                return
            target = self.written
            self.db.flush_wal(True)
            self.durable = target
            self.flushes += 1


class Waiter:
    __slots__ = ("leads", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.leads = False


class QueueGroup:
    """Group commit with a queue: the leader flushes for all that wait, wakes them and names the next leader."""

    def __init__(self, db: Rdict) -> None:
        self.db = db
        self.mutex = threading.Lock()
        self.waiting: list[Waiter] = []
        self.flushing = False
        self.flushes = 0
        self.puts = 0

    def put(self, key: bytes, value: bytes) -> None:
        self.puts += 1
        self.db.put(key, value)
        with self.mutex:
            if self.flushing:
                me = Waiter()
                self.waiting.append(me)
            else:
                self.flushing = True
                me = None
        if me is not None:
            me.lock.acquire()
            if not me.leads:
                return
        with self.mutex:
            served, self.waiting = self.waiting, []
        self.db.flush_wal(True)
        self.flushes += 1
        with self.mutex:
            if self.waiting:
                heir = self.waiting.pop(0)
                heir.leads = True
                heir.lock.release()
            else:
                self.flushing = False
        for waiter in served:
            waiter.lock.release()


def measure(put: Callable[[bytes, bytes], None], threads: int, seconds: float, spin: bool) -> tuple[float, float]:
    stop = threading.Event()
    counts = [0] * threads
    spins = [0]

    def writer(n: int) -> None:
        i = 0
        while not stop.is_set():
            put(b"%02d-%08d" % (n, i), b"v" * 100)
            i += 1
        counts[n] = i

    def spinner() -> None:
        n = 0
        while not stop.is_set():
            for _ in range(1000):
                pass
            n += 1
        spins[0] = n

    workers = [threading.Thread(target=writer, args=(n,)) for n in range(threads)]
    if spin:
        workers.append(threading.Thread(target=spinner))
    begin = time.perf_counter()
    for w in workers:
        w.start()
    time.sleep(seconds)
    stop.set()
    for w in workers:
        w.join()
    seconds = time.perf_counter() - begin  # the main thread, too, waits for the GIL
    return sum(counts) / seconds, spins[0] / seconds


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    path = tempfile.mkdtemp(prefix="rocks_probe_", dir=".")
    synced = WriteOptions()
    synced.sync = True
    try:
        db = Rdict(path, Options(raw_mode=True))
        _, alone = measure(lambda key, value: time.sleep(0.1), 1, seconds, spin=True)

        def flush_each(key: bytes, value: bytes) -> None:
            db.put(key, value)
            db.flush_wal(True)

        print(f"{'way':<12}{'threads':>8}{'puts/s':>10}{'puts/flush':>12}{'beside python':>24}{'python left':>13}")
        for threads in (1, 8, 32):
            for name in ("synced", "flush each", "one lock", "queue"):
                cells = []
                for spin in (False, True):
                    group = LockGroup(db) if name == "one lock" else QueueGroup(db)
                    put = {"synced": lambda k, v: db.put(k, v, synced), "flush each": flush_each}.get(name, group.put)
                    rate, left = measure(put, threads, seconds, spin)
                    cells.append((rate, group.puts / group.flushes if group.flushes else 1.0, left / alone))
                (rate, per_flush, _), (beside, _, left) = cells
                print(f"{name:<12}{threads:>8}{rate:>10.0f}{per_flush:>12.1f}{beside:>24.0f}{left:>13.0%}")
        db.close()
    finally:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main()
