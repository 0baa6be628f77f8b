"""Records and sinks by themselves: steps, parents, work behind a call, sinks that come and go."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from pytikv.errors import Overloaded
from pytikv.observe import telemetry
from pytikv.observe.telemetry import MAX_STEPS, CallRecord, Sink, Step, Telemetry, as_step, behind, current_record

from .conftest import Ear


class Clock:
    """Ticks at each look."""

    def __init__(self) -> None:
        self._ticks = itertools.count()

    def __call__(self) -> float:
        return float(next(self._ticks))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def calls(clock: Clock) -> Telemetry:
    return Telemetry(clock, lambda: 1000.0, "tikv://pd:2379")


async def answer(value: Any = None) -> Any:
    return value


async def fail(error: BaseException) -> None:
    raise error


def test_steps_and_their_times(ear: Ear, calls: Telemetry, clock: Clock) -> None:
    async def call() -> str:
        assert await as_step(clock, "backoff", "tikvRPC", answer(1), detail="busy") == 1
        with pytest.raises(Overloaded):
            await as_step(clock, "rpc", "RawGet", fail(Overloaded("no")), store="s:1")
        return "done"

    assert asyncio.run(calls.run("raw_get", call(), {"keys": 3})) == "done"
    (record,) = ear.ended
    assert record.steps == [
        Step("backoff", "tikvRPC", record.began + 1, record.began + 2, "ok", "", "busy"),
        Step("rpc", "RawGet", record.began + 3, record.began + 4, "Overloaded", "s:1", None),
    ]
    assert record.ended == record.began + 5
    assert record.attributes == {"keys": 3}
    assert record.telemetry.target == "tikv://pd:2379"
    record.note(region=7)
    assert record.attributes == {"keys": 3, "region": 7}


def test_where_nobody_calls_a_step_is_the_coroutine_itself(clock: Clock) -> None:
    coroutine = answer(1)
    assert as_step(clock, "tso", "wait", coroutine) is coroutine
    assert asyncio.run(coroutine) == 1
    assert behind(clock, "cleanup", answer) is answer


def test_more_steps_than_are_kept(ear: Ear, calls: Telemetry) -> None:
    async def call() -> None:
        record = current_record()
        assert record is not None
        for number in range(MAX_STEPS + 10):
            record.step("rpc", "RawGet", number, number)

    asyncio.run(calls.run("raw_get", call()))
    (record,) = ear.ended
    assert (len(record.steps), record.steps_dropped, len(ear.steps)) == (MAX_STEPS, 10, MAX_STEPS + 10)


def test_a_call_in_a_call(ear: Ear, calls: Telemetry) -> None:
    async def inner() -> CallRecord | None:
        return current_record()

    async def outer() -> None:
        here = current_record()
        assert await calls.run("inner", inner()) is not here
        assert current_record() is here

    asyncio.run(calls.run("outer", outer()))
    first, second = ear.ended
    assert (first.method, first.parent, second.parent) == ("inner", second, None)


class Stranger(Exception):
    """Has a code of its own, which could be any text."""

    code = "stranger-4711"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Overloaded("no"), "Overloaded"),
        (ValueError(), "error"),
        (KeyboardInterrupt(), "cancelled"),
        (Stranger(), "error"),
        (SystemExit("my secret"), "cancelled"),
    ],
)
def test_how_a_call_failed(ear: Ear, calls: Telemetry, error: BaseException, status: str) -> None:
    coroutine = calls.run("raw_get", fail(error))
    with pytest.raises(type(error)):
        coroutine.send(None)
    (record,) = ear.ended
    assert (record.status, ear.errors) == (status, [type(error).__name__])
    assert current_record() is None


def test_an_answer_that_stands_for_a_failure(ear: Ear, calls: Telemetry) -> None:
    error = Overloaded("no")
    assert asyncio.run(calls.run("raw_batch_put", answer([error]), None, lambda failed: failed[0])) == [error]
    assert (ear.ended[0].status, ear.errors) == ("Overloaded", ["Overloaded"])


def test_work_behind_a_call_is_its_phase(ear: Ear, calls: Telemetry, clock: Clock) -> None:
    works: list[Any] = []

    async def call() -> None:
        works.append(behind(clock, "secondaries", lambda: as_step(clock, "rpc", "KvCommit", answer())))

    async def later(work: Any) -> None:
        telemetry.forget_record()
        await work()
        assert current_record() is None

    asyncio.run(calls.run("txn_commit", call()))
    asyncio.run(later(works[0]))
    (record,) = ear.ended
    assert [(step.kind, step.name) for step in record.steps] == [("rpc", "KvCommit"), ("phase", "secondaries")]
    assert record.ended is not None
    assert record.steps[1].began > record.ended


def test_a_call_that_was_given_up_in_another_context(ear: Ear, calls: Telemetry) -> None:
    class Forever:
        def __await__(self) -> Any:
            yield

    async def wait() -> None:
        await Forever()

    coroutine: Coroutine[Any, Any, None] = calls.run("raw_get", wait())

    def begin() -> None:
        coroutine.send(None)

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    coroutine.close()  # the garbage collector may do so anywhere
    assert [(record.method, record.status) for record in ear.ended] == [("raw_get", "cancelled")]
    assert current_record() is None


def test_a_sink_pays_for_what_it_defines() -> None:
    class Ends(Sink):
        def on_end(self, record: CallRecord) -> None:
            """Listen to ends alone."""

    sink = Ends()
    telemetry.install(sink)
    try:
        assert (telemetry._on_begin, telemetry._on_step, telemetry._on_frame) == ((), (), ())
        assert telemetry._on_end == (sink.on_end,)
    finally:
        telemetry.remove(sink)
    telemetry.remove(sink)
    assert telemetry.sinks() == ()


def test_sinks_that_come_and_go_in_many_threads() -> None:
    heard: list[bool] = []
    telemetry.on_change(heard.append)
    try:

        def work() -> None:
            for _ in range(200):
                sink = Sink()
                telemetry.install(sink)
                telemetry.install(sink)
                assert sink in telemetry.sinks()
                telemetry.remove(sink)
                assert sink not in telemetry.sinks()

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        telemetry._listeners.remove(heard.append)
    assert telemetry.sinks() == ()
    assert heard[-1] is False
