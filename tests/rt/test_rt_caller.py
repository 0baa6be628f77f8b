"""What only the blocking runtime has: calls, leases, the housekeeper, many threads, fork."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from pytikv.errors import ClientClosed, InvalidArgument
from pytikv.rt import housekeeper
from pytikv.rt.caller import CallerRuntime
from pytikv.rt.shared import SharedFuture


def eventually(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait until another thread has made `condition` true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


async def returns(value: Any) -> Any:
    return value


# --- calls ------------------------------------------------------------------------------------------------------------


def test_call_that_never_waits(caller: CallerRuntime) -> None:
    assert caller.run(returns(3)) == 3
    assert caller.run(returns(4)) == 4


def test_nested_call_is_refused(caller: CallerRuntime) -> None:
    async def outer() -> str:
        inner = returns(1)
        with pytest.raises(InvalidArgument, match="inside another"):
            caller.run(inner)
        assert inner.cr_frame is None  # closed: no complaint about a coroutine never awaited
        return "went on"

    assert caller.run(outer()) == "went on"
    assert caller.run(returns(5)) == 5


def test_nested_call_of_another_runtime(caller: CallerRuntime) -> None:
    async def outer() -> int:
        with contextlib.closing(CallerRuntime()) as other:
            return other.run(returns(1)) + 1

    assert caller.run(outer()) == 2


def test_beside_a_running_asyncio_loop(caller: CallerRuntime, kit: Any, echo_port: int) -> None:
    async def main() -> bytes:
        return echo_once(caller, kit, echo_port, b"hello")

    assert asyncio.run(main()) == b"hello"


def test_used_after_close() -> None:
    rt = CallerRuntime()
    rt.close()
    rt.close()
    for use in (lambda: rt.run(returns(1)), lambda: rt.spawn(returns(1), name="x")):
        with pytest.raises(ClientClosed, match="closed"):
            use()


def test_call_under_way_survives_close(kit: Any, echo_port: int) -> None:
    rt = CallerRuntime()
    collector = kit.Collector(rt)

    async def call() -> bytes:
        await rt.connect("127.0.0.1", echo_port, collector, deadline=rt.now() + 5)
        closer = threading.Thread(target=rt.close)
        closer.start()
        closer.join()
        await rt.sleep(0.001)
        collector.transport.write(b"still")
        return bytes(await collector.receive(5))

    assert rt.run(call()) == b"still"
    assert len(collector.lost) == 1  # closed at the end of the call


def test_waiting_for_nobody_is_an_error_not_a_hang(caller: CallerRuntime) -> None:
    async def waits() -> None:
        await caller.wait(caller.create_future(), None)

    with pytest.raises(RuntimeError, match="nobody"):
        caller.run(waits())
    assert caller.run(returns(1)) == 1


def test_foreign_awaitable_is_an_error(caller: CallerRuntime) -> None:
    async def waits() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="nothing of this runtime"):
        caller.run(waits())


def test_ends_of_calls(caller: CallerRuntime, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    async def call() -> None:
        caller.at_call_end(lambda: seen.append("first registered"))
        caller.at_call_end(lambda: 1 / 0)
        caller.at_call_end(lambda: seen.append("last registered"))
        scope = caller.call_scope()
        assert scope == {}
        scope["a"] = 1
        raise ValueError("in the call")

    with pytest.raises(ValueError, match="in the call"):
        caller.run(call())
    assert seen == ["last registered", "first registered"]
    assert "division" in caplog.text

    async def next_call() -> None:
        assert caller.call_scope() == {}

    caller.run(next_call())


def test_outside_of_calls(caller: CallerRuntime) -> None:
    with pytest.raises(RuntimeError, match="inside"):
        caller.call_soon(lambda: None)


def test_listening_is_refused(caller: CallerRuntime) -> None:
    with pytest.raises(NotImplementedError):
        caller.run(caller.listen("127.0.0.1", 0, object))  # type: ignore[arg-type]  # never called


# --- leases -----------------------------------------------------------------------------------------------------------


def echo_once(rt: CallerRuntime, kit: Any, port: int, text: bytes) -> bytes:
    async def call() -> bytes:
        collector = kit.Collector(rt)
        transport = await rt.connect("127.0.0.1", port, collector, deadline=rt.now() + 5)
        transport.write(text)
        answer = await collector.receive(len(text))
        transport.close()
        return bytes(answer)

    return bytes(rt.run(call()))


def connected(rt: CallerRuntime, kit: Any, port: int) -> Any:
    """Connect in a call of its own; the transport is nobody's afterwards."""
    collector = kit.Collector(rt)

    async def call() -> None:
        await rt.connect("127.0.0.1", port, collector, deadline=rt.now() + 5)

    rt.run(call())
    return collector


