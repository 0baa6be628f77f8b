"""Timestamps for blocking threads: each asks for its own, or the holder of the one stream asks for all who wait.

    python benchmarks/probes/combine.py

A process of its own answers after 0, 0.2 and 2 ms, as a PD near and far would. See docs/decisions/0003.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from pytikv.rt.caller import CallerRuntime
from pytikv.rt.shared import Combiner

SECONDS = 1.0
REQUEST = b"0123456789abcdef"


class Answers:
    """Takes answers of 16 bytes in the order of asking."""

    def __init__(self) -> None:
        self.future: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_result(data)

    def connection_lost(self, error: BaseException | None) -> None:
        pass

    def writable(self) -> None:
        pass


class Oracle:
    """One stream: `ask` is entered by one at a time."""

    def __init__(self, rt: CallerRuntime, port: int) -> None:
        self.rt = rt
        self.requests = 0
        self._answers = Answers()
        rt.run(rt.connect("127.0.0.1", port, self._answers, deadline=rt.now() + 5))

    async def ask(self) -> None:
        self.requests += 1
        rt = self.rt
        rt.attach(self._answers.transport)
        self._answers.future = rt.create_future()
        self._answers.transport.write(REQUEST)
        await rt.wait(self._answers.future, rt.now() + 10)
        rt.detach(self._answers.transport)

    async def flush(self, items: list[int]) -> list[int]:
        await self.ask()
        return items


def load(threads: int, get: Callable[[int], Any]) -> tuple[float, float, float]:
    """Run `get` in threads; gives timestamps a second, median and 99th percentile of the latency in milliseconds."""
    latencies: list[list[float]] = [[] for _ in range(threads)]
    stop = threading.Event()

    def work(number: int) -> None:
        while not stop.is_set():
            start = time.perf_counter()
            get(number)
            latencies[number].append(time.perf_counter() - start)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    time.sleep(SECONDS)
    stop.set()
    for worker in workers:
        worker.join()
    merged = sorted(value for values in latencies for value in values)
    return len(merged) / SECONDS, merged[len(merged) // 2] * 1e3, merged[int(len(merged) * 0.99)] * 1e3


def probe(port: int, threads: int) -> None:
    with contextlib.closing(CallerRuntime()) as rt:
        oracles = [Oracle(rt, port) for _ in range(threads)]
        own = load(threads, lambda number: rt.run(oracles[number].ask()))
        report("a stream each", threads, own, sum(oracle.requests for oracle in oracles))

        one, lock = Oracle(rt, port), threading.Lock()

        def locked(_: int) -> None:
            with lock:
                rt.run(one.ask())

        figures = load(threads, locked)
        report("one stream, a lock", threads, figures, one.requests)

        shared = Oracle(rt, port)
        combiner: Combiner[int, int] = Combiner(rt, shared.flush)
        figures = load(threads, lambda number: rt.run(combiner.submit(number, rt.now() + 10)))
        report("one stream, combined", threads, figures, shared.requests)


def report(name: str, threads: int, figures: tuple[float, float, float], requests: int) -> None:
    rate, median, p99 = figures
    latency = f"p50 {median:7.2f} ms  p99 {p99:7.2f} ms"
    print(f"  {threads:3} threads  {name:22} {rate:9.0f}/s  {latency}  {requests:7} requests")


def serve(delay_s: float) -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listening.getsockname()[1], flush=True)

    def answer(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            while data := connection.recv(4096):
                if delay_s:
                    time.sleep(delay_s)
                connection.sendall(data)

    while True:
        threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()


def main() -> None:
    for delay_s in (0.0, 0.0002, 0.002):
        print(f"answers after {delay_s * 1000:g} ms")
        command = [sys.executable, __file__, str(delay_s)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            for threads in (1, 8, 64):
                probe(port, threads)
            process.kill()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(float(sys.argv[1]))
    else:
        main()
