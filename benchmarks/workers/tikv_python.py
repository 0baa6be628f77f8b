"""The peer `tikv-python`: blocking, asyncio and threads.

Runs in the peers' own environment; the argument is `HOST:PORT` of PD.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import loop
import tikv


def main() -> None:
    """Serve the cases."""
    client = tikv.RawClient([sys.argv[1]])
    events = asyncio.new_event_loop()
    twin = events.run_until_complete(_connect())

    def get(n: int) -> None:
        for key in loop.take(n):
            client.get(key)

    def put(n: int) -> None:
        for key in loop.take(n):
            client.put(key, loop.VALUE)

    def batch_get(n: int) -> None:
        for keys in loop.batches(n):
            client.get_many(keys)

    def batch_put(n: int) -> None:
        for keys in loop.batches(n):
            client.put_many(dict.fromkeys(keys, loop.VALUE))

    def get_async(n: int) -> None:
        events.run_until_complete(loop.in_flight(loop.IN_FLIGHT, n, twin.get))

    assert client.get(loop.KEYS[0]) == loop.VALUE
    loop.serve(
        {
            "get": get,
            "put": put,
            "batch_get": batch_get,
            "batch_put": batch_put,
            "get_async": get_async,
            "get_threads": lambda n: loop.in_threads(loop.THREADS, n, client.get),
            "idle": loop.idle,
        },
        version=tikv.__version__,
    )


async def _connect() -> Any:
    return await tikv.AsyncRawClient([sys.argv[1]]).__aenter__()


if __name__ == "__main__":
    main()
