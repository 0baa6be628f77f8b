"""What leasing a connection for one call costs, and what the alternatives would.

    python benchmarks/probes/leases.py

See docs/decisions/0004.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time

from caller_runtime import MESSAGE, Client, echo, measure, show
from echo_server import echo_server

from pytikv.rt.caller import CallerRuntime


async def echo_kept(rt: CallerRuntime, client: Client) -> None:
    """As `echo`, with the end of the lease left to the end of the call."""
    rt.attach(client.transport)
    client.future = rt.create_future()
    client.transport.write(MESSAGE)
    await rt.wait(client.future, rt.now() + 10)


async def many(rt: CallerRuntime, client: Client, count: int) -> None:
    """Several requests under one lease."""
    rt.attach(client.transport)
    for _ in range(count):
        client.future = rt.create_future()
        client.transport.write(MESSAGE)
        await rt.wait(client.future, rt.now() + 10)


async def connect_each_time(rt: CallerRuntime, port: int) -> None:
    client = Client()
    await rt.connect("127.0.0.1", port, client, deadline=rt.now() + 5)
    client.future = rt.create_future()
    client.transport.write(MESSAGE)
    await rt.wait(client.future, rt.now() + 10)
    client.transport.close()


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    with echo_server() as port, contextlib.closing(CallerRuntime()) as rt:
        raw = socket.create_connection(("127.0.0.1", port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client()
        rt.run(rt.connect("127.0.0.1", port, client, deadline=rt.now() + 5))

        def bare() -> None:
            raw.send(MESSAGE)
            raw.recv(65536)

        figures = measure(
            {
                "bare socket": bare,
                "leased for the call, given back by hand": lambda: rt.run(echo(rt, client)),
                "leased, given back by the call's end": lambda: rt.run(echo_kept(rt, client)),
            }
        )
        figures |= {
            "leased once for 100 requests, each": measure({"": lambda: rt.run(many(rt, client, 100))}, 30)[""] / 100
        }
        figures |= measure({"connected anew for each call": lambda: rt.run(connect_each_time(rt, port))}, 200)
        show("echo of 100 bytes", figures)

        def take_and_give() -> None:
            rt.run(lease_only(rt, client))

        show("lease alone", measure({"attach and detach in a call": take_and_give}, 20_000))

        clients = [Client() for _ in range(64)]
        for other in clients:
            rt.run(rt.connect("127.0.0.1", port, other, deadline=rt.now() + 5))
        keeper = rt._housekeeper
        while len(keeper.loop.parked) < 65:  # all parked, after a second
            time.sleep(0.05)
        before = processor_seconds()
        time.sleep(10)
        print(f"65 idle connections, 10 s: {(processor_seconds() - before) * 1e3:.2f} ms of processor time")
        threads = [thread.name for thread in threading.enumerate()]
        print(f"threads: {threads}")
        start = time.perf_counter()
        rt.run(echo(rt, clients[0]))
        print(f"first call on a parked connection: {(time.perf_counter() - start) * 1e6:.0f} us")
        raw.close()


async def lease_only(rt: CallerRuntime, client: Client) -> None:
    rt.attach(client.transport)
    rt.detach(client.transport)


if __name__ == "__main__":
    main()
