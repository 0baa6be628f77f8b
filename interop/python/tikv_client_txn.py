"""Runs `tikv-client`'s transactions, those of an older client-rust, against a server; `-txn` says nothing new to it.

It commits in two phases only and has no options. What it can leave behind are pessimistic locks of 20 s.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import checks
from tikv_client import TransactionClient, asynchronous

MANY = 300
LEFT = 10
_TASKS = 16
_EACH = 5


class TxnChecks:
    """The checks against one prefix."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.events = asyncio.new_event_loop()
        asyncio.set_event_loop(self.events)  # the blocking calls run the thread's event loop
        self.pd, self.prefix = arguments.pd, arguments.prefix
        self.client = TransactionClient.connect([arguments.pd])
        self.left: Any = None  # a transaction that is dropped while it lasts panics

    def all(self) -> Mapping[str, Callable[[], None]]:
        """All checks by name, in order."""
        return {
            "read what pytikv wrote": self.read_ours,
            "optimistic": self.optimistic,
            "conflict": self.conflict,
            "insert": self.insert,
            "many keys over regions": self.many,
            "scans": self.scans,
            "snapshots": self.snapshots,
            "pessimistic": self.pessimistic,
            "asyncio, many at once": lambda: self.events.run_until_complete(self.many_at_once()),
            "meet a dead client's prewrite": lambda: self.meet("prewrite", b"before"),
            "meet a dead client's half commit": lambda: self.meet("committed", b"after"),
            "meet a dead client's pessimistic locks": self.meet_pessimistic,
            "write for pytikv": self.write_theirs,
            "leave locks for pytikv": self.leave_locks,
        }

    def key(self, tail: str) -> bytes:
        """A key below the prefix."""
        return f"{self.prefix}{tail}".encode()

    def write(self, pairs: Mapping[bytes, bytes | None], *, pessimistic: bool = False) -> None:
        """Commit pairs in one transaction; None deletes."""
        txn = self.client.begin(pessimistic)
        for key, value in pairs.items():
            if value is None:
                txn.delete(key)
            else:
                txn.put(key, value)
        txn.commit()

    def read(self) -> Any:
        """A snapshot of now."""
        return self.client.snapshot(self.client.current_timestamp(), False)

    def expect(self, pairs: Mapping[bytes, bytes | None]) -> None:
        """Read pairs one by one; None stands for an absent key."""
        snapshot = self.read()
        for key, value in pairs.items():
            checks.same(f"get {key!r}", snapshot.get(key), value)

    def read_ours(self) -> None:
        wanted = {self.key(f"pytikv_{i:04}"): b"value %d" % i for i in range(checks.SHARED)}
        self.expect(wanted)
        checks.same("batch get", dict(self.read().batch_get(list(wanted))), wanted)
        scanned = self.read().scan(self.key("pytikv_"), self.key("pytikv_~"), 2 * checks.SHARED)
        checks.same("scan", list(scanned), list(wanted.items()))

    def optimistic(self) -> None:
        key = self.key("point")
        txn = self.client.begin()
        txn.put(key, b"one")
        checks.same("own write", txn.get(key), b"one")
        txn.commit()
        self.expect({key: b"one"})
        txn = self.client.begin()
        txn.put(key, b"two")
        txn.rollback()
        self.expect({key: b"one"})
        self.write({key: None})
        self.expect({key: None})

    def conflict(self) -> None:
        key = self.key("conflict")
        txn = self.client.begin()
        txn.put(key, b"first")
        self.write({key: b"second"})
        checks.same("the older transaction failed", _fails(txn.commit), True)
        self.expect({key: b"second"})

    def insert(self) -> None:
        for is_second in (False, True):
            txn = self.client.begin()
            txn.insert(self.key("insert"), b"i")
            checks.same("the insert failed", _fails(txn.commit), is_second)

    def many(self) -> None:
        pairs: dict[bytes, bytes | None] = {self.key(f"batch_{i:04}"): b"b%d" % i for i in range(MANY)}
        self.write(pairs)
        self.expect(pairs)
        self.write(dict.fromkeys(list(pairs)[::2]))
        left = self.read().scan_keys(self.key("batch_"), self.key("batch_~"), 2 * MANY)
        checks.same("keys left", len(list(left)), MANY // 2)

    def scans(self) -> None:
        self.write({self.key(f"scan_{i:02}"): b"s%d" % i for i in range(20)})
        txn = self.client.begin()
        txn.put(self.key("scan_055"), b"own")
        txn.delete(self.key("scan_07"))
        keys = list(txn.scan_keys(self.key("scan_05"), self.key("scan_10"), 100))
        txn.rollback()
        checks.same("scan", keys, [self.key(f"scan_{tail}") for tail in ("05", "055", "06", "08", "09")])

    def snapshots(self) -> None:
        stamps = []
        for i in range(3):
            self.write({self.key("snapshot"): b"version %d" % i})
            stamps.append(self.client.current_timestamp())
        for i, ts in enumerate(stamps):
            checks.same("snapshot", self.client.snapshot(ts, False).get(self.key("snapshot")), b"version %d" % i)

    def pessimistic(self) -> None:
        key = self.key("locked")
        self.write({key: b"old"})
        txn = self.client.begin(pessimistic=True)
        checks.same("get for update", txn.get_for_update(key), b"old")
        self.expect({key: b"old"})  # readers pass the lock
        txn.lock_keys([self.key("scan_locked")])
        txn.put(key, b"new")
        txn.commit()
        self.expect({key: b"new"})

    async def many_at_once(self) -> None:
        """Tasks that count one key up in turns, by pessimistic transactions."""
        client = await asynchronous.TransactionClient.connect([self.pd])
        key = self.key("counter")

        async def count() -> None:
            done = 0
            while done < _EACH:
                txn = await client.begin(pessimistic=True)
                try:
                    value = await txn.get_for_update(key)
                    await txn.put(key, b"%d" % (int(value or b"0") + 1))
                    await txn.commit()
                    done += 1
                except Exception:  # a conflict; it has no class of its own
                    await txn.rollback()

        await asyncio.gather(*(count() for _ in range(_TASKS)))
        self.expect_count(await client.snapshot(await client.current_timestamp(), False).get(key))

    def expect_count(self, value: bytes | None) -> None:
        """Nothing that was counted may be lost."""
        checks.same("the count", value, b"%d" % (_TASKS * _EACH))

    def half(self, stem: str, value: bytes) -> dict[bytes, bytes | None]:
        """The pairs of a transaction that stopped half way, in two regions."""
        return {self.key(f"{start}{stem}_{i}"): value for i in range(LEFT) for start in ("", "~")}

    def meet(self, kind: str, value: bytes) -> None:
        """Read what a transaction of a dead client has left, and write over it."""
        pairs, over = self.half(f"dead_{kind}", value), self.half(f"dead_{kind}", b"over")
        scanned = self.read().scan_keys(self.key(f"dead_{kind}_"), self.key(f"dead_{kind}_~"), 100)
        checks.same("scan", len(list(scanned)), LEFT)
        self.expect(pairs)
        self.write(over)
        self.expect(over)

    def meet_pessimistic(self) -> None:
        over = self.half("dead_pessimistic", b"over")
        self.write(over, pessimistic=True)
        self.expect(over)

    def write_theirs(self) -> None:
        self.write({self.key(f"theirs_{i:04}"): b"value %d" % i for i in range(checks.SHARED)})

    def leave_locks(self) -> None:
        self.left = self.client.begin(pessimistic=True)
        self.left.lock_keys(list(self.half("left_held", b"")))


def _fails(call: Callable[[], Any]) -> bool:
    try:
        call()
    except Exception:
        return True
    return False


if __name__ == "__main__":
    checks.run_all(lambda arguments: TxnChecks(arguments).all())
