"""Runs `tikv-client`, the binding of an older client-rust, against a server. It has no TTL and no compare-and-swap."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Mapping

import checks
from tikv_client import RawClient, asynchronous


def connect(arguments: argparse.Namespace) -> tuple[checks.Peer, Mapping[str, Callable[[checks.Checks], None]]]:
    """Make the client; its blocking calls run the thread's event loop."""
    asyncio.set_event_loop(asyncio.new_event_loop())
    client = RawClient.connect([arguments.pd])
    peer = checks.Peer(
        get=client.get,
        put=client.put,
        delete=client.delete,
        batch_get=lambda keys: dict(client.batch_get(keys)),
        batch_put=client.batch_put,
        batch_delete=client.batch_delete,
        scan=client.scan,
        delete_range=client.delete_range,
    )
    return peer, {"asyncio": lambda c: asyncio.get_event_loop().run_until_complete(many_at_once(arguments.pd, c))}


async def many_at_once(pd: str, c: checks.Checks) -> None:
    """The asyncio client, with many calls in flight."""
    client = await asynchronous.RawClient.connect([pd])
    keys = [c.key(f"many_{i:03}") for i in range(100)]
    await asyncio.gather(*(client.put(key, key) for key in keys))
    checks.same("gets", await asyncio.gather(*(client.get(key) for key in keys)), keys)


if __name__ == "__main__":
    checks.run(connect)
