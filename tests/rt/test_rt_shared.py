"""`SharedFuture`, `SingleFlight` and `Combiner` between threads, asyncio and the simulation; losses of the leader."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pytikv.rt.aio import AioRuntime
from pytikv.rt.caller import CallerRuntime
from pytikv.rt.shared import Combiner, SharedFuture, SingleFlight
from pytikv.testing.sim import World

THREADS = 64


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work(number)` in threads; results or errors in order."""
    results: list[Any] = [None] * count

    def run(number: int) -> None:
        try:
            results[number] = work(number)
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    return results


# --- SharedFuture -----------------------------------------------------------------------------------------------------


def test_set_once_and_first_wins() -> None:
    shared = SharedFuture[int]()
    with pytest.raises(RuntimeError):
        shared.result()
    assert shared.set_result(1)
    assert not shared.set_result(2)
    assert not shared.set_exception(ValueError())
    assert shared.result() == 1
    assert not shared.add_waker(lambda: None)
    shared.remove_waker(lambda: None)


def test_threads_and_asyncio_wait_for_one_value(caller: CallerRuntime) -> None:
    waiting = threading.Semaphore(0)

    class Counting(SharedFuture[str]):
        def add_waker(self, waker: Callable[[], None]) -> bool:
            answer = super().add_waker(waker)
            waiting.release()
            return answer

    shared = Counting()

    async def wait(rt: Any) -> str:
        return str(await rt.wait(shared, rt.now() + 30))

    async def asynchronous() -> list[str]:
        rt = AioRuntime()
        return await rt.gather(*(wait(rt) for _ in range(10)))

    def work(number: int) -> Any:
        if number == 0:
            for _ in range(THREADS - 2 + 10):
                assert waiting.acquire(timeout=30)
            return shared.set_result("the value")
        return asyncio.run(asynchronous()) if number == 1 else caller.run(wait(caller))

    results = in_threads(THREADS, work)
    assert results == [True, ["the value"] * 10] + ["the value"] * (THREADS - 2)


def test_no_wake_up_is_lost(caller: CallerRuntime) -> None:
    """Threads pass a token around in a ring: each wake-up is needed for the next."""
    rounds = 20
    turns = [[SharedFuture[int]() for _ in range(rounds)] for _ in range(THREADS)]

    async def play(number: int) -> int:
        token = 0
        for round_number in range(rounds):
            token = await caller.wait(turns[number][round_number], caller.now() + 50)
            after = number + 1
            if after < THREADS:
                turns[after][round_number].set_result(token + 1)
            elif round_number + 1 < rounds:
                turns[0][round_number + 1].set_result(token + 1)
        return token

    turns[0][0].set_result(0)
    results = in_threads(THREADS, lambda number: caller.run(play(number)))
    assert results == [THREADS * (rounds - 1) + number for number in range(THREADS)]


def test_value_wins_against_the_deadline(caller: CallerRuntime) -> None:
    """Set at about the deadline: either outcome, and the value for whoever waits afterwards."""

    async def wait(shared: SharedFuture[int], deadline: float) -> int | None:
        try:
            return await caller.wait(shared, deadline)
        except TimeoutError:
            return None

    for number in range(100):
        shared = SharedFuture[int]()
        deadline = caller.now() + 0.001
        timer = threading.Timer(0.001, shared.set_result, (number,))
        timer.start()
        assert caller.run(wait(shared, deadline)) in (None, number)
        timer.join()
        assert caller.run(wait(shared, deadline)) == number


# --- SingleFlight -----------------------------------------------------------------------------------------------------


def test_one_load_for_many_threads(caller: CallerRuntime) -> None:
    flights = SingleFlight(caller)
    loads: list[int] = []
    everybody = threading.Barrier(THREADS)

    async def load() -> str:
        loads.append(1)
        await caller.sleep(0.05)
        return "region"

    def work(number: int) -> str:
        everybody.wait(30)
        return caller.run(flights.run("key", load, caller.now() + 30))

    assert in_threads(THREADS, work) == ["region"] * THREADS
    assert len(loads) <= 3  # late starters may find the flight landed
    assert not flights._flights


