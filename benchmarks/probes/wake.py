"""Waking a thread that polls its sockets; taking over from a lost leader; threads and asyncio waiting for one thing.

    python benchmarks/probes/wake.py

See docs/decisions/0002.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pytikv.rt.aio import AioRuntime
from pytikv.rt.caller import CallerRuntime
from pytikv.rt.shared import SharedFuture, SingleFlight

ROUNDS = 3000


def ping_pong(wait_a: Callable[[], Any], wake_a: Callable[[], Any], wait_b: Any, wake_b: Any) -> float:
    """Let two threads wake each other in turn; microseconds one way."""

    def other() -> None:
        for _ in range(ROUNDS):
            wait_b()
            wake_a()

    thread = threading.Thread(target=other)
    thread.start()
    start = time.perf_counter()
    for _ in range(ROUNDS):
        wake_b()
        wait_a()
    thread.join()
    return (time.perf_counter() - start) / ROUNDS / 2 * 1e6


class Polled:
    """A wake-up by descriptor, polled beside `sockets` idle sockets."""

    def __init__(self, kind: str, sockets: int) -> None:
        self.idle = [socket.socketpair() for _ in range(sockets)]
        self.poller = select.poll()
        for near, _ in self.idle:
            self.poller.register(near.fileno(), select.POLLIN)
        if kind == "eventfd":
            fd = os.eventfd(0)
            self.wake: Callable[[], Any] = lambda: os.eventfd_write(fd, 1)
            self.clear: Callable[[], Any] = lambda: os.eventfd_read(fd)
        elif kind == "pipe":
            fd, out = os.pipe()
            self.wake = lambda: os.write(out, b"x")
            self.clear = lambda: os.read(fd, 64)
        else:
            near, far = socket.socketpair()
            self.pair = (near, far)
            fd = near.fileno()
            self.wake = lambda: far.send(b"x")
            self.clear = lambda: near.recv(64)
        self.poller.register(fd, select.POLLIN)

    def wait(self) -> None:
        self.poller.poll(1000)
        self.clear()


def by_descriptor(kind: str, sockets: int) -> float:
    a, b = Polled(kind, sockets), Polled(kind, sockets)
    return ping_pong(a.wait, a.wake, b.wait, b.wake)


def by_lock() -> float:
    a, b = threading.Lock(), threading.Lock()
    a.acquire()
    b.acquire()
    return ping_pong(lambda: a.acquire(timeout=1), a.release, lambda: b.acquire(timeout=1), b.release)


def by_polling_a_flag(pause_s: float) -> float:
    """The way without a descriptor: look again every so often. Mean delay of a wake-up."""
    delays: list[float] = []
    for _ in range(30):
        flag: list[float] = []
        timer = threading.Timer(0.01, lambda flag=flag: flag.append(time.perf_counter()))
        timer.start()
        while not flag:
            time.sleep(pause_s)
        delays.append(time.perf_counter() - flag[0])
        timer.join()
    return statistics.mean(delays) * 1e6


def by_shared_future(rt: CallerRuntime) -> float:
    cells = [(SharedFuture[None](), SharedFuture[None]()) for _ in range(ROUNDS)]
    turns = iter(cells)
    other_turns = iter(cells)
    present: list[Any] = [None, None]

    async def wait(future: SharedFuture[None]) -> None:
        await rt.wait(future, rt.now() + 10)

    def wake_b() -> None:
        present[0] = next(turns)
        present[0][0].set_result(None)

    def wait_b() -> None:
        present[1] = next(other_turns)
        rt.run(wait(present[1][0]))

    return ping_pong(lambda: rt.run(wait(present[0][1])), lambda: present[1][1].set_result(None), wait_b, wake_b)


def takeover(rt: CallerRuntime, followers: int, *, by_ctrl_c: bool) -> float:
    """Milliseconds from the leader's end until all followers have the value."""
    flights = SingleFlight(rt)
    leading = threading.Event()
    ended: list[float] = []

    async def endless() -> str:
        leading.set()
        await rt.sleep(60)
        return "never"

    async def load() -> str:
        return "loaded"

    def follow() -> None:
        leading.wait()
        assert rt.run(flights.run("key", load, rt.now() + 30)) == "loaded"
        ended.append(time.perf_counter())

    threads = [threading.Thread(target=follow) for _ in range(followers)]
    for thread in threads:
        thread.start()
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    if by_ctrl_c:
        threading.Timer(0.2, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
    with contextlib.suppress(TimeoutError, KeyboardInterrupt):
        rt.run(flights.run("key", endless, rt.now() + (60 if by_ctrl_c else 0.2)))
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return max(0.0, (max(ended) - start) * 1e3)


def mixed(rt: CallerRuntime, threads: int, tasks: int) -> float:
    """Threads and asyncio tasks wait for one lock's release: milliseconds until the last has it."""
    shared = SharedFuture[float]()
    there = threading.Semaphore(0)
    seen: list[float] = []

    async def wait(runtime: Any) -> None:
        there.release()
        await runtime.wait(shared, runtime.now() + 30)
        seen.append(time.perf_counter())

    async def on_asyncio() -> None:
        runtime = AioRuntime()
        await runtime.gather(*(wait(runtime) for _ in range(tasks)))

    workers = [threading.Thread(target=lambda: rt.run(wait(rt))) for _ in range(threads)]
    workers.append(threading.Thread(target=lambda: asyncio.run(on_asyncio())))
    for worker in workers:
        worker.start()
    for _ in range(threads + tasks):
        there.acquire()
    time.sleep(0.05)
    start = time.perf_counter()
    shared.set_result(start)
    for worker in workers:
        worker.join()
    return (max(seen) - start) * 1e3


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("one wake-up, microseconds, the best of seven")
    ways: dict[str, Callable[[], float]] = {
        f"poll over {sockets} sockets and {kind:12}": partial(by_descriptor, kind, sockets)
        for sockets in (0, 3)
        for kind in ("eventfd", "pipe", "socketpair")
    }
    ways["lock, no sockets                  "] = by_lock
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(7):
        for name, way in ways.items():
            times[name].append(way())
    for name, values in times.items():
        print(f"  {name} {min(values):9.1f}")
    print(f"  looking again every millisecond    {by_polling_a_flag(0.001):9.1f}")
    with contextlib.closing(CallerRuntime()) as rt:
        print(f"  SharedFuture between two calls     {min(by_shared_future(rt) for _ in range(7)):9.1f}")
        print("a leader is lost, milliseconds until all followers have the value")
        for followers in (1, 63):
            print(f"  deadline, {followers:2} followers             {takeover(rt, followers, by_ctrl_c=False):9.2f}")
            print(f"  Ctrl-C,   {followers:2} followers             {takeover(rt, followers, by_ctrl_c=True):9.2f}")
        print("one lock waited for by threads and asyncio, milliseconds until the last has it")
        for threads, tasks in ((1, 1), (8, 8), (32, 32)):
            print(f"  {threads:2} threads and {tasks:2} tasks            {mixed(rt, threads, tasks):9.2f}")


if __name__ == "__main__":
    main()
