"""Ctrl-C in a blocking call: where it strikes, what is cleaned up, and that the runtime goes on."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytikv.rt.caller import CallerRuntime, CallLoop
from pytikv.rt.shared import Combiner, SharedFuture, SingleFlight

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals to threads"),
    pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="Ctrl-C is the main thread's"),
]


@pytest.fixture(autouse=True)
def python_handles_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def asleep() -> bool:
    """Whether the main thread is in a system call that waits."""
    ident = threading.main_thread().native_id
    try:
        with open(f"/proc/self/task/{ident}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "S"
    except FileNotFoundError:
        return True


class Interrupter:
    """Sends SIGINT to the main thread once each of the conditions holds, one after the other."""

    def __init__(self, *conditions: Callable[[], Any]) -> None:
        self._conditions = conditions
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        for condition in self._conditions:
            end = time.monotonic() + 20
            while not condition() and time.monotonic() < end:
                time.sleep(0.001)
            signal.pthread_kill(main, signal.SIGINT)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()


def present_loop(rt: CallerRuntime) -> CallLoop:
    loop = rt._thread.loop
    assert isinstance(loop, CallLoop)
    return loop


async def nothing() -> str:
    return "goes on"


def test_in_a_direct_receive(caller: CallerRuntime, kit: Any, echo_port: int) -> None:
    collector = kit.Collector(caller)
    seen: list[str] = []
    loops: list[CallLoop] = []

    async def call() -> None:
        await caller.connect("127.0.0.1", echo_port, collector, deadline=caller.now() + 5)
        loops.append(present_loop(caller))
        try:
            await collector.receive(1, 30)
        except caller.Cancelled:
            seen.append("cancelled")
            raise

    with Interrupter(lambda: loops and loops[0].receiving is not None and asleep()), pytest.raises(KeyboardInterrupt):
        caller.run(call())
    assert seen == ["cancelled"]
    assert len(collector.lost) == 1  # bytes may have been taken and lost: that transport is not used again
    assert caller.run(nothing()) == "goes on"


def test_in_poll_leaves_the_transports_sound(caller: CallerRuntime, kit: Any, echo_port: int) -> None:
    collectors = [kit.Collector(caller), kit.Collector(caller)]
    seen: list[str] = []
    loops: list[CallLoop] = []

    async def child(collector: Any) -> None:
        await caller.connect("127.0.0.1", echo_port, collector, deadline=caller.now() + 5)
        loops.append(present_loop(caller))
        try:
            await collector.receive(1, 30)
        finally:
            seen.append("cleaned up")

    async def call() -> None:
        await caller.gather(*(child(collector) for collector in collectors))

    with Interrupter(lambda: len(loops) == 2 and loops[0].sleeping and asleep()), pytest.raises(KeyboardInterrupt):
        caller.run(call())
    assert seen == ["cleaned up"] * 2

    async def again() -> None:
        for collector in collectors:
            assert not collector.lost
            caller.attach(collector.transport)
            collector.transport.write(b"still good")
            assert await collector.receive(10) == b"still good"

    caller.run(again())


def test_in_the_midst_of_python_code(caller: CallerRuntime, kit: Any, echo_port: int) -> None:
    collector = kit.Collector(caller)
    spinning = threading.Event()

    async def call() -> None:
        await caller.connect("127.0.0.1", echo_port, collector, deadline=caller.now() + 5)
        await caller.sleep(0)
        end = time.monotonic() + 20
        spinning.set()
        while time.monotonic() < end:
            pass

    with Interrupter(spinning.is_set), pytest.raises(KeyboardInterrupt):
        caller.run(call())
    assert len(collector.lost) == 1
    assert caller.run(nothing()) == "goes on"


def test_before_the_first_wait(caller: CallerRuntime) -> None:
    spinning = threading.Event()
    ended: list[str] = []

    async def call() -> None:
        caller.at_call_end(lambda: ended.append("ended"))
        end = time.monotonic() + 20
        spinning.set()
        while time.monotonic() < end:
            pass

    with Interrupter(spinning.is_set), pytest.raises(KeyboardInterrupt):
        caller.run(call())
    assert ended == ["ended"]
    assert caller.run(nothing()) == "goes on"


def test_second_one_ends_the_grace(caller: CallerRuntime) -> None:
    cleaning = threading.Event()
    loops: list[CallLoop] = []

    async def call() -> None:
        loops.append(present_loop(caller))
        try:
            await caller.sleep(30)
        finally:
            cleaning.set()
            await caller.sleep(30)

    start = time.monotonic()
    first = lambda: loops and loops[0].sleeping and asleep()  # noqa: E731  # two conditions side by side
    second = lambda: cleaning.is_set() and loops[0].sleeping and asleep()  # noqa: E731
    with Interrupter(first, second), pytest.raises(KeyboardInterrupt):
        caller.run(call())
    assert time.monotonic() - start < 20
    assert caller.run(nothing()) == "goes on"


def test_grace_is_a_second_at_most(caller: CallerRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytikv.rt.caller._GRACE_S", 0.05)
    loops: list[CallLoop] = []

    async def stubborn() -> None:
        loops.append(present_loop(caller))
        while True:
            try:
                await caller.sleep(30)
            except caller.Cancelled:
                continue

    with (
        Interrupter(lambda: loops and loops[0].sleeping and asleep()),
        pytest.raises(KeyboardInterrupt),
    ):
        caller.run(stubborn())
    assert caller.run(nothing()) == "goes on"


def test_while_waiting_for_another_thread(caller: CallerRuntime) -> None:
    loops: list[CallLoop] = []

    async def call() -> None:
        loops.append(present_loop(caller))
        await caller.wait(SharedFuture[None](), caller.now() + 30)

    with Interrupter(lambda: loops and loops[0].sleeping and asleep()), pytest.raises(KeyboardInterrupt):
        caller.run(call())
    assert loops[0].outside == 0
    assert caller.run(nothing()) == "goes on"


@pytest.mark.parametrize("kind", ["flight", "batch"])
def test_of_a_leader_makes_a_follower_take_over(caller: CallerRuntime, kind: str) -> None:
    loops: list[CallLoop] = []
    results: list[str] = []
    leading, ours = threading.Event(), threading.main_thread()

    async def work() -> str:
        if threading.current_thread() is ours:
            loops.append(present_loop(caller))
            leading.set()
            await caller.sleep(30)
        return "done by a follower"

    async def flush(items: list[int]) -> list[str]:
        answer = await work()
        return [answer] * len(items)

    flights = SingleFlight(caller)
    combiner: Combiner[int, str] = Combiner(caller, flush)

    def call() -> str:
        if kind == "flight":
            return caller.run(flights.run("key", work, caller.now() + 60))
        return caller.run(combiner.submit(1, caller.now() + 60))

    def follow() -> None:
        assert leading.wait(30)
        results.append(call())

    threads = [threading.Thread(target=follow) for _ in range(5)]
    for thread in threads:
        thread.start()
    with Interrupter(lambda: loops and loops[0].sleeping and asleep()), pytest.raises(KeyboardInterrupt):
        call()
    for thread in threads:
        thread.join(30)
    assert results == ["done by a follower"] * 5
    assert caller.run(nothing()) == "goes on"
