"""When a transaction is tried again: the rules, and what lies behind a `with` block."""

from __future__ import annotations

import asyncio
import random
import sys
from types import SimpleNamespace
from typing import Any

import pytest

import pytikv
from pytikv.client.txn.attempts import CAP_S, Attempts, falls_through, may_retry
from pytikv.errors import Outcome


def attempts(count: int, *, now: float = 0.0) -> Attempts:
    rt: Any = SimpleNamespace(rng=random.Random(5), now=lambda: now)
    return Attempts(rt, count)


# --- the rules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "outcome", "again"),
    [
        (pytikv.WriteConflict("x"), Outcome.NOT_APPLIED, True),
        (pytikv.WriteConflict("x"), None, True),
        (pytikv.Deadlock("x"), Outcome.NOT_APPLIED, True),
        (pytikv.ConnectionFailed("x"), Outcome.NOT_APPLIED, True),
        (pytikv.KeyExists("x"), Outcome.NOT_APPLIED, False),
        (pytikv.CommitUndetermined("x"), Outcome.UNDETERMINED, False),
        (pytikv.ConnectionFailed("x", outcome=Outcome.UNDETERMINED), Outcome.UNDETERMINED, False),
        (pytikv.ConnectionFailed("x", outcome=Outcome.UNDETERMINED), Outcome.NOT_APPLIED, False),
        (pytikv.WriteConflict("x"), Outcome.APPLIED, False),
        (pytikv.WriteConflict("x"), Outcome.UNDETERMINED, False),
        (ValueError("x"), Outcome.NOT_APPLIED, False),
        (KeyboardInterrupt(), None, False),
    ],
)
def test_what_may_be_run_again(error: BaseException, outcome: Outcome | None, again: bool) -> None:
    assert may_retry(error, outcome) is again


def test_waits_grow_and_are_bounded() -> None:
    tries = attempts(1000)
    waits = []
    while tries.begin() and tries.failed(pytikv.WriteConflict("x"), None):
        waits.append(tries.wait_s)
    assert len(waits) == 999
    assert max(waits[:3]) <= 0.016
    assert max(waits) <= CAP_S
    assert max(waits[8:]) > CAP_S / 2
    assert len(set(waits)) == 999


def test_the_last_error_is_the_callers() -> None:
    tries = attempts(2)
    assert tries.begin()
    assert tries.failed(pytikv.WriteConflict("1"), None)
    assert tries.begin()
    assert not tries.failed(pytikv.WriteConflict("2"), None)
    assert not tries.begin()


def test_success_ends_the_loop() -> None:
    tries = attempts(5)
    assert tries.begin()
    tries.end()
    assert not tries.begin()


def test_a_wait_never_passes_the_deadline() -> None:
    with pytikv.deadline(0.0):
        tries = attempts(5, now=1e12)
        assert tries.begin()
        assert not tries.failed(pytikv.WriteConflict("x"), None)


def test_a_transaction_that_was_not_used_is_found() -> None:
    tries = attempts(5)
    assert tries.begin()
    with pytest.raises(pytikv.InvalidArgument, match="was not used"):
        tries.begin()


@pytest.mark.parametrize("count", [0, -1, 1.5, True, None])
def test_bad_numbers(count: Any) -> None:
    with pytest.raises(pytikv.InvalidArgument, match="attempts"):
        attempts(count)


# --- what lies behind a block -----------------------------------------------------------------------------------------