def test_follower_takes_over_when_the_leader_runs_out_of_time(caller: CallerRuntime) -> None:
    flights = SingleFlight(caller)
    began = threading.Event()
    loads: list[str] = []

    async def slow() -> str:
        loads.append("leader")
        began.set()
        await caller.sleep(60)
        return "never"

    async def quick() -> str:
        loads.append("follower")
        return "loaded"

    def work(number: int) -> str:
        if number == 0:
            return caller.run(flights.run("key", slow, caller.now() + 0.1))
        assert began.wait(30)
        return caller.run(flights.run("key", quick, caller.now() + 30))

    results = in_threads(8, work)
    assert isinstance(results[0], TimeoutError)
    assert results[1:] == ["loaded"] * 7
    assert loads[0] == "leader"
    assert "follower" in loads


def test_follower_takes_over_when_the_leader_is_cancelled() -> None:
    async def main() -> None:
        rt = AioRuntime()
        flights = SingleFlight(rt)
        began = asyncio.Event()

        async def slow() -> str:
            began.set()
            await rt.sleep(60)
            return "never"

        async def quick() -> str:
            return "loaded"

        leader = asyncio.create_task(flights.run("key", slow, rt.now() + 60))
        await began.wait()
        followers = [asyncio.create_task(flights.run("key", quick, rt.now() + 60)) for _ in range(5)]
        await asyncio.sleep(0)
        leader.cancel()
        assert await asyncio.gather(*followers) == ["loaded"] * 5
        with pytest.raises(asyncio.CancelledError):
            await leader

    asyncio.run(main())


def test_error_of_a_flight_is_everybodys() -> None:
    with World(4) as world:
        rt = world.process("main")
        flights = SingleFlight(rt)
        loads: list[int] = []

        async def fails() -> str:
            loads.append(1)
            await rt.sleep(1)
            raise ValueError("no such region")

        async def ask() -> str:
            try:
                return await flights.run("key", fails, rt.now() + 30)
            except ValueError as error:
                return str(error)

        async def scenario() -> list[str]:
            return await rt.gather(*(ask() for _ in range(8)))

        assert world.run(scenario()) == ["no such region"] * 8
        assert len(loads) == 1


def test_timeout_of_a_connection_is_everybodys_but_ones_own_deadline_is_not() -> None:
    with World(3) as world:
        rt = world.process("main")
        flights = SingleFlight(rt)

        async def scenario() -> None:
            async def fails() -> str:
                await rt.sleep(1)
                raise TimeoutError("the connection")

            async def ask() -> str:
                try:
                    return await flights.run("key", fails, rt.now() + 100)
                except TimeoutError as error:
                    return str(error)

            start = rt.now()
            assert await rt.gather(ask(), ask(), ask()) == ["the connection"] * 3
            assert rt.now() - start < 1.5  # once, not once for each

        world.run(scenario())


def test_flights_under_loss_of_leaders(caller: CallerRuntime) -> None:
    """Random deadlines: everyone gets the value or its own TimeoutError, nobody hangs, nothing stays behind."""
    flights = SingleFlight(caller)

    async def load() -> str:
        await caller.sleep(0.004)
        return "value"

    def work(number: int) -> int:
        rng = random.Random(number)
        served = 0
        for round_number in range(15):
            with contextlib.suppress(TimeoutError):
                deadline = caller.now() + rng.choice([0.001, 0.003, 0.02, 20])
                assert caller.run(flights.run(round_number % 3, load, deadline)) == "value"
                served += 1
        return served

    results = in_threads(THREADS, work)
    assert all(isinstance(result, int) for result in results), results
    assert sum(results) > THREADS
    assert not flights._flights


