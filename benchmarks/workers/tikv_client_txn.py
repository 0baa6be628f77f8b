"""The peer `tikv-client`'s transactions: blocking (in one thread only) and asyncio.

Runs in the peers' own environment; the argument is `HOST:PORT` of PD. It has no options: its optimistic transactions
are what its `begin` makes of them.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import sys

import loop
from tikv_client import TransactionClient, asynchronous


def main() -> None:
    """Serve the cases."""
    events = asyncio.new_event_loop()
    asyncio.set_event_loop(events)  # the blocking client asks for the thread's loop at each call
    client = TransactionClient.connect([sys.argv[1]])
    twin = events.run_until_complete(asynchronous.TransactionClient.connect([sys.argv[1]]))

    def get(n: int) -> None:
        for size in loop.passes(n):
            snapshot = client.snapshot(client.current_timestamp(), False)
            for key in loop.take(size):
                snapshot.get(key)

    async def gets(n: int) -> None:
        for size in loop.passes(n):
            snapshot = twin.snapshot(await twin.current_timestamp(), False)
            await loop.in_flight(loop.IN_FLIGHT, size, snapshot.get)

    def large(n: int) -> None:
        for number in range(n):
            txn = client.begin()
            for key, value in loop.pairs_of_a_transaction(number).items():
                txn.put(key, value)
            txn.commit()

    async def large_async(n: int) -> None:
        for number in range(n):
            txn = await twin.begin()
            for key, value in loop.pairs_of_a_transaction(number).items():
                await txn.put(key, value)
            await txn.commit()

    def small(n: int) -> None:
        for key in loop.take(n):
            txn = client.begin()
            txn.put(key, loop.VALUE)
            txn.commit()

    def batch_get(n: int) -> None:
        keys = [loop.key_of(i) for i in range(loop.TXN_KEYS)]
        for _ in range(n):
            assert len(client.snapshot(client.current_timestamp(), False).batch_get(keys)) == len(keys)

    loop.serve(
        {
            "get": get,
            "get_async": lambda n: events.run_until_complete(gets(n)),
            "large": large,
            "large_async": lambda n: events.run_until_complete(large_async(n)),
            "small": small,
            "batch_get": batch_get,
        },
        version=importlib.metadata.version("tikv-client"),
    )


if __name__ == "__main__":
    main()