class Probe:
    """A context manager that asks, at its end, where its caller goes on."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        caller = sys._getframe(1)
        self.seen.append(falls_through(caller.f_code, caller.f_lasti))

    async def __aenter__(self) -> Probe:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)
        caller = sys._getframe(1)
        self.seen.append(falls_through(caller.f_code, caller.f_lasti))

    async def __aiter__(self) -> Any:
        yield 1


def ends_the_body(probe: Probe) -> None:
    for _ in (1,):
        with probe:
            len("x")


def ends_a_branch(probe: Probe) -> None:
    for number in (1,):
        if number:
            with probe:
                len("x")
        else:
            len("y")


def continues(probe: Probe) -> None:
    for number in (1,):
        with probe:
            if number:
                continue
            len("x")


def continues_in_a_loop_of_its_own(probe: Probe) -> None:
    for _ in (1,):
        with probe:
            for number in (1, 2):
                if number == 1:
                    continue
                len("x")


def returns(probe: Probe) -> int:
    for _ in (1,):
        with probe:
            return len("x")
    return 0


def returns_nothing(probe: Probe) -> None:
    for _ in (1,):
        with probe:
            return


def breaks(probe: Probe) -> None:
    for _ in (1,):
        with probe:
            break


def breaks_into_a_loop(probe: Probe) -> None:
    for _ in (1,):
        for _ in (1,):
            with probe:
                break


def goes_on(probe: Probe) -> int:
    count = 0
    for _ in (1,):
        with probe:
            len("x")
        count += 1
    return count


def has_no_loop(probe: Probe) -> None:
    with probe:
        len("x")


def is_long(probe: Probe) -> int:
    total = 0
    for _ in (1,):
        with probe:
            total += sum((1, 2, 3)) + sum((1, 2, 3)) + sum((1, 2, 3)) + sum((1, 2, 3)) + sum((1, 2, 3)) + sum((1, 2))
            total += sum((1, 2, 3)) + sum((1, 2, 3)) + sum((1, 2, 3)) + sum((1, 2, 3)) + sum((1, 2, 3)) + sum((1, 2))
            total += sum((1, 2, 3)) + sum((1, 2, 3)) + sum((1, 2, 3)) + sum((1, 2, 3)) + sum((1, 2, 3)) + sum((1, 2))
            total += sum((1, 2, 3)) + sum((1, 2, 3)) + sum((1, 2, 3)) + sum((1, 2, 3)) + sum((1, 2, 3)) + sum((1, 2))
    return total


@pytest.mark.parametrize("function", [ends_the_body, ends_a_branch, continues, continues_in_a_loop_of_its_own, is_long])
def test_the_next_turn_is_recognized(function: Any) -> None:
    probe = Probe()
    function(probe)
    assert probe.seen == [True]


@pytest.mark.parametrize("function", [returns, returns_nothing, breaks, breaks_into_a_loop, goes_on, has_no_loop])
def test_anything_else_is_not(function: Any) -> None:
    probe = Probe()
    function(probe)
    assert set(probe.seen) == {False}


async def async_ends_the_body(probe: Probe) -> None:
    async for _ in probe:
        async with probe:
            await asyncio.sleep(0)


async def async_continues(probe: Probe) -> None:
    async for number in probe:
        async with probe:
            if number:
                continue
            await asyncio.sleep(0)


async def async_returns(probe: Probe) -> object:
    async for _ in probe:
        async with probe:
            return await asyncio.sleep(0)
    return None


async def async_breaks(probe: Probe) -> None:
    async for _ in probe:
        async with probe:
            break


async def async_breaks_into_a_loop(probe: Probe) -> None:
    for _ in (1,):
        async for _ in probe:
            async with probe:
                break


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (async_ends_the_body, True),
        (async_continues, True),
        (async_returns, False),
        (async_breaks, False),
        (async_breaks_into_a_loop, False),
    ],
)
def test_the_same_in_coroutines(function: Any, expected: bool) -> None:
    probe = Probe()
    asyncio.run(function(probe))
    assert probe.seen == [expected]


def test_a_failed_commit_behind_which_the_loop_is_left_is_raised() -> None:
    tries = attempts(5)
    assert tries.begin()
    error = pytikv.WriteConflict("x")
    here = sys._getframe()
    assert not tries.commit_failed(error, None, here)
    assert "the loop over `attempts` is left" in error.__notes__[0]
    assert not tries.begin()
