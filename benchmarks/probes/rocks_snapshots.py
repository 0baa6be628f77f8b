"""Probe for decision 0005: what of rocksdict shows one moment, and where its iterators are unsafe.

python benchmarks/probes/rocks_snapshots.py
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable

from rocksdict import Options, Rdict, RdictIter, ReadOptions

from pytikv.server.engine.rocks import RocksEngine


def keys_of(it: RdictIter) -> list[bytes]:
    it.seek_to_first()
    found = []
    while it.valid():
        found.append(it.key())
        it.next()
    return found


def one_moment(db: Rdict) -> None:
    for key in (b"a", b"b", b"c"):
        db[key] = b"old"
    snapshot, iterator = db.snapshot(), db.iter()
    db.delete_range(b"a", b"z")
    print("after a deletion of a, b, c:")
    print("  snapshot[b'a']           ", snapshot[b"a"])
    print("  snapshot.iter()          ", keys_of(snapshot.iter()))
    print("  iterator made before it  ", keys_of(iterator))


def bounds(db: Rdict) -> None:
    for i in range(300):
        db[b"%05d" % i] = b""
    lower = ReadOptions()
    lower.set_iterate_lower_bound(b"00290")
    print("keys 00000 to 00299, lower bound 00290:", len(keys_of(db.iter(lower))), "keys, not 10")
    wrong = 0
    for _ in range(500):
        upper = ReadOptions()
        upper.set_iterate_upper_bound(b"%05d" % 100)
        it = db.iter(upper)
        del upper  # the iterator keeps a pointer into what is freed here
        _reuse = [os.urandom(5) for _ in range(20)], [bytes([i]) * 5 for i in range(20)]
        it.seek(b"00050")
        found = 0
        while it.valid():
            found += 1
            it.next()
        wrong += found != 50
    print(f"[00050, 00100) with the ReadOptions dropped: {wrong} of 500 wrong")


def best_us(call: Callable[[], object], times: int = 5000) -> float:
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(times):
            call()
        best = min(best, (time.perf_counter() - begin) / times)
    return best * 1e6


def costs(path: str) -> None:
    engine = RocksEngine(path)
    for i in range(100_000):
        engine.put("default", b"%08d" % i, b"v" * 64)
    print(f"our snapshot of three families: {best_us(engine.snapshot):.1f} us")
    print(f"a seek, engine.first: {best_us(lambda: engine.first('default', b'00050000')):.1f} us")
    snapshot = engine.snapshot()
    for name, pairs in (("engine", lambda: engine.scan("default")), ("snapshot", lambda: snapshot.scan("default"))):
        print(f"scan, {name}: {best_us(lambda pairs=pairs: sum(1 for _ in pairs()), 1) / 1e5:.2f} us a pair")
    snapshot.close()
    engine.close()


def main() -> None:
    path = tempfile.mkdtemp(prefix="rocks_probe_", dir=".")
    try:
        for name, probe in (("moment", one_moment), ("bounds", bounds)):
            db = Rdict(f"{path}/{name}", Options(raw_mode=True))
            probe(db)
            db.close()
        costs(f"{path}/costs")
    finally:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main()
