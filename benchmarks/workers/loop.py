"""The loop of a worker: a child process that holds one client open and runs rounds of a case when told.

A worker is started with the server's URL (or a path) as its only argument. It prints one JSON line when it is ready
(`{"ready": ..., "cases": [...]}`), then answers each JSON line on standard input (`{"case": "get", "n": 1000}`) with
one on standard output: `{"n": ..., "seconds": wall, "cpu_seconds": of this process}` or `{"error": ...}`. It ends at
the end of input, by `os._exit`: one of the peers crashes in the interpreter's tear-down.

Standard library only and no import of the measured package: the peers run this file in an environment of their own.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

KEY_COUNT = 10_000
"""Keys that the point cases read; the coordinator's worker of the measured client writes them."""
KEY_STRIDE = 100_000_000 // KEY_COUNT
VALUE = bytes(random.Random(1).randbytes(100))
BATCH = 100
TXN_KEYS = 1_000
"""Keys of a large transaction, and of a batch over regions."""
IN_FLIGHT = 64
THREADS = 16
BEGIN_THREADS = 100

Case = Callable[[int], Any]


def key_of(i: int) -> bytes:
    """The i-th key; the keys spread evenly over the regions that the neutral server makes."""
    return b"bench_%08d" % (i % KEY_COUNT * KEY_STRIDE)


def shuffled_keys() -> list[bytes]:
    """All keys in one random order, the same in every process."""
    keys = [key_of(i) for i in range(KEY_COUNT)]
    random.Random(7).shuffle(keys)
    return keys


KEYS = shuffled_keys()


def take(n: int) -> Iterator[bytes]:
    """`n` keys, going round."""
    return itertools.islice(itertools.cycle(KEYS), n)


def passes(n: int) -> Iterator[int]:
    """`n` in parts of at most all keys: a snapshot that reads no key twice cannot answer from what it has read."""
    for done in range(0, n, KEY_COUNT):
        yield min(KEY_COUNT, n - done)


def batches(n: int) -> Iterator[list[bytes]]:
    """`n` batches of `BATCH` keys."""
    keys = itertools.cycle(KEYS)
    return (list(itertools.islice(keys, BATCH)) for _ in range(n))


def pairs_of_a_transaction(number: int) -> dict[bytes, bytes]:
    """What the `number`-th large transaction writes: the same keys, all of one region, other values."""
    value = b"%010d" % number + VALUE[10:]
    return {key_of(i): value for i in range(TXN_KEYS)}


def in_threads(count: int, n: int, get: Callable[[bytes], Any]) -> float:
    """Call `get` n times from `count` threads at once; answers the seconds from the common start to the last end."""
    barrier = threading.Barrier(count + 1)
    failures: list[BaseException] = []

    def body() -> None:
        keys = list(take(n // count))
        random.shuffle(keys)
        barrier.wait()
        try:
            for key in keys:
                get(key)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=body) for _ in range(count)]
    for thread in threads:
        thread.start()
    barrier.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    if failures:
        raise failures[0]
    return seconds


async def in_flight(count: int, n: int, get: Callable[[bytes], Any]) -> None:
    """Await `get` n times, `count` at once."""
    import asyncio

    keys = take(n)

    async def body() -> None:
        for key in keys:
            await get(key)

    await asyncio.gather(*(body() for _ in range(count)))


def idle(seconds: int) -> None:
    """Do nothing."""
    time.sleep(seconds)


def serve(cases: Mapping[str, Case], **about: Any) -> None:
    """Answer rounds until standard input ends, then end the process. A case may answer seconds of its own."""
    print(json.dumps({"ready": True, "cases": list(cases), **about}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        gc.collect()
        cpu, started = time.process_time(), time.perf_counter()
        try:
            measured = cases[request["case"]](request["n"])
        except Exception as error:
            words = " ".join(str(error).split())
            answer: dict[str, Any] = {"error": f"{type(error).__name__}: {words}"[:500]}
        else:
            seconds = time.perf_counter() - started
            cpu = time.process_time() - cpu
            if isinstance(measured, float):
                seconds = measured
            answer = {"n": request["n"], "seconds": seconds, "cpu_seconds": cpu}
        print(json.dumps(answer), flush=True)
    os._exit(0)