async def echo(rt: CallerRuntime, collector: Any, text: bytes) -> None:
    rt.attach(collector.transport)
    collector.transport.write(text)
    assert await collector.receive(len(text)) == text
    rt.detach(collector.transport)


def test_transport_goes_from_call_to_call_and_thread_to_thread(caller: CallerRuntime, kit: Any, echo_port: int) -> None:
    collector = connected(caller, kit, echo_port)
    assert collector.transport.home is None
    caller.run(echo(caller, collector, b"here"))
    thread = threading.Thread(target=lambda: caller.run(echo(caller, collector, b"there")))
    thread.start()
    thread.join()
    caller.run(echo(caller, collector, b"here again"))


def test_leased_transport_cannot_be_leased_again(caller: CallerRuntime, kit: Any, echo_port: int) -> None:
    collector = connected(caller, kit, echo_port)
    seen: list[str] = []

    async def other() -> None:
        with pytest.raises(RuntimeError, match="leased"):
            caller.attach(collector.transport)
        caller.detach(collector.transport)  # not ours: without effect
        seen.append("refused")

    async def call() -> None:
        caller.attach(collector.transport)
        caller.attach(collector.transport)
        thread = threading.Thread(target=lambda: caller.run(other()))
        thread.start()
        thread.join()
        await echo(caller, collector, b"mine")

    caller.run(call())
    assert seen == ["refused"]


def test_error_in_a_call_gives_its_transports_back(caller: CallerRuntime, kit: Any, echo_port: int) -> None:
    collector = connected(caller, kit, echo_port)

    async def call() -> None:
        caller.attach(collector.transport)
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # made three lines above
        caller.run(call())
    caller.run(echo(caller, collector, b"again"))


def test_end_of_an_idle_connection_is_seen_before_its_use(caller: CallerRuntime, kit: Any) -> None:
    with kit.serving(kit.Echo) as port:
        collector = connected(caller, kit, port)
    collector.transport.idle_since -= 0.5  # it sat for long enough to be looked at, not long enough to be parked

    async def call() -> None:
        caller.attach(collector.transport)
        assert len(collector.lost) == 1

    caller.run(call())


# --- the housekeeper --------------------------------------------------------------------------------------------------


class PingServer:
    """Sends `ping` to every connection when one of them says `all`; counts the answers."""

    def __init__(self) -> None:
        self.transports: list[Any] = []
        self.pongs = 0

    def protocol(self) -> Any:
        return PingServerSide(self)


