"""What a guard tells its adaptive limit: more than its breaker, and less after an opening."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytikv.client.resilience.guard import Guard
from pytikv.policies import BreakerPolicy, LimitPolicy
from pytikv.testing.sim import World
from pytikv.wire.errors import RpcError, Status

TIMED_OUT = RpcError(Status.DEADLINE_EXCEEDED, "no answer within the deadline")


@pytest.fixture
def world() -> Iterator[World]:
    with World(1) as world:
        yield world


def guard_of(world: World, **breaker: float) -> Guard:
    policy = BreakerPolicy(**breaker)  # type: ignore[arg-type]  # min_calls is an int
    return Guard(world.process("client"), "store:1", breaker=policy, limit=LimitPolicy(initial=64))


def time_out(guard: Guard, world: World, calls: int, given_s: float) -> None:
    """Let calls run out of the time that they are given."""
    for _ in range(calls):
        ticket = guard.admit(world.now)
        world.now += 0.02
        guard.failed(ticket, world.now, given_s, given_s, TIMED_OUT)


def answer(guard: Guard, world: World, calls: int, took_s: float) -> None:
    for _ in range(calls):
        ticket = guard.admit(world.now)
        world.now += 0.02
        guard.done(ticket, world.now, took_s)


def test_time_that_was_long_enough_once_tells_the_limit_and_not_the_breaker(world: World) -> None:
    guard = guard_of(world)
    answer(guard, world, 5, 0.2)  # the store was in need when it was met first
    time_out(guard, world, 100, 0.3)
    state = guard.snapshot()
    assert state.breaker == "closed"
    assert state.limit == 1


def test_time_shorter_than_any_answer_tells_nothing(world: World) -> None:
    guard = guard_of(world)
    answer(guard, world, 5, 0.2)
    time_out(guard, world, 100, 0.1)
    assert guard.snapshot().limit == 64


def test_an_opening_begins_the_limit_anew(world: World) -> None:
    guard = guard_of(world, min_calls=5)
    answer(guard, world, 4, 0.01)
    time_out(guard, world, 4, 0.5)
    state = guard.snapshot()
    assert state.breaker == "open"
    assert state.limit == 1
