"""Ambient deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.ambient import current_deadline, deadline, effective, remaining
from pytikv.errors import InvalidArgument
from pytikv.rt.clock import ambient_clock


def test_none_by_default() -> None:
    assert current_deadline() is None
    assert remaining() is None
    assert effective(5.0, 2.0) == 7.0


def test_bounds_what_is_inside() -> None:
    with deadline(1.0):
        now = time.monotonic()
        assert now < effective(now, 10.0) <= now + 1.0
        assert effective(now, 0.1) == now + 0.1
        assert 0.9 < remaining() <= 1.0
    assert current_deadline() is None


def test_nested_ones_only_shrink() -> None:
    with deadline(1.0):
        outer = current_deadline()
        with deadline(5.0):
            assert current_deadline() == outer
        with deadline(0.5):
            assert current_deadline() < outer
        assert current_deadline() == outer


def test_over_is_zero_left() -> None:
    with deadline(0):
        assert remaining() == 0.0


def test_it_ends_with_an_exception_too() -> None:
    with pytest.raises(KeyError), deadline(1.0):
        raise KeyError
    assert current_deadline() is None


def test_follows_tasks() -> None:
    async def inner() -> float | None:
        return current_deadline()

    async def main() -> None:
        with deadline(1.0):
            assert await asyncio.create_task(inner()) == current_deadline()
        assert await asyncio.create_task(inner()) is None

    asyncio.run(main())


def test_a_simulation_has_its_own_clock() -> None:
    def inside() -> None:
        ambient_clock.set(lambda: 1000.0)
        with deadline(3.0):
            assert current_deadline() == 1003.0

    contextvars.copy_context().run(inside)


@pytest.mark.parametrize("seconds", [-1, float("nan"), "1", None, True])
def test_refuses_what_is_no_time(seconds) -> None:
    with pytest.raises(InvalidArgument):
        deadline(seconds)


def test_one_object_is_for_one_block() -> None:
    one = deadline(1.0)
    with one, pytest.raises(InvalidArgument), one:
        pass


def test_a_reserve_is_kept_for_the_caller() -> None:
    with deadline(1.0, reserve=0.25):
        assert 0.7 < remaining() <= 0.75
        outer = current_deadline()
        with deadline(10.0, reserve=0.25):
            assert current_deadline() == outer - 0.25
        with deadline(math.inf, reserve=0.25):
            assert current_deadline() == outer - 0.25
        with deadline(math.inf):
            assert current_deadline() == outer
    with deadline(math.inf, reserve=1.0):
        assert current_deadline() is None


@pytest.mark.parametrize("reserve", [-1, float("nan"), math.inf, "1", None])
def test_refuses_what_is_no_reserve(reserve) -> None:
    with pytest.raises(InvalidArgument):
        deadline(1.0, reserve=reserve)


blocks = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10)), max_size=6)


@given(blocks)
def test_every_block_ends_within_the_outer_ones(nested) -> None:
    """With a clock that stands still, the end is the sooner of the outer end and the own one, minus the reserve."""

    def inside() -> None:
        ambient_clock.set(lambda: 500.0)
        with contextlib.ExitStack() as stack:
            end = math.inf
            for seconds, reserve in nested:
                stack.enter_context(deadline(seconds, reserve=reserve))
                end = min(end, 500.0 + seconds) - reserve
                assert current_deadline() == end
                assert effective(500.0, 1.0) == min(end, 501.0)
                assert remaining() == max(0.0, end - 500.0)
        assert current_deadline() is None

    contextvars.copy_context().run(inside)
