"""kill -9 while clients write: whatever was acknowledged is there after the restart, whole, with its latest value.

Writers run at once, each over keys of its own, with single puts, batches, deletes and compare-and-swaps; regions split
meanwhile. A writer knows for each key what was acknowledged last and what it had asked for since: after the restart
the key must show one of these. Rounds go on with the same directory, so that recovery meets what recovery left.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable

import pytest

import pytikv
from pytikv.errors import TikvError

pytestmark = pytest.mark.process

WRITERS = 8
KEYS = 40
ROUNDS = 5


class Writer:
    """Writes to its own keys and keeps account. `possible`: the values that a key may show."""

    def __init__(self, number: int, seed: int) -> None:
        self.prefix = b"w%02d/" % number
        self.rng = random.Random(seed * 1000 + number)
        self.possible: dict[bytes, set[bytes | None]] = {self.key(i): {None} for i in range(KEYS)}
        self.acknowledged = 0
        self.serial = 0

    def key(self, i: int) -> bytes:
        return self.prefix + b"%03d" % i

    def value(self) -> bytes:
        self.serial += 1
        return b"%08d" % self.serial + b"x" * self.rng.choice([0, 10, 1000])

    async def run(self, kv: pytikv.AsyncRawClient, count: Callable[[], None]) -> None:
        """Write until the server is gone; `count` is called after each acknowledgement."""
        while True:
            keys = self.rng.sample(sorted(self.possible), self.rng.choice([1, 1, 1, 10]))
            deletes = self.rng.random() < 0.1
            wanted: dict[bytes, bytes | None] = {key: None if deletes else self.value() for key in keys}
            for key, value in wanted.items():
                self.possible[key].add(value)
            try:
                await self.write(kv, wanted)
            except TikvError:
                return
            for key, value in wanted.items():
                self.possible[key] = {value}
            self.acknowledged += len(wanted)
            count()

    async def write(self, kv: pytikv.AsyncRawClient, wanted: dict[bytes, bytes | None]) -> None:
        puts = {key: value for key, value in wanted.items() if value is not None}
        if len(puts) > 1:
            await kv.batch_put(puts)
        elif puts:
            await kv.put(*next(iter(puts.items())))
        else:
            await kv.batch_delete(list(wanted))

    async def check(self, kv: pytikv.AsyncRawClient) -> None:
        """Compare what is there with what may be; from then on it is what is there."""
        found = await kv.batch_get(list(self.possible))
        for key, possible in self.possible.items():
            value = found.get(key)
            assert value in possible, f"{key!r}: acknowledged writes are gone, or unasked ones are there"
            self.possible[key] = {value}


@pytest.mark.parametrize("api_version", ["1", "2"])
def test_everything_acknowledged_is_there(start_server, tmp_path, api_version):
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    writers = [Writer(number, seed) for number in range(WRITERS)]

    async def one_round(number: int) -> None:
        server = start_server(path=str(tmp_path / "data"), api_version=api_version, region_split_keys=100)
        options = {"api_version": int(api_version), "timeout": 3.0, "retry_lost_writes": False}
        async with await pytikv.AsyncRawClient.connect(server.url, **options) as kv:
            for writer in writers:
                await writer.check(kv)
            if number == ROUNDS:
                server.send(signal.SIGTERM)
                assert await asyncio.to_thread(server.wait) == 0
                return
            wanted = sum(writer.acknowledged for writer in writers) + rng.randrange(50, 800)
            enough = asyncio.Event()

            def count() -> None:
                if sum(writer.acknowledged for writer in writers) >= wanted:
                    enough.set()

            tasks = [asyncio.ensure_future(writer.run(kv, count)) for writer in writers]
            await enough.wait()
            await asyncio.to_thread(server.kill)
            for task in tasks:
                task.cancel()  # what they wait for will not come
            await asyncio.gather(*tasks, return_exceptions=True)

    for number in range(ROUNDS + 1):
        asyncio.run(asyncio.wait_for(one_round(number), 60))
    assert sum(writer.acknowledged for writer in writers) > 50 * ROUNDS
