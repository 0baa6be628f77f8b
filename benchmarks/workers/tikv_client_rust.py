"""The peer `tikv-client` (a binding of the Rust client): blocking (in one thread only) and asyncio.

Runs in the peers' own environment; the argument is `HOST:PORT` of PD.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import sys

import loop
from tikv_client import RawClient, asynchronous


def main() -> None:
    """Serve the cases."""
    events = asyncio.new_event_loop()
    asyncio.set_event_loop(events)  # the blocking client asks for the thread's loop at each call
    client = RawClient.connect([sys.argv[1]])
    twin = events.run_until_complete(asynchronous.RawClient.connect([sys.argv[1]]))

    def get(n: int) -> None:
        for key in loop.take(n):
            client.get(key)

    def put(n: int) -> None:
        for key in loop.take(n):
            client.put(key, loop.VALUE)

    def batch_get(n: int) -> None:
        for keys in loop.batches(n):
            client.batch_get(keys)

    def batch_put(n: int) -> None:
        for keys in loop.batches(n):
            client.batch_put(dict.fromkeys(keys, loop.VALUE))

    def get_async(n: int) -> None:
        events.run_until_complete(loop.in_flight(loop.IN_FLIGHT, n, twin.get))

    assert client.get(loop.KEYS[0]) == loop.VALUE
    cases = {
        "get": get,
        "put": put,
        "batch_get": batch_get,
        "batch_put": batch_put,
        "get_async": get_async,
        "idle": loop.idle,
    }
    loop.serve(cases, version=importlib.metadata.version("tikv-client"))


if __name__ == "__main__":
    main()
