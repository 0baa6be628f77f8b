"""The measured client on asyncio (`uvloop` as second argument: on uvloop). The first argument is the server's URL."""

from __future__ import annotations

import asyncio
import sys

import loop

import pytikv


def main() -> None:
    """Serve the cases; `load` writes the keys that all workers read."""
    if "uvloop" in sys.argv[2:]:
        import uvloop

        events: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    else:
        events = asyncio.new_event_loop()
    client = events.run_until_complete(pytikv.AsyncRawClient.connect(sys.argv[1]))

    async def one_by_one(n: int) -> None:
        for key in loop.take(n):
            await client.get(key)

    async def load() -> None:
        await client.batch_put([(key, loop.VALUE) for key in loop.KEYS])
        values = await asyncio.gather(*(client.get(key) for key in loop.KEYS))
        assert values == [loop.VALUE] * len(loop.KEYS)

    def flight(count: int) -> loop.Case:
        return lambda n: events.run_until_complete(loop.in_flight(count, n, client.get))

    events.run_until_complete(load())
    loop.serve(
        {
            "get": lambda n: events.run_until_complete(one_by_one(n)),
            "get_async": flight(loop.IN_FLIGHT),
            "get_async_256": flight(256),
            "idle": lambda n: events.run_until_complete(asyncio.sleep(n)),
        },
        version=pytikv.__version__,
    )


if __name__ == "__main__":
    main()
