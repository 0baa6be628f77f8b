"""Reads over locks that dead clients left. Arguments: a URL, and the directory of `dead_client`.

An operation is one read of all the keys, before which fresh locks are left on each of them; the locks have expired, and
leaving them is not timed. `scan_V` and `batch_get_V`: the locks are of V transactions.
"""

from __future__ import annotations

import sys
import time

import loop

import pytikv

sys.path.append(sys.argv[2])

from dead_client import DeadClient

LOCKS = 10_000
_TTL_MS = 1


def main() -> None:
    """Serve the cases."""
    db, dead = pytikv.TransactionClient.connect(sys.argv[1]), DeadClient(sys.argv[1])
    keys = [b"leftover_%08d" % i for i in range(LOCKS)]

    def leave(transactions: int) -> None:
        for i in range(transactions):
            dead.prewrite(dict.fromkeys(keys[i::transactions], loop.VALUE), ttl_ms=_TTL_MS)
        time.sleep(10 * _TTL_MS / 1000)

    def reading(way: str, transactions: int) -> loop.Case:
        def run(n: int) -> float:
            seconds = 0.0
            for _ in range(n):
                leave(transactions)
                started = time.perf_counter()
                snapshot = db.snapshot()
                got = dict(snapshot.scan_prefix(b"leftover_")) if way == "scan" else snapshot.batch_get(keys)
                seconds += time.perf_counter() - started
                assert got == {}, "an uncommitted value was read"
            return seconds

        return run

    loop.serve({f"{way}_{count}": reading(way, count) for way in ("scan", "batch_get") for count in (1, 1_000)})


if __name__ == "__main__":
    main()
