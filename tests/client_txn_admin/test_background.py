"""Work behind the calls: bounded, joined at the close, slowing down who is faster than it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from pytikv.ambient import current_deadline, deadline
from pytikv.client.txn import background
from pytikv.client.txn.background import Background
from pytikv.errors import ClientClosed, ServerError
from pytikv.rt.caller import CallerRuntime
from pytikv.rt.interface import Runtime
from pytikv.rt.shared import SharedFuture
from pytikv.testing.sim import World


def in_simulation(scenario: Callable[[Runtime], Coroutine[Any, Any, Any]]) -> Any:
    with World(3) as world:
        rt = world.process("main")
        return world.run(scenario(rt))


def test_all_is_done_by_few_at_once() -> None:
    async def scenario(rt: Runtime) -> None:
        work = Background(rt, 3)
        running = peak = done = 0

        async def piece() -> None:
            nonlocal running, peak, done
            running += 1
            peak = max(peak, running)
            await rt.sleep(1)
            running -= 1
            done += 1

        for _ in range(10):
            await work.submit(piece, "piece")
        assert done == 0
        assert await work.drain(rt.now() + 60)
        assert (done, peak) == (10, 3)
        assert await work.drain(rt.now())  # nothing is left: no wait

    in_simulation(scenario)


def test_a_failure_ends_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(rt: Runtime) -> list[int]:
        work = Background(rt, 1)
        done: list[int] = []

        async def piece(number: int) -> None:
            if number == 1:
                raise ServerError("no")
            if number == 2:
                raise ZeroDivisionError
            done.append(number)

        for number in range(4):
            await work.submit(lambda number=number: piece(number), f"piece {number}")
        assert await work.drain(rt.now() + 1)
        return done

    with caplog.at_level("INFO", "pytikv"):
        assert in_simulation(scenario) == [0, 3]
    assert [record.getMessage() for record in caplog.records] == [
        "background work piece 1 was left to others: no",
        "background work piece 2 failed",
    ]


def test_a_full_line_makes_the_caller_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "QUEUE_MAX", 2)

    async def scenario(rt: Runtime) -> None:
        work = Background(rt, 1)
        ended: list[str] = []

        async def piece(name: str) -> None:
            await rt.sleep(1)
            ended.append(name)

        for name in "abc":  # one runs, two wait
            await work.submit(lambda name=name: piece(name), name)
        assert ended == []
        begun = rt.now()
        await work.submit(lambda: piece("own"), "own")
        assert "own" in ended
        assert rt.now() - begun >= 1
        assert await work.drain(rt.now() + 60)
        assert sorted(ended) == ["a", "b", "c", "own"]

    in_simulation(scenario)


def test_drain_gives_up_at_its_deadline(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(rt: Runtime) -> None:
        work = Background(rt, 1)

        async def endless() -> None:
            await rt.sleep(1e6)

        await work.submit(endless, "endless")
        await work.submit(endless, "endless")
        assert not await work.drain(rt.now() + 5)

    in_simulation(scenario)
    assert "2 pieces of background work were given up" in caplog.text


def test_the_callers_deadline_does_not_follow() -> None:
    async def scenario(rt: Runtime) -> None:
        work = Background(rt, 1)
        seen: list[float | None] = []

        async def look() -> None:
            seen.append(current_deadline())

        with deadline(0.001):
            await work.submit(look, "look")
        assert await work.drain(rt.now() + 1)
        assert seen == [None]

    in_simulation(scenario)


def test_one_for_all_views_of_a_connection() -> None:
    backend: Any = SimpleNamespace(shared={}, rt=None, config=SimpleNamespace(background_worker_size=2))
    view: Any = SimpleNamespace(shared=backend.shared, rt=None, config=SimpleNamespace(background_worker_size=7))
    assert Background.of(backend) is Background.of(view)


def test_pieces_of_successive_blocking_calls_are_begun_together() -> None:
    rt = CallerRuntime()
    try:
        work = Background(rt, 3)
        scopes: list[object] = []
        all_began: SharedFuture[None] = SharedFuture()

        async def piece() -> None:
            scopes.append(rt.call_scope())
            if len(scopes) == 3:
                all_began.set_result(None)
            await rt.wait(all_began, rt.now() + 30)

        async def submit_some() -> None:
            for _ in range(3):
                await work.submit(piece, "piece")

        rt.run(submit_some())
        assert rt.run(work.drain(rt.now() + 30))
        assert len(scopes) == 3
        assert scopes[0] is scopes[1] is scopes[2]  # what they lease they share
        rt.run(work.submit(piece, "later"))
        assert rt.run(work.drain(rt.now() + 30))
        assert len(scopes) == 4
    finally:
        rt.close()


def test_what_cannot_be_begun_is_not_kept() -> None:
    rt = CallerRuntime()
    work = Background(rt, 1)

    async def piece() -> None:
        raise AssertionError

    async def close_and_submit() -> None:
        rt.close()
        with pytest.raises(ClientClosed):
            await work.submit(piece, "piece")
        assert await work.drain(rt.now())

    rt.run(close_and_submit())


def test_many_threads_submit_at_once() -> None:
    rt = CallerRuntime()
    try:
        work = Background(rt, 2)
        gate: SharedFuture[None] = SharedFuture()
        done: list[int] = []

        async def piece(number: int) -> None:
            await rt.wait(gate, rt.now() + 30)
            done.append(number)

        def submit(first: int) -> None:
            for number in range(first, first + 50):
                rt.run(work.submit(lambda number=number: piece(number), "piece"))

        threads = [threading.Thread(target=submit, args=(first,)) for first in (0, 50, 100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gate.set_result(None)
        assert rt.run(work.drain(rt.now() + 30))
        assert sorted(done) == list(range(150))
    finally:
        rt.close()
