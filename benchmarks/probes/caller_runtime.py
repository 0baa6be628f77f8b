"""What the caller-driven runtime costs, against a bare socket and against a loop thread behind a blocking facade.

    python benchmarks/probes/caller_runtime.py

Figures are the best of rounds that take turns, in microseconds a call: what else runs on the machine disturbs them
least. See docs/decisions/0001.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from echo_server import echo_server

from pytikv.rt.aio import AioRuntime
from pytikv.rt.caller import CallerRuntime

MESSAGE = b"x" * 100
ROUNDS, CALLS = 7, 2000


class Client:
    """One answer at a time."""

    future: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.future.set_result(data)

    def connection_lost(self, error: BaseException | None) -> None:
        pass

    def writable(self) -> None:
        pass


async def echo(rt: Any, client: Client) -> bytes:
    rt.attach(client.transport)
    client.future = rt.create_future()
    client.transport.write(MESSAGE)
    answer = await rt.wait(client.future, rt.now() + 10)
    rt.detach(client.transport)
    return bytes(answer)


async def nothing() -> int:
    return 1


def measure(ways: dict[str, Callable[[], Any]], calls: int = CALLS) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            for _ in range(calls):
                way()
            times[name].append((time.perf_counter() - start) / calls * 1e6)
    return {name: min(values) for name, values in times.items()}


def show(title: str, figures: dict[str, float]) -> None:
    print(title)
    for name, value in figures.items():
        print(f"  {name:44} {value:8.2f} us")


def main() -> None:
    with echo_server() as port, contextlib.closing(CallerRuntime()) as rt:
        raw = socket.create_connection(("127.0.0.1", port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def bare() -> None:
            raw.send(MESSAGE)
            raw.recv(65536)

        client = Client()
        rt.run(rt.connect("127.0.0.1", port, client, deadline=rt.now() + 5))

        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        other = AioRuntime(loop)
        behind = Client()

        def on_loop(coroutine: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

        on_loop(other.connect("127.0.0.1", port, behind, deadline=other.now() + 5))

        show("a coroutine that never waits", measure({"run": lambda: rt.run(nothing())}, 50_000))
        ways = {
            "bare socket": bare,
            "caller-driven": lambda: rt.run(echo(rt, client)),
            "loop thread behind a facade": lambda: on_loop(echo(other, behind)),
        }
        show("echo of 100 bytes", measure(ways))
        stop = threading.Event()

        def busy() -> None:
            while not stop.is_set():
                sum(range(100))

        spinner = threading.Thread(target=busy)
        spinner.start()
        show("the same beside a thread that computes", measure(ways, 30))
        stop.set()
        spinner.join()
        raw.close()
        loop.call_soon_threadsafe(behind.transport.abort)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


if __name__ == "__main__":
    main()