# --- Combiner ---------------------------------------------------------------------------------------------------------


def test_combining_serves_each_its_own(caller: CallerRuntime) -> None:
    batches: list[int] = []

    async def flush(items: list[int]) -> list[int]:
        batches.append(len(items))
        await caller.sleep(0.001)
        return [item * 2 for item in items]

    combiner: Combiner[int, int] = Combiner(caller, flush, max_batch=16)

    def work(number: int) -> list[int]:
        return [caller.run(combiner.submit(number * 100 + i, caller.now() + 30)) for i in range(10)]

    results = in_threads(THREADS, work)
    assert results == [[(number * 100 + i) * 2 for i in range(10)] for number in range(THREADS)]
    assert sum(batches) == THREADS * 10
    assert max(batches) <= 16
    assert len(batches) < THREADS * 10


def test_error_of_a_flush_goes_to_its_batch_only() -> None:
    with World(5) as world:
        rt = world.process("main")

        async def flush(items: list[int]) -> list[int]:
            await rt.sleep(0.01)
            if 3 in items:
                raise ValueError("three")
            return items

        combiner: Combiner[int, int] = Combiner(rt, flush, max_batch=2)

        async def submit(item: int) -> Any:
            try:
                return await combiner.submit(item, rt.now() + 10)
            except ValueError as error:
                return str(error)

        async def scenario() -> list[Any]:
            return await rt.gather(*(submit(item) for item in range(9)))

        answers = world.run(scenario())
        assert answers.count("three") in (1, 2)
        assert all(answer in (number, "three") for number, answer in enumerate(answers))


@pytest.mark.parametrize("seed", range(30))
def test_combining_under_loss_of_leaders(seed: int) -> None:
    """Deadlines at random moments: every submit ends, in time, with its own answer or TimeoutError."""
    with World(seed) as world:
        rt = world.process("main")
        rng = world.rng.child("test")

        async def flush(items: list[int]) -> list[int]:
            await rt.sleep(rng.uniform(0.001, 0.02))
            return [item + 1000 for item in items]

        combiner: Combiner[int, int] = Combiner(rt, flush, max_batch=5)
        outcomes = {"served": 0, "late": 0}

        async def submit(item: int) -> None:
            await rt.sleep(rng.uniform(0, 0.1))
            deadline = rt.now() + rng.choice([0.001, 0.005, 0.02, 5.0])
            try:
                assert await combiner.submit(item, deadline) == item + 1000
                outcomes["served"] += 1
            except TimeoutError:
                outcomes["late"] += 1
            assert rt.now() <= deadline + 0.001

        async def scenario() -> None:
            await rt.gather(*(submit(item) for item in range(60)))

        world.run(scenario(), 100)
        assert outcomes["served"]
        assert outcomes["late"]
        assert not combiner._waiting
        assert not combiner._led


def test_combining_with_threads_under_loss_of_leaders(caller: CallerRuntime) -> None:
    async def flush(items: list[int]) -> list[int]:
        await caller.sleep(0.002)
        return items

    combiner: Combiner[int, int] = Combiner(caller, flush, max_batch=8)

    def work(number: int) -> int:
        rng = random.Random(number)
        served = 0
        for item in range(10):
            with contextlib.suppress(TimeoutError):
                deadline = caller.now() + rng.choice([0.001, 0.003, 0.01, 20])
                assert caller.run(combiner.submit(item, deadline)) == item
                served += 1
        return served

    results = in_threads(THREADS, work)
    assert all(isinstance(result, int) for result in results), results
    assert not combiner._waiting
    assert not combiner._led


def test_wrong_number_of_answers_is_an_error(caller: CallerRuntime) -> None:
    async def flush(items: list[int]) -> list[int]:
        return []

    combiner: Combiner[int, int] = Combiner(caller, flush)
    with pytest.raises(RuntimeError, match="0 of 1"):
        caller.run(combiner.submit(1, caller.now() + 5))
