"""Where the time of a get goes: `python benchmarks/profile_get.py [--asyncio] [--calls]`.

Against the neutral server, both on one core. Three views:

* the ladder: the same get by more and more of the client. Each rung adds a layer, and the difference to the rung below
  is what that layer costs, without any profiler's distortion. Rungs run in turns; medians count.
* by package: a profiler's own time in each package of the client and in the system calls. Distorted in favour of long
  functions, but tells where inside a layer to look. With --calls also the functions at the top.
* how many Python functions and built-ins one get calls.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import os
import pstats
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import harness

sys.path.insert(0, str(harness.WORKERS))

import floor
import loop

import pytikv
from pytikv.wire.channel import ClientChannel

_RAW_GET_SLOT = 13
_ROUNDS = 7
_DEADLINE_S = 3600.0

Run = Callable[[int], object]


def _request() -> bytes:
    epoch = floor.field(1, 1) + floor.field(2, 1)
    peer = floor.field(1, 2_000_000_000) + floor.field(2, 1)
    context = floor.field(1, 1_000_000_000) + floor.field(2, epoch) + floor.field(3, peer)
    return floor.field(1, context) + floor.field(2, loop.KEYS[0])


@contextlib.contextmanager
def blocking_rungs(url: str) -> Iterator[dict[str, Run]]:
    """The floor, the channel driven in the calling thread, the client."""
    from pytikv.rt.caller import CallerRuntime

    host, _, port = url.removeprefix("tikv://").rpartition(":")
    sock, frame, answer_length = floor.connect(host, int(port))
    rt, request = CallerRuntime(), _request()
    channel = ClientChannel(rt, address=f"{host}:{port}")

    async def connect() -> None:
        await channel.connect(host, int(port), rt.now() + 5)
        rt.at_call_end(lambda: rt.detach(channel.transport))

    async def nothing() -> None:
        pass

    async def one() -> None:
        rt.attach(channel.transport)
        try:
            await channel.batch(_RAW_GET_SLOT, request, rt.now() + 5)
        finally:
            rt.detach(channel.transport)

    async def many(n: int) -> None:
        rt.attach(channel.transport)
        try:
            deadline = rt.now() + _DEADLINE_S
            for _ in range(n):
                await channel.batch(_RAW_GET_SLOT, request, deadline)
        finally:
            rt.detach(channel.transport)

    def repeat(function: Callable[[], object]) -> Run:
        def run(n: int) -> None:
            for _ in range(n):
                function()

        return run

    rt.run(connect())
    with pytikv.RawClient.connect(url) as client:
        client.batch_put([(key, loop.VALUE) for key in loop.KEYS])

        def get(n: int) -> None:
            for key in loop.take(n):
                client.get(key)

        yield {
            "an empty coroutine, driven": repeat(lambda: rt.run(nothing())),
            "floor": lambda n: floor.exchange(sock, frame, answer_length, n),
            "channel, one call for all": lambda n: rt.run(many(n)),
            "channel, a call each": repeat(lambda: rt.run(one())),
            "client.get": get,
        }
    channel.abort("done")
    sock.close()


@contextlib.contextmanager
def asyncio_rungs(url: str, *, uvloop: bool) -> Iterator[dict[str, Run]]:
    """The channel and the client on asyncio, one by one and with many in flight."""
    from pytikv.rt.aio import AioRuntime

    if uvloop:
        import uvloop as module

        events: asyncio.AbstractEventLoop = module.new_event_loop()
    else:
        events = asyncio.new_event_loop()
    host, _, port = url.removeprefix("tikv://").rpartition(":")
    request = _request()

    async def connect() -> tuple[AioRuntime, ClientChannel, pytikv.AsyncRawClient]:
        rt = AioRuntime()
        channel = ClientChannel(rt, address=f"{host}:{port}")
        await channel.connect(host, int(port), rt.now() + 5)
        client = await pytikv.AsyncRawClient.connect(url)
        await client.batch_put([(key, loop.VALUE) for key in loop.KEYS])
        return rt, channel, client

    rt, channel, client = events.run_until_complete(connect())

    async def bare(_: bytes) -> None:
        await channel.batch(_RAW_GET_SLOT, request, rt.now() + 5)

    def flight(count: int, get: Callable[[bytes], object]) -> Run:
        return lambda n: events.run_until_complete(loop.in_flight(count, n, get))

    async def nothing(_: bytes) -> None:
        pass

    yield {
        "nothing, 64 in flight": flight(64, nothing),
        "channel, one by one": flight(1, bare),
        "client.get, one by one": flight(1, client.get),
        "channel, 64 in flight": flight(64, bare),
        "client.get, 64 in flight": flight(64, client.get),
    }
    events.run_until_complete(client.close())
    events.run_until_complete(channel.close())
    events.close()


def ladder(rungs: dict[str, Run], n: int) -> None:
    """Print microseconds an operation, rung by rung; of the client's processor too, which other load moves less."""
    times: dict[str, list[float]] = {name: [] for name in rungs}
    cpu: dict[str, list[float]] = {name: [] for name in rungs}
    for run in rungs.values():
        run(n // 10)
    for _ in range(_ROUNDS):
        for name, run in rungs.items():
            started, of_client = time.perf_counter(), time.process_time()
            run(n)
            times[name].append((time.perf_counter() - started) / n * 1e6)
            cpu[name].append((time.process_time() - of_client) / n * 1e6)
    for name, values in times.items():
        best = f"(best {min(values):.1f})"
        client = f"client's CPU {statistics.median(cpu[name]):7.1f} us   (best {min(cpu[name]):.1f})"
        print(f"  {name:<34} {statistics.median(values):7.1f} us   {best:<14}   {client}")


def package_of(file: str) -> str:
    """The package that a function belongs to, as the table names it."""
    if "pytikv" in file:
        parts = file.rpartition("pytikv/")[2].split("/")
        return "/".join(parts[:2]) if len(parts) > 1 else parts[0]
    return "built-in and system calls" if file == "~" else Path(file).name


def profiled(name: str, run: Run, n: int, *, calls: bool) -> None:
    """Print the profiler's view of one rung."""
    profiler = cProfile.Profile()
    profiler.enable()
    run(n)
    profiler.disable()
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]  # not in the stubs
    total = sum(own for _, _, own, _, _ in stats.values())
    packages: Counter[str] = Counter()
    python = builtin = 0
    for (file, _, function), (_, count, own, _, _) in stats.items():
        system = file == "~" and any(word in function for word in ("send", "recv", "poll", "select"))
        packages["system calls" if system else package_of(file)] += own
        builtin += count if file == "~" else 0
        python += count if file != "~" else 0
    print(f"\n{name}: {python / n:.1f} Python and {builtin / n:.1f} built-in calls an operation; own time, profiled:")
    for package, seconds in packages.most_common(14):
        print(f"  {package:<34} {seconds / n * 1e6:7.2f} us  {seconds / total:5.1%}")
    if calls:
        print()
        top = sorted(stats.items(), key=lambda item: -item[1][2])[:40]
        for (file, line, function), (_, count, own, _, _) in top:
            short = file.rpartition("pytikv/")[2] if "pytikv" in file else Path(file).name
            where = f"{short}:{line} {function}" if file != "~" else function
            print(f"  {own / n * 1e6:7.2f} us  {count / n:6.2f} calls  {where[:90]}")


def main() -> None:
    """Print the views."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asyncio", action="store_true", help="the asyncio client instead of the blocking one")
    parser.add_argument("--uvloop", action="store_true", help="the asyncio client on uvloop")
    parser.add_argument("--calls", action="store_true", help="also the functions that take most time")
    parser.add_argument("--regions", type=int, default=1)
    parser.add_argument("-n", type=int, default=10_000, help="operations in a round")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})  # the server inherits it
    with harness.neutral_server(regions=arguments.regions) as server:
        url = server.url
        on_asyncio = arguments.asyncio or arguments.uvloop
        made = asyncio_rungs(url, uvloop=arguments.uvloop) if on_asyncio else blocking_rungs(url)
        with made as rungs:
            print(f"load {harness.load()}, commit {harness.commit()}, one core for client and server")
            ladder(rungs, arguments.n)
            name, run = list(rungs.items())[-1]
            profiled(name, run, arguments.n, calls=arguments.calls)


if __name__ == "__main__":
    main()
