"""What every runtime promises: one suite, run on asyncio, uvloop, the blocking runtime and the simulation."""

from __future__ import annotations

import contextvars
import logging
import threading
from typing import Any

import pytest

from pytikv.rt.shared import SharedFuture

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


# --- futures and waits ------------------------------------------------------------------------------------------------


def test_value_of_a_future(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        future = rt.create_future()
        assert not future.done()
        rt.call_soon(lambda: future.set_result(7))
        assert await rt.wait(future, rt.now() + 5) == 7
        assert future.done()
        assert not future.cancelled()
        assert await rt.wait(future, rt.now() - 5) == 7  # there already: it wins over a deadline long past
        assert await future == 7

    harness.run(scenario)


def test_error_of_a_future(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        future = rt.create_future()
        rt.call_soon(lambda: future.set_exception(ValueError("no")))
        with pytest.raises(ValueError, match="no"):
            await rt.wait(future, rt.now() + 5)
        with pytest.raises(ValueError, match="no"):
            future.result()

    harness.run(scenario)


def test_future_is_completed_once(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        future = rt.create_future()
        future.set_result(1)
        with pytest.raises(Exception):  # noqa: B017, PT011  # each runtime has its own
            future.set_result(2)
        assert future.result() == 1

    harness.run(scenario)


def test_deadline_leaves_the_future_valid(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        future = rt.create_future()
        start = rt.now()
        with pytest.raises(TimeoutError):
            await rt.wait(future, start + 0.03)
        assert rt.now() - start >= 0.025
        assert not future.done()
        rt.call_soon(lambda: future.set_result("late"))
        assert await rt.wait(future, rt.now() + 5) == "late"

    harness.run(scenario)


def test_deadline_in_the_past(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        with pytest.raises(TimeoutError):
            await rt.wait(rt.create_future(), rt.now() - 1)

    harness.run(scenario)


def test_wait_without_deadline(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        future = rt.create_future()
        rt.call_at(rt.now() + 0.01, lambda: future.set_result("x"))
        assert await rt.wait(future, None) == "x"

    harness.run(scenario)


def test_deadline_of_one_wait_does_not_strike_the_next(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        first, second = rt.create_future(), rt.create_future()
        rt.call_soon(lambda: first.set_result(None))
        await rt.wait(first, rt.now() + 0.02)
        rt.call_at(rt.now() + 0.05, lambda: second.set_result("second"))
        assert await rt.wait(second, None) == "second"

    harness.run(scenario)


# --- timers and turns -------------------------------------------------------------------------------------------------


def test_timers_in_order_and_cancelled(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        seen: list[str] = []
        done = rt.create_future()
        now = rt.now()
        rt.call_at(now + 0.03, lambda: done.set_result(None))
        rt.call_at(now + 0.02, lambda: seen.append("second"))
        rt.call_at(now + 0.01, lambda: seen.append("first"))
        rt.call_at(now + 0.015, lambda: seen.append("never")).cancel()
        await rt.wait(done, now + 5)
        assert seen == ["first", "second"]

    harness.run(scenario)


def test_call_soon_runs_in_the_same_turn(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        seen: list[str] = []
        rt.call_soon(lambda: seen.append("soon"))
        seen.append("now")
        await rt.sleep(0.001)
        assert seen == ["now", "soon"]

    harness.run(scenario)


def test_sleep_takes_its_time(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        start = rt.now()
        await rt.sleep(0.02)
        assert rt.now() - start >= 0.018
        await rt.sleep(0)

    harness.run(scenario)


def test_sleeping_for_nothing_lets_others_run(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        flag: list[int] = []
        rt.call_at(rt.now() + 0.005, lambda: flag.append(1))
        while not flag:
            await rt.sleep(0.0005)

    harness.run(scenario)


def test_clocks(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        assert rt.time() > 1_600_000_000
        assert 0 <= rt.rng.random() < 1

    harness.run(scenario)


# --- gather -----------------------------------------------------------------------------------------------------------


def test_gather_answers_in_order(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        async def work(number: int) -> int:
            await rt.sleep(0.001 * (5 - number))
            return number

        assert await rt.gather(*(work(i) for i in range(5))) == [0, 1, 2, 3, 4]
        assert await rt.gather() == []
        assert await rt.gather(work(4)) == [4]

    harness.run(scenario)


def test_gather_runs_at_once(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        meeting = rt.create_future()

        async def waits() -> str:
            return await rt.wait(meeting, rt.now() + 5)

        async def comes() -> str:
            meeting.set_result("met")
            return "came"

        assert await rt.gather(waits(), comes()) == ["met", "came"]

    harness.run(scenario)


def test_first_failure_cancels_and_waits_and_is_raised(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        seen: list[str] = []

        async def fails() -> None:
            await rt.sleep(0.002)
            raise ValueError("first")

        async def is_cancelled() -> None:
            try:
                await rt.wait(rt.create_future(), rt.now() + 10)
            except rt.Cancelled:
                await rt.sleep(0.005)  # clean-up that takes time is waited for
                seen.append("cleaned up")
                raise

        async def fails_in_cleaning_up() -> None:
            try:
                await rt.sleep(10)
            finally:
                raise KeyError("second")

        with pytest.raises(ValueError, match="first"):
            await rt.gather(is_cancelled(), fails(), fails_in_cleaning_up())
        assert seen == ["cleaned up"]

    harness.run(scenario)


def test_plain_failure_of_a_single_one(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        async def fails() -> None:
            raise OSError("alone")

        with pytest.raises(OSError, match="alone"):
            await rt.gather(fails())

    harness.run(scenario)


def test_nested_gather(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        async def leaf(number: int) -> int:
            await rt.sleep(0.001)
            return number

        async def branch(number: int) -> list[int]:
            return list(await rt.gather(leaf(number), leaf(number + 1)))

        assert await rt.gather(branch(1), branch(10)) == [[1, 2], [10, 11]]

    harness.run(scenario)


def test_cancelling_a_gather_cancels_and_waits_for_its_children(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        seen: list[str] = []

        async def child(number: int) -> None:
            try:
                await rt.sleep(10)
            except rt.Cancelled:
                await rt.sleep(0.002)
                seen.append(f"child {number}")
                raise

        async def parent() -> None:
            try:
                await rt.gather(child(1), child(2))
            except rt.Cancelled:
                seen.append("parent")
                raise

        with pytest.raises(TimeoutError):
            await rt.with_deadline(parent(), rt.now() + 0.02)
        assert sorted(seen[:2]) == ["child 1", "child 2"]
        assert seen[2:] == ["parent"]

    harness.run(scenario)


# --- deadlines and cancellation ---------------------------------------------------------------------------------------


def test_with_deadline(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        async def quick() -> str:
            await rt.sleep(0.001)
            return "quick"

        async def slow() -> None:
            await rt.sleep(10)

        assert await rt.with_deadline(quick(), rt.now() + 5) == "quick"
        start = rt.now()
        with pytest.raises(TimeoutError):
            await rt.with_deadline(slow(), start + 0.02)
        assert rt.now() - start < 5

    harness.run(scenario)


def test_with_deadline_lets_errors_through(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        async def fails() -> None:
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            await rt.with_deadline(fails(), rt.now() + 5)

    harness.run(scenario)


def test_nested_deadlines_strike_where_they_belong(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        seen: list[str] = []

        async def inner() -> None:
            try:
                await rt.with_deadline(rt.sleep(10), rt.now() + 10)
            except TimeoutError:
                seen.append("the wrong one")

        with pytest.raises(TimeoutError):
            await rt.with_deadline(inner(), rt.now() + 0.02)
        assert seen == []

        async def outer() -> str:
            with pytest.raises(TimeoutError):
                await rt.with_deadline(rt.sleep(10), rt.now() + 0.02)
            await rt.sleep(0.001)
            return "went on"

        assert await rt.with_deadline(outer(), rt.now() + 10) == "went on"

    harness.run(scenario)


def test_life_goes_on_after_a_deadline(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await rt.with_deadline(rt.sleep(10), rt.now() + 0.005)
            await rt.sleep(0.001)

    harness.run(scenario)


def test_cancelled_before_it_began_never_runs(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        seen: list[str] = []

        async def late() -> None:
            seen.append("ran")

        async def fails() -> None:
            raise ValueError

        async def slow() -> None:
            await rt.sleep(10)

        task = rt.spawn(slow(), name="slow")
        task.cancel()
        for _ in range(1000):
            if task.done():
                break
            await rt.sleep(0.001)
        assert task.done()

    harness.run(scenario)


# --- contextvars ------------------------------------------------------------------------------------------------------


def test_children_see_a_copy_of_the_context(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        variable.set("parent")

        async def child(number: int) -> str:
            before = variable.get()
            variable.set(f"child {number}")
            await rt.sleep(0.001)
            assert variable.get() == f"child {number}"
            return before

        assert await rt.gather(child(1), child(2)) == ["parent", "parent"]
        assert variable.get() == "parent"

    contextvars.copy_context().run(harness.run, scenario)


def test_spawned_tasks_see_the_context(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        seen = SharedFuture[str]()

        async def background() -> None:
            seen.set_result(variable.get())

        token = variable.set("of the one who spawned")
        rt.spawn(background(), name="background")
        variable.reset(token)
        assert await rt.wait(seen, rt.now() + 5) == "of the one who spawned"

    contextvars.copy_context().run(harness.run, scenario)


# --- spawn ------------------------------------------------------------------------------------------------------------


def test_spawn_runs_and_can_be_cancelled(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        began, ended = SharedFuture[None](), SharedFuture[str]()

        async def background() -> None:
            began.set_result(None)
            try:
                await rt.sleep(100)
            except rt.Cancelled:
                ended.set_result("cancelled")
                raise

        task = rt.spawn(background(), name="background")
        await rt.wait(began, rt.now() + 5)
        assert not task.done()
        task.cancel()
        assert await rt.wait(ended, rt.now() + 5) == "cancelled"

    harness.run(scenario)


def test_errors_of_spawned_tasks_are_logged(harness: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(rt: Any) -> None:
        async def background() -> None:
            raise ValueError("nobody is watching")

        task = rt.spawn(background(), name="the doomed")
        for _ in range(1000):
            if task.done():
                break
            await rt.sleep(0.001)
        await rt.sleep(0.001)

    with caplog.at_level(logging.ERROR, "pytikv"):
        harness.run(scenario)
    assert "the doomed" in caplog.text
    assert "nobody is watching" in caplog.text


# --- blocking work ----------------------------------------------------------------------------------------------------


def test_run_blocking(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        assert await rt.run_blocking(lambda a, b: a + b, 2, 3) == 5

        def fails() -> None:
            raise OSError("disk")

        with pytest.raises(OSError, match="disk"):
            await rt.run_blocking(fails)

    harness.run(scenario)


# --- shared futures ---------------------------------------------------------------------------------------------------


def test_shared_future_set_here(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        shared = SharedFuture[str]()
        rt.call_at(rt.now() + 0.005, lambda: shared.set_result("here"))
        assert await rt.wait(shared, rt.now() + 5) == "here"
        assert await rt.wait(shared, rt.now() - 5) == "here"
        with pytest.raises(TimeoutError):
            await rt.wait(SharedFuture[str](), rt.now() + 0.01)

    harness.run(scenario)


def test_shared_future_set_by_another_thread(real_harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        for number in range(50):
            shared = SharedFuture[int]()
            thread = threading.Thread(target=shared.set_result, args=(number,))
            thread.start()
            assert await rt.wait(shared, rt.now() + 10) == number
            thread.join()

    real_harness.run(scenario)


def test_shared_error(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        shared = SharedFuture[int]()
        rt.call_at(rt.now() + 0.002, lambda: shared.set_exception(ValueError("shared")))

        async def waits() -> str:
            try:
                await rt.wait(shared, rt.now() + 5)
            except ValueError as error:
                return str(error)
            return "?"

        assert await rt.gather(waits(), waits(), waits()) == ["shared"] * 3

    harness.run(scenario)


# --- connections ------------------------------------------------------------------------------------------------------


def test_echo(harness: Any, kit: Any) -> None:
    async def scenario(rt: Any, host: str, port: int) -> None:
        collector = kit.Collector(rt)
        transport = await rt.connect(host, port, collector, deadline=rt.now() + 5)
        assert collector.made == 1
        assert transport.peer_name == f"{host}:{port}"
        assert transport.alpn is None
        for size in (1, 10, 1000, 100_000):
            transport.write(b"x" * size)
            assert await collector.receive(size) == b"x" * size
        transport.close()
        transport.close()
        assert await collector.end() is None

    harness.run(scenario, server=kit.Echo)


def test_many_connections_in_one_call(harness: Any, kit: Any) -> None:
    async def scenario(rt: Any, host: str, port: int) -> None:
        async def one(number: int) -> None:
            collector = kit.Collector(rt)
            transport = await rt.connect(host, port, collector, deadline=rt.now() + 5)
            for round_number in range(5):
                text = b"%d/%d" % (number, round_number)
                transport.write(text)
                assert await collector.receive(len(text)) == text
            transport.close()
            await collector.end()

        await rt.gather(*(one(number) for number in range(8)))

    harness.run(scenario, server=kit.Echo)


def test_great_writes_meet_the_high_water_mark(harness: Any, kit: Any) -> None:
    deaf: list[Any] = []

    class Deaf(kit.Echo):  # type: ignore[misc, name-defined]  # a class from a fixture
        """The first connection is not read until a second one says so."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if not deaf:
                deaf.append(transport)
                transport.pause_reading()

        def data_received(self, data: bytes) -> None:
            if self.transport is not deaf[0]:
                deaf[0].resume_reading()
            super().data_received(data)

    async def scenario(rt: Any, host: str, port: int) -> None:
        collector, second = kit.Collector(rt), kit.Collector(rt)
        transport = await rt.connect(host, port, collector, deadline=rt.now() + 5)
        other = await rt.connect(host, port, second, deadline=rt.now() + 5)
        chunk = bytes(range(256)) * 256
        written = len(chunk)
        while transport.write(chunk):
            written += len(chunk)
            assert written < 1 << 28
        assert not transport.write(chunk)
        written += len(chunk)
        other.write(b"2")
        assert await collector.receive(written) == chunk * (written // len(chunk))
        assert collector.writables >= 1
        assert transport.write(b"x")
        transport.close()
        other.close()
        await rt.gather(collector.end(), second.end())

    harness.run(scenario, server=Deaf)


def test_close_sends_what_is_queued(harness: Any, kit: Any) -> None:
    size = 3 << 20
    got: list[int] = [0]
    finished = SharedFuture[int]()

    class Counter(kit.Echo):  # type: ignore[misc, name-defined]  # a class from a fixture
        def data_received(self, data: bytes) -> None:
            got[0] += len(data)
            if got[0] == size:
                finished.set_result(size)

    async def scenario(rt: Any, host: str, port: int) -> None:
        collector = kit.Collector(rt)
        transport = await rt.connect(host, port, collector, deadline=rt.now() + 5)
        transport.write(b"y" * size)
        transport.close()
        assert await collector.end() is None
        assert await rt.wait(finished, rt.now() + 5) == size

    harness.run(scenario, server=Counter)


def test_end_by_the_peer(harness: Any, kit: Any) -> None:
    async def scenario(rt: Any, host: str, port: int) -> None:
        collector = kit.Collector(rt)
        transport = await rt.connect(host, port, collector, deadline=rt.now() + 5)
        transport.write(b"bye")
        assert await collector.end() is None
        transport.write(b"into the void")
        transport.close()
        transport.abort()
        await rt.sleep(0.001)
        assert len(collector.lost) == 1

    harness.run(scenario, server=kit.Echo)


def test_abort(harness: Any, kit: Any) -> None:
    async def scenario(rt: Any, host: str, port: int) -> None:
        collector = kit.Collector(rt)
        transport = await rt.connect(host, port, collector, deadline=rt.now() + 5)
        transport.abort()
        assert not collector.lost  # never from inside of the user's own call
        await collector.end()

    harness.run(scenario, server=kit.Echo)


def test_connect_refused(harness: Any, kit: Any) -> None:
    async def scenario(rt: Any, host: str, port: int) -> None:
        with pytest.raises(ConnectionRefusedError):
            await rt.connect(host, 1, kit.Collector(rt), deadline=rt.now() + 5)
        with pytest.raises(TimeoutError):
            await rt.connect(host, port, kit.Collector(rt), deadline=rt.now() - 1)

    harness.run(scenario, server=kit.Echo)


def test_unknown_host(harness: Any, kit: Any) -> None:
    async def scenario(rt: Any) -> None:
        with pytest.raises(OSError):  # noqa: PT011  # the resolver's text is not ours
            await rt.connect("no-such-host.invalid", 1, kit.Collector(rt), deadline=rt.now() + 5)

    harness.run(scenario)


def test_wait_that_ends_by_deadline_while_connected(harness: Any, kit: Any) -> None:
    async def scenario(rt: Any, host: str, port: int) -> None:
        collector = kit.Collector(rt)
        transport = await rt.connect(host, port, collector, deadline=rt.now() + 5)
        for seconds in (0.005, 0.06):  # a short wait is polled, a longer one received, by the blocking runtime
            start = rt.now()
            with pytest.raises(TimeoutError):
                await collector.receive(1, seconds)
            assert seconds * 0.9 <= rt.now() - start < 5
        transport.write(b"still works")
        assert await collector.receive(11) == b"still works"
        transport.close()
        await collector.end()

    harness.run(scenario, server=kit.Echo)


# --- calls ------------------------------------------------------------------------------------------------------------


def test_scopes_where_calls_end(harness: Any) -> None:
    async def scenario(rt: Any) -> None:
        scope = rt.call_scope()
        if rt.exclusive_connections:
            scope["key"] = "value"
            assert rt.call_scope()["key"] == "value"
            rt.at_call_end(lambda: None)
        else:
            assert scope is None
            with pytest.raises(NotImplementedError):
                rt.at_call_end(lambda: None)

    harness.run(scenario)
