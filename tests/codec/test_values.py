"""Timestamps, ranges and errors as values."""

import datetime
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv import errors
from pytikv.types import KeyRange, Timestamp


@given(st.integers(0, (1 << 46) - 1), st.integers(0, (1 << 18) - 1))
def test_timestamp_parts(physical_ms: int, logical: int) -> None:
    ts = Timestamp.compose(physical_ms, logical)
    assert (ts.physical_ms, ts.logical) == (physical_ms, logical)
    assert ts == (physical_ms << 18) + logical


def test_timestamp_as_datetime() -> None:
    assert Timestamp.compose(86_400_000).datetime == datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC)


def test_range_contains() -> None:
    assert KeyRange(b"a", b"b").contains(b"a")
    assert not KeyRange(b"a", b"b").contains(b"b")
    assert KeyRange(b"a", b"").contains(b"\xff")


def every_error() -> list[type[errors.TikvError]]:
    found, todo = [], [errors.TikvError]
    while todo:
        cls = todo.pop()
        found.append(cls)
        todo += [c for c in cls.__subclasses__() if c.__module__ == "pytikv.errors"]
    return found


@pytest.mark.parametrize("cls", every_error(), ids=lambda c: c.__name__)
def test_every_error_has_a_code_an_outcome_and_survives_pickling(cls: type[errors.TikvError]) -> None:
    error = cls("text", failed={b"k": errors.ServerError("x")}) if cls is errors.BatchError else cls("text")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == "text"
    assert again.code
    assert isinstance(again.outcome, errors.Outcome)
    assert isinstance(again.retryable, bool)
    assert cls.__doc__


def test_errors_are_caught_as_their_builtin_kin() -> None:
    for kin, error in [
        (ValueError, errors.InvalidArgument()),
        (TypeError, errors.WrongType()),
        (ConnectionError, errors.ConnectionFailed()),
        (TimeoutError, errors.DeadlineExceeded()),
    ]:
        with pytest.raises(kin):
            raise error


def test_batch_error_sums_up_its_parts() -> None:
    lost = errors.ConnectionFailed("x", outcome=errors.Outcome.UNDETERMINED)
    mixed = errors.BatchError("two", failed={b"a": lost, b"b": errors.RegionUnavailable("y")})
    assert mixed.outcome is errors.Outcome.UNDETERMINED
    assert mixed.retryable
    assert not errors.BatchError("one", failed={b"a": errors.ServerError("z")}).retryable


def test_keys_can_be_redacted() -> None:
    errors.redact_keys(True)
    try:
        assert errors.format_key(b"secret") == "?"
    finally:
        errors.redact_keys(False)
    assert errors.format_key(b"x" * 100).endswith("... (100 bytes)")
