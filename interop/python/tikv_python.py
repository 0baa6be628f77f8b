"""Runs `tikv-python` against a server: the shared checks, and its reverse scan, compare-and-swap, checksum and TTL."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Mapping

import checks
import tikv


def connect(arguments: argparse.Namespace) -> tuple[checks.Peer, Mapping[str, Callable[[checks.Checks], None]]]:
    """Make the client."""
    client = tikv.RawClient([arguments.pd])
    atomic = tikv.RawClient([arguments.pd], atomic=True)
    peer = checks.Peer(
        get=client.get,
        put=client.put,
        delete=client.delete,
        batch_get=client.get_many,
        batch_put=client.put_many,
        batch_delete=client.delete_many,
        scan=lambda start, end, limit: client.scan(start, end, limit=limit),
        delete_range=client.delete_range,
    )
    extra = {
        "reverse scan": lambda c: reverse_scan(client, c),
        "compare and swap": lambda c: compare_and_swap(atomic, c),
        "checksum": lambda c: checksum(client, c),
        "asyncio": lambda c: asyncio.run(many_at_once(arguments.pd, c)),
    }
    if arguments.ttl:
        extra["TTL"] = lambda c: ttl(client, c)
    return peer, extra


def reverse_scan(client: tikv.RawClient, c: checks.Checks) -> None:
    """Scan downwards over the keys that the forward scans left."""
    keys = [key for key, _ in client.scan(c.key("scan_05"), c.key("scan_10"), reverse=True)]
    checks.same("reverse scan", keys, [c.key(f"scan_{i:02}") for i in range(9, 4, -1)])


def compare_and_swap(client: tikv.RawClient, c: checks.Checks) -> None:
    """Create, refuse twice, swap."""
    key = c.key("cas")
    client.delete(key)
    for expected, value, wanted in ((None, b"1", True), (None, b"x", False), (b"0", b"x", False), (b"1", b"2", True)):
        checks.same("swapped", client.compare_and_swap(key, expected, value)[0], wanted)
    checks.same("at the end", client.get(key), b"2")


def checksum(client: tikv.RawClient, c: checks.Checks) -> None:
    """The counts; the sum itself is compared with our own client's."""
    got = client.checksum(c.key("scan_"), c.key("scan_~"))
    checks.same("pairs", got.keys, 20)


async def many_at_once(pd: str, c: checks.Checks) -> None:
    """The asyncio client, with many calls in flight."""
    async with tikv.AsyncRawClient([pd]) as client:
        keys = [c.key(f"many_{i:03}") for i in range(100)]
        await asyncio.gather(*(client.put(key, key) for key in keys))
        checks.same("gets", await asyncio.gather(*(client.get(key) for key in keys)), keys)


def ttl(client: tikv.RawClient, c: checks.Checks) -> None:
    """A long and a short time to live."""
    client.put(c.key("ttl"), b"t", ttl=100)
    left = client.ttl(c.key("ttl"))
    checks.same("TTL between 90 and 100", left is not None and 90 <= left <= 100, True)
    client.put(c.key("ttl_short"), b"t", ttl=1)
    end = time.monotonic() + 5
    while client.get(c.key("ttl_short")) is not None and time.monotonic() < end:
        time.sleep(0.1)
    checks.same("a key with a TTL of 1 s, after 5 s", client.get(c.key("ttl_short")), None)


if __name__ == "__main__":
    checks.run(connect)
