"""The embedded store beside bare rocksdict, both on disk under one directory, with the same keys and values.

Arguments: the directory, the number of keys. Bare: `rocksdict` in raw mode with its defaults, a write goes to the log
unsynced; ours: `embedded://PATH?sync=off`.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import loop
import rocksdict

import pytikv

_SAMPLE = 100_000
_FILL_BATCH = 1_000


def main() -> None:
    """Fill both stores, then serve the cases."""
    directory, size = Path(sys.argv[1]), int(sys.argv[2])
    bare = rocksdict.Rdict(str(directory / "bare"), rocksdict.Options(raw_mode=True))
    ours = pytikv.RawClient.connect(f"embedded://{directory / 'ours'}?sync=off")
    chooser = random.Random(3)
    sample = [b"bench_%08d" % chooser.randrange(size) for _ in range(_SAMPLE)]

    def take(n: int) -> Iterator[bytes]:
        return itertools.islice(itertools.cycle(sample), n)

    def bare_get(n: int) -> None:
        get = bare.get
        for key in take(n):
            get(key)

    def bare_put(n: int) -> None:
        put = bare.put
        for key in take(n):
            put(key, loop.VALUE)

    def get(n: int) -> None:
        for key in take(n):
            ours.get(key)

    def put(n: int) -> None:
        for key in take(n):
            ours.put(key, loop.VALUE)

    for start in range(0, size, _FILL_BATCH):
        keys = [b"bench_%08d" % i for i in range(start, min(size, start + _FILL_BATCH))]
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key in keys:
            batch.put(key, loop.VALUE)
        bare.write(batch)
        ours.batch_put(dict.fromkeys(keys, loop.VALUE))
    assert ours.get(sample[0]) == bare.get(sample[0]) == loop.VALUE
    loop.serve({"bare_get": bare_get, "bare_put": bare_put, "get": get, "put": put}, keys=size)


if __name__ == "__main__":
    main()
