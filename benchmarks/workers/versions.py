"""Reads of keys that have 1, 10, 100 and 1,000 versions. By itself against a server, whose URL is the argument."""

from __future__ import annotations

import sys
from typing import Any

import loop

import pytikv

VERSIONS = (1, 10, 100, 1_000)
_KEYS = 50


def cases(db: Any) -> dict[str, loop.Case]:
    """Write the versions; the cases `newest_V` and `oldest_V` read keys of V versions."""
    made: dict[str, loop.Case] = {}
    for count in VERSIONS:
        keys = [b"versions_%04d_%02d" % (count, i) for i in range(_KEYS)]
        stamps = []
        for number in range(count):
            with db.begin() as txn:
                for key in keys:
                    txn.put(key, b"%010d" % number)
            stamps.append(txn.commit_ts)
        made[f"newest_{count}"] = _reads(db, keys, db.current_timestamp(), b"%010d" % (count - 1))
        made[f"oldest_{count}"] = _reads(db, keys, stamps[0], b"%010d" % 0)
    return made


def _reads(db: Any, keys: list[bytes], ts: Any, value: bytes) -> loop.Case:
    def run(n: int) -> None:
        snapshot = db.snapshot(ts, cache=False)
        for i in range(n):
            snapshot.get(keys[i % _KEYS])

    assert db.snapshot(ts).batch_get(keys) == dict.fromkeys(keys, value)
    return run


def main() -> None:
    """Serve the cases."""
    loop.serve(cases(pytikv.TransactionClient.connect(sys.argv[1])))


if __name__ == "__main__":
    main()
