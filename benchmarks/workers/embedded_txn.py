"""Transactions in the embedded store beside bare rocksdict, on disk under one directory; and keys of many versions.

The argument is the directory. Bare: `rocksdict` in raw mode with its defaults, a write goes to the log unsynced; ours:
`embedded://PATH?sync=off`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import loop
import rocksdict
import versions

import pytikv

_FILL_BATCH = 1_000


def main() -> None:
    """Fill both stores, then serve the cases."""
    directory = Path(sys.argv[1])
    bare = rocksdict.Rdict(str(directory / "bare"), rocksdict.Options(raw_mode=True))
    url = f"embedded://{directory / 'ours'}?sync=off"
    db, raw = pytikv.TransactionClient.connect(url), pytikv.RawClient.connect(url)

    def bare_put(n: int) -> None:
        put = bare.put
        for key in loop.take(n):
            put(key, loop.VALUE)

    def commit(n: int) -> None:
        for key in loop.take(n):
            with db.begin() as txn:
                txn.put(key, loop.VALUE)

    def read_and_commit(n: int) -> None:
        for key in loop.take(n):
            with db.begin() as txn:
                txn.get(key)
                txn.put(key, loop.VALUE)

    def get(n: int) -> None:
        for size in loop.passes(n):
            snapshot = db.snapshot()
            for key in loop.take(size):
                snapshot.get(key)

    def raw_get(n: int) -> None:
        for key in loop.take(n):
            raw.get(key)

    for start in range(0, len(loop.KEYS), _FILL_BATCH):
        keys = loop.KEYS[start : start + _FILL_BATCH]
        raw.batch_put(dict.fromkeys(keys, loop.VALUE))
        with db.begin() as txn:
            for key in keys:
                bare.put(key, loop.VALUE)
                txn.put(key, loop.VALUE)
    assert db.snapshot().get(loop.KEYS[0]) == bare.get(loop.KEYS[0]) == raw.get(loop.KEYS[0]) == loop.VALUE
    cases = {"bare_put": bare_put, "commit": commit, "read_and_commit": read_and_commit, "get": get, "raw_get": raw_get}
    loop.serve({**cases, **versions.cases(db)})


if __name__ == "__main__":
    main()
