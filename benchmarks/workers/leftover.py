"""Locks that dead clients left. Arguments: a URL, and the directory of `dead_client`.

An operation meets locks on 10,000 keys, left on fresh keys each time by `dead_client`; they have expired. Leaving them
is not timed, nor is resolving what the operation has left. Case `WAY_T`: the locks are of T transactions, and WAY is

* `scan`, `batch_get`: a read of all keys. It waits for none of the locks: once it knows that a transaction is dead it
  looks past it, and the locks are resolved in the background;
* `write`: a transaction that writes all keys, which it can only when every lock is resolved;
* `resolve`: `resolve_locks` over the keys.
"""

from __future__ import annotations

import sys
import time

import loop

import pytikv
from pytikv.client.arguments import prefix_end

sys.path.append(sys.argv[2])

from dead_client import DeadClient

LOCKS = 10_000
TRANSACTIONS = (1, 1_000)
_TTL_MS = 1


def main() -> None:
    """Serve the cases."""
    db, dead = pytikv.TransactionClient.connect(sys.argv[1]), DeadClient(sys.argv[1])
    rounds = iter(range(1_000_000))

    def write(prefix: bytes, keys: list[bytes]) -> None:
        with db.begin() as txn:
            for key in keys:
                txn.put(key, loop.VALUE)

    def resolve(prefix: bytes, keys: list[bytes]) -> None:
        db.resolve_locks(prefix, prefix_end(prefix))
        assert db.list_locks(prefix, prefix_end(prefix)) == []

    def scan(prefix: bytes, keys: list[bytes]) -> None:
        assert list(db.snapshot().scan_prefix(prefix)) == [], "an uncommitted value was read"

    def batch_get(prefix: bytes, keys: list[bytes]) -> None:
        assert db.snapshot().batch_get(keys) == {}, "an uncommitted value was read"

    def case(way: object, transactions: int) -> loop.Case:
        def run(n: int) -> float:
            seconds = 0.0
            for _ in range(n):
                prefix = b"leftover_%06d_" % next(rounds)
                keys = [prefix + b"%08d" % i for i in range(LOCKS)]
                for i in range(transactions):
                    dead.prewrite(dict.fromkeys(keys[i::transactions], loop.VALUE), ttl_ms=_TTL_MS)
                time.sleep(10 * _TTL_MS / 1000)
                started = time.perf_counter()
                way(prefix, keys)
                seconds += time.perf_counter() - started
                resolve(prefix, keys)
            return seconds

        return run

    ways = {"scan": scan, "batch_get": batch_get, "write": write, "resolve": resolve}
    loop.serve({f"{name}_{count}": case(way, count) for name, way in ways.items() for count in TRANSACTIONS})


if __name__ == "__main__":
    main()