class PingServerSide:
    def __init__(self, server: PingServer) -> None:
        self._server = server

    def connection_made(self, transport: Any) -> None:
        self._server.transports.append(transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if data == b"all":
            for transport in self._server.transports:
                if transport is not self._transport:
                    transport.write(b"ping")
        elif data == b"pong":
            self._server.pongs += 1
        else:
            self._transport.write(data)

    def connection_lost(self, error: BaseException | None) -> None:
        self._server.transports.remove(self._transport)

    def writable(self) -> None:
        pass


class PingClientSide:
    def __init__(self) -> None:
        self.threads: list[str] = []
        self.lost = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert data == b"ping"
        self.threads.append(threading.current_thread().name)
        self.transport.write(b"pong")

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost += 1

    def writable(self) -> None:
        pass


def test_idle_connection_answers_and_its_end_is_noticed(
    caller: CallerRuntime, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeper, "PARK_AFTER_S", 0.01)
    server, client = PingServer(), PingClientSide()

    async def connect() -> None:
        await caller.connect("127.0.0.1", port, client, deadline=caller.now() + 5)

    with kit.serving(server.protocol) as port:
        caller.run(connect())
        eventually(lambda: client.transport.home is not None)
        with contextlib.closing(CallerRuntime()) as other:
            trigger = connected(other, kit, port)

            async def tell() -> None:
                other.attach(trigger.transport)
                trigger.transport.write(b"all")
                trigger.transport.close()

            other.run(tell())
        eventually(lambda: server.pongs == 1)
        assert client.threads == ["pytikv-housekeeper"]
    eventually(lambda: client.lost == 1)
    assert client.transport not in caller._housekeeper.loop.attached


def test_idle_client_has_nothing_to_do(
    caller: CallerRuntime, kit: Any, echo_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeper, "PARK_AFTER_S", 0.01)
    collector = connected(caller, kit, echo_port)
    keeper = caller._housekeeper
    eventually(lambda: collector.transport in keeper.loop.parked and keeper.loop.sleeping)
    assert keeper.loop.next_timer() is None  # so it sleeps without a timeout
    assert not keeper.idle
    caller.run(echo(caller, collector, b"taken back"))
    assert collector.transport not in keeper.loop.parked


def test_free_transport_is_always_to_be_found(
    caller: CallerRuntime, kit: Any, echo_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the housekeeper waits for its lock, a lease must find the transport idle or parked."""
    monkeypatch.setattr(housekeeper, "PARK_AFTER_S", 0.0)
    keeper = caller._housekeeper
    lock = keeper.loop.lock
    collector = kit.Collector(caller)
    nowhere: list[str] = []

    class Watched:
        def __enter__(self) -> None:
            transport = getattr(collector, "transport", None)
            is_free = transport is not None and transport.home is None
            is_found = transport in keeper.idle or transport in keeper.loop.parked
            if is_free and not is_found and threading.current_thread() is keeper._thread:
                nowhere.append("nowhere")
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    keeper.loop.lock = Watched()  # type: ignore[assignment]  # stands in for it
    caller.run(caller.connect("127.0.0.1", echo_port, collector, deadline=caller.now() + 5))
    for _ in range(5):
        eventually(lambda: collector.transport in keeper.loop.parked)
        caller.run(echo(caller, collector, b"taken"))
    assert nowhere == []


def test_parking_and_leasing_race(kit: Any, echo_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeper, "PARK_AFTER_S", 0.0)
    rounds, failures = 150, []
    with contextlib.closing(CallerRuntime()) as rt:

        def work() -> None:
            collector = connected(rt, kit, echo_port)
            try:
                for number in range(rounds):
                    rt.run(echo(rt, collector, b"%d" % number))
                    if number % 10 == 0:
                        time.sleep(0)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert failures == []


def test_background_task_leases_and_gives_back(caller: CallerRuntime, kit: Any, echo_port: int) -> None:
    collector = connected(caller, kit, echo_port)
    done = SharedFuture[str]()

    async def background() -> None:
        scope = caller.call_scope()
        assert scope is not None
        caller.at_call_end(lambda: done.set_result(threading.current_thread().name))
        caller.attach(collector.transport)
        collector.transport.write(b"background")
        assert await collector.receive(10) == b"background"

    async def call() -> str:
        task = caller.spawn(background(), name="background")
        name = await caller.wait(done, caller.now() + 5)
        eventually(task.done)
        return name

    assert caller.run(call()) == "pytikv-housekeeper"
    eventually(lambda: collector.transport.home is None)
    caller.run(echo(caller, collector, b"mine again"))


def test_close_cancels_background_tasks(caplog: pytest.LogCaptureFixture) -> None:
    rt = CallerRuntime()
    seen: list[str] = []
    began = threading.Event()

    async def background() -> None:
        began.set()
        try:
            await rt.sleep(1000)
        finally:
            await rt.sleep(0.001)
            seen.append("cleaned up")

    task = rt.spawn(background(), name="background")
    assert began.wait(10)
    rt.close()
    assert seen == ["cleaned up"]
    assert caplog.text == ""
    assert task.done()
    assert not any(thread.name == "pytikv-housekeeper" for thread in threading.enumerate())


def test_runtime_that_nobody_closed_ends_with_its_last_reference(kit: Any, echo_port: int) -> None:
    rt = CallerRuntime()
    echo_once(rt, kit, echo_port, b"x")
    collector = connected(rt, kit, echo_port)
    thread = rt._housekeeper._thread
    assert thread is not None
    gone = weakref.ref(rt)
    collector.rt = None
    del rt
    gc.collect()
    assert gone() is None
    thread.join(10)
    assert not thread.is_alive()
    assert len(collector.lost) == 1


# --- threads ----------------------------------------------------------------------------------------------------------


def test_many_threads(caller: CallerRuntime, kit: Any, echo_port: int) -> None:
    answers: list[bytes] = []

    def work(number: int) -> None:
        collector = connected(caller, kit, echo_port)
        for _ in range(10):
            caller.run(echo(caller, collector, b"%04d" % number))
        answers.append(b"%04d" % number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == [b"%04d" % number for number in range(32)]


# --- fork and exit ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_child_is_refused_and_parent_goes_on(caller: CallerRuntime, kit: Any, echo_port: int) -> None:
    collector = connected(caller, kit, echo_port)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, forking beside threads is warned of
        pid = os.fork()
    if pid == 0:  # never returns to pytest
        code = 1
        try:
            for use in (lambda: caller.run(returns(1)), lambda: caller.spawn(returns(1), name="x")):
                try:
                    use()
                except ClientClosed as error:
                    code = 0 if "forked" in str(error) else 2
                else:
                    code = 3
                    break
            caller.close()
            caller.close()
            with contextlib.closing(CallerRuntime()) as own:
                if echo_once(own, kit, echo_port, b"child") != b"child":
                    code = 4
        except BaseException:
            code = 5
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    caller.run(echo(caller, collector, b"parent"))


def test_interpreter_exits_cleanly_without_close(kit: Any, echo_port: int) -> None:
    program = f"""
import time
from pytikv.rt.caller import CallerRuntime
rt = CallerRuntime()
class Protocol:
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.future.set_result(data)
    def connection_lost(self, error): print("lost", error)
    def writable(self): pass
async def call():
    protocol = Protocol()
    protocol.future = rt.create_future()
    transport = await rt.connect("127.0.0.1", {echo_port}, protocol, deadline=rt.now() + 5)
    transport.write(b"hello")
    print((await rt.wait(protocol.future, rt.now() + 5)).decode())
async def background():
    await rt.sleep(1000)
rt.spawn(background(), name="background")
rt.run(call())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split("\n")[:2] == ["hello", "lost None"]
    assert done.returncode == 0


def test_long_waits_are_made_of_slices(
    caller: CallerRuntime, kit: Any, echo_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's timeout is shorter than the wait: the loop looks at its clock and waits again."""
    monkeypatch.setattr("pytikv.rt.sockets._SLICE_S", 0.03)
    collector = connected(caller, kit, echo_port)

    async def call() -> None:
        caller.attach(collector.transport)
        start = caller.now()
        with pytest.raises(TimeoutError):
            await collector.receive(1, 0.12)
        assert caller.now() - start >= 0.12
        collector.transport.write(b"x")
        assert await collector.receive(1) == b"x"

    caller.run(call())
