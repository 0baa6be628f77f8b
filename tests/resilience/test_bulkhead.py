"""The places: against a dumb twin in virtual time, and between real threads."""

from __future__ import annotations

import contextlib
import threading
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytikv.client.resilience.bulkhead import Bulkhead, QueueFull, QueueTimeout
from pytikv.rt.caller import CallerRuntime
from pytikv.testing.sim import World


class Twin:
    """Who is in, who waits since when; first in, first out."""

    def __init__(self, limit, max_queue):
        self.limit, self.max_queue = limit, max_queue
        self.inside, self.waiting, self.refused = [], deque(), set()

    def come(self, who):
        if len(self.inside) < self.limit and not self.waiting:
            self.inside.append(who)
        elif len(self.waiting) >= self.max_queue:
            self.refused.add(who)
        else:
            self.waiting.append(who)

    def go(self, who):
        self.inside.remove(who)
        self.fill()

    def give_up(self, who):
        self.waiting.remove(who)
        self.refused.add(who)

    def resize(self, limit):
        self.limit = limit
        self.fill()

    def fill(self):
        while self.waiting and len(self.inside) < self.limit:
            self.inside.append(self.waiting.popleft())


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(0, 4),
    st.lists(
        st.tuples(st.sampled_from(["come", "come", "go", "cancel", "resize", "pass"]), st.integers(0, 7)), max_size=60
    ),
)
def test_it_does_as_its_twin(limit, max_queue, steps):
    world = World(1)
    rt = world.process("p")
    bulkhead = Bulkhead(rt, limit, max_queue=max_queue, max_queue_s=1e6)
    twin = Twin(limit, max_queue)
    inside, refused, tasks = [], set(), {}

    async def one(who):
        try:
            if not bulkhead.try_enter():
                await bulkhead.enter(rt.now() + 1e6)
        except (QueueFull, rt.Cancelled):
            refused.add(who)
            raise
        inside.append(who)

    async def quietly(who):
        with contextlib.suppress(QueueFull, rt.Cancelled):
            await one(who)

    async def main():
        for number, (what, pick) in enumerate(steps):
            if what == "come":
                tasks[number] = rt.spawn(quietly(number), name=f"caller {number}")
                twin.come(number)
            elif what == "go" and twin.inside:
                who = twin.inside[pick % len(twin.inside)]
                inside.remove(who)
                bulkhead.leave()
                twin.go(who)
            elif what == "cancel" and twin.waiting:
                who = twin.waiting[pick % len(twin.waiting)]
                tasks[who].cancel()
                twin.give_up(who)
            elif what == "resize":
                bulkhead.resize(pick + 1)
                twin.resize(pick + 1)
            await rt.sleep(0.001)
            assert sorted(inside) == sorted(twin.inside)
            assert refused == twin.refused
            assert bulkhead.in_flight == len(twin.inside)
            assert bulkhead.queued == len(twin.waiting)
        while twin.inside:
            who = twin.inside[0]
            inside.remove(who)
            bulkhead.leave()
            twin.go(who)
            await rt.sleep(0.001)
        assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)

    with world:
        world.run(_in(world, rt, main))


async def _in(world, rt, main):
    """Run `main` in the process, and wait for it."""
    done = []

    async def run():
        try:
            await main()
        except BaseException as error:
            done.append(error)
            return
        done.append(None)

    rt.spawn(run(), name="main")
    while not done:
        await world.process("main").sleep(0.01)
    if done[0] is not None:
        raise done[0]


def test_a_wait_ends_at_its_own_time_and_at_the_deadline():
    world = World(1)
    rt = world.process("p")

    async def main():
        bulkhead = Bulkhead(rt, 1, max_queue=10, max_queue_s=0.5)
        assert bulkhead.try_enter()
        for deadline_s, expected_s in ((10.0, 0.5), (0.2, 0.2)):
            began = rt.now()
            try:
                await bulkhead.enter(began + deadline_s)
            except QueueTimeout:
                assert abs(rt.now() - began - expected_s) < 0.001
            else:
                raise AssertionError("there was no place")
        assert bulkhead.queued == 0

    with world:
        world.run(_in(world, rt, main))


def test_who_is_patient_waits_for_its_deadline_however_many_do():
    world = World(1)
    rt = world.process("p")

    async def main():
        bulkhead = Bulkhead(rt, 1, max_queue=0, max_queue_s=0.01)
        assert bulkhead.try_enter()
        began = rt.now()
        with pytest.raises(QueueFull):
            await bulkhead.enter(began + 1.0)
        with pytest.raises(QueueTimeout):
            await bulkhead.enter(began + 1.0, is_patient=True)
        assert abs(rt.now() - began - 1.0) < 0.001
        rt.call_at(rt.now() + 2.0, bulkhead.leave)
        await bulkhead.enter(rt.now() + 5.0, is_patient=True)
        assert (bulkhead.in_flight, bulkhead.queued) == (1, 0)

    with world:
        world.run(_in(world, rt, main))


def test_a_place_that_comes_to_one_who_has_just_gone_is_passed_on():
    world = World(1)
    rt = world.process("p")

    async def main():
        bulkhead = Bulkhead(rt, 1, max_queue=10, max_queue_s=10.0)
        assert bulkhead.try_enter()
        got = []

        async def wait(name):
            await bulkhead.enter(rt.now() + 10.0)
            got.append(name)

        first = rt.spawn(wait("first"), name="first")
        rt.spawn(wait("second"), name="second")
        await rt.sleep(0.01)
        bulkhead.leave()
        first.cancel()  # in the same turn: its place is on its way to it
        await rt.sleep(0.01)
        assert got in (["second"], ["first"])
        if got == ["first"]:
            bulkhead.leave()
            await rt.sleep(0.01)
        assert bulkhead.in_flight == 1
        assert bulkhead.queued == 0

    with world:
        world.run(_in(world, rt, main))


def test_threads_never_exceed_the_limit_and_lose_no_place():
    rt = CallerRuntime()
    bulkhead = Bulkhead(rt, 3, max_queue=100, max_queue_s=20.0)
    inside, most, lock = 0, 0, threading.Lock()
    errors = []

    async def once():
        nonlocal inside, most
        if not bulkhead.try_enter():
            await bulkhead.enter(rt.now() + 20.0)
        with lock:
            inside += 1
            most = max(most, inside)
        await rt.sleep(0)  # lets another thread in at this point
        with lock:
            inside -= 1
        bulkhead.leave()

    def work():
        try:
            for _ in range(300):
                rt.run(once())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(40):
        bulkhead.resize(1 + number % 5)
    bulkhead.resize(3)
    for thread in threads:
        thread.join()
    rt.close()
    assert errors == []
    assert most <= 5
    assert (bulkhead.in_flight, bulkhead.queued, bulkhead.limit) == (0, 0, 3)
    assert all(bulkhead.try_enter() for _ in range(3))
    assert not bulkhead.try_enter()
