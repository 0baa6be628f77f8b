"""Recording: moments, outcomes of errors, files."""

from __future__ import annotations

import asyncio

import pytest

from pytikv.errors import DeadlineExceeded, Outcome, RegionUnavailable
from pytikv.testing.history import History, Kind, Status
from pytikv.types import CompareAndSwap


def test_moments_follow_the_order_of_the_calls() -> None:
    history = History()
    first = history.invoke(0, Kind.PUT, b"k", value=b"v")
    second = history.invoke(1, Kind.GET, b"k")
    history.ok(second, b"v")
    history.ok(first)
    assert first.invoked < second.invoked < (second.returned or 0) < (first.returned or 0)


async def answer(value: object) -> object:
    if isinstance(value, BaseException):
        raise value
    return value


def test_answers_are_recorded() -> None:
    history = History()
    cas = history.invoke(0, Kind.CAS, b"k", expected=None, value=b"v")
    asyncio.run(history.call(cas, answer(CompareAndSwap(False, b"x"))))
    assert (cas.status, cas.read, cas.swapped) == (Status.OK, b"x", False)
    absent = history.invoke(0, Kind.PUT_IF_ABSENT, b"k", value=b"v")
    history.call_blocking(absent, lambda: None)
    assert (absent.read, absent.swapped) == (None, True)
    get = history.invoke(0, Kind.GET, b"k")
    assert history.call_blocking(get, lambda: b"v") == b"v"
    assert get.read == b"v"


@pytest.mark.parametrize(
    ("kind", "error", "status"),
    [
        (Kind.PUT, RegionUnavailable("none"), Status.FAILED),
        (Kind.PUT, DeadlineExceeded("late", outcome=Outcome.UNDETERMINED), Status.UNDETERMINED),
        (Kind.PUT, KeyboardInterrupt(), Status.UNDETERMINED),
        (Kind.GET, KeyboardInterrupt(), Status.FAILED),
        (Kind.CAS, asyncio.CancelledError(), Status.UNDETERMINED),
    ],
)
def test_errors_are_recorded_by_outcome_and_raised(kind: Kind, error: BaseException, status: Status) -> None:
    history = History()
    operation = history.invoke(0, kind, b"k", value=b"v")

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        history.call_blocking(operation, fail)
    assert operation.status is status


def test_json_lines_round_trip() -> None:
    history = History()
    history.ok(history.invoke(0, Kind.PUT, b"\x00\xff", value=b"v"))
    history.invoke(1, Kind.CAS, b"k", expected=b"a", value=None)
    history.failed(history.invoke(1, Kind.DELETE, b"k"))
    again = History.from_json_lines(history.to_json_lines())
    assert again.operations == history.operations
    assert again.invoke(0, Kind.GET, b"k").invoked > 5
