"""The measured client's transactions on asyncio. The argument is the server's URL; `ours_txn.py` wrote the keys."""

from __future__ import annotations

import asyncio
import sys

import loop

import pytikv


def main() -> None:
    """Serve the cases."""
    events = asyncio.new_event_loop()
    db = events.run_until_complete(pytikv.AsyncTransactionClient.connect(sys.argv[1]))

    async def one_by_one(n: int) -> None:
        for size in loop.passes(n):
            snapshot = db.snapshot(await db.current_timestamp())
            for key in loop.take(size):
                await snapshot.get(key)

    async def gets(n: int) -> None:
        for size in loop.passes(n):
            snapshot = db.snapshot(await db.current_timestamp())
            await loop.in_flight(loop.IN_FLIGHT, size, snapshot.get)

    async def large(n: int) -> None:
        for number in range(n):
            async with db.begin() as txn:
                for key, value in loop.pairs_of_a_transaction(number).items():
                    await txn.put(key, value)

    async def small(n: int) -> None:
        async def write(key: bytes) -> None:
            async with db.begin() as txn:
                await txn.put(key, loop.VALUE)

        await loop.in_flight(loop.IN_FLIGHT, n, write)

    async def begins(n: int) -> None:
        async def one() -> None:
            await (await db.begin()).rollback()

        await asyncio.gather(*(one() for _ in range(n)))

    bodies = {
        "get": one_by_one,
        "get_async": gets,
        "large_async": large,
        "small_async": small,
        "begins": begins,
    }
    cases = {name: lambda n, body=body: events.run_until_complete(body(n)) for name, body in bodies.items()}
    loop.serve(cases, version=pytikv.__version__)


if __name__ == "__main__":
    main()
