"""Tuples sort as their bytes do, and come back as they were."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import enum
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.errors import InvalidArgument, WrongType
from pytikv.model.tuples import Desc, decode, encode, prefix_range

ZONES = st.sampled_from([datetime.UTC, datetime.timezone(datetime.timedelta(hours=5, minutes=30))])
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers() | st.integers(-(1 << 2100), 1 << 2100) | st.sampled_from([0, 255, 256, -255, -256, 1 << 64]),
    "float": st.floats(allow_nan=False),
    "str": st.text(st.characters(codec="utf-8")),
    "bytes": st.binary(),
    "bool": st.booleans(),
    "uuid": st.uuids(),
    "datetime": st.datetimes(timezones=ZONES),
    "date": st.dates(),
    "decimal": st.decimals(allow_nan=False),
    "none": st.none(),
}


def tuples_of(kinds: list[str], descending: list[bool]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(*(KINDS[kind] for kind in kinds))


@st.composite
def two_of_one_shape(draw: st.DrawFn) -> tuple[list[bool], tuple[Any, ...], tuple[Any, ...]]:
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4))
    descending = draw(st.lists(st.booleans(), min_size=len(kinds), max_size=len(kinds)))
    first = draw(tuples_of(kinds, descending))
    # Often all but one part are equal, so that later parts decide.
    second = list(first)
    at = draw(st.integers(0, len(kinds) - 1))
    second[at] = draw(KINDS[kinds[at]])
    return descending, first, tuple(second)


def compare(descending: list[bool], first: tuple[Any, ...], second: tuple[Any, ...]) -> int:
    for down, one, other in zip(descending, first, second, strict=True):
        if one != other:
            return (1 if one > other else -1) * (-1 if down else 1)
    return 0


def marked(descending: list[bool], values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(Desc(value) if down else value for down, value in zip(descending, values, strict=True))


@given(two_of_one_shape())
def test_bytes_sort_as_values(case: tuple[list[bool], tuple[Any, ...], tuple[Any, ...]]) -> None:
    descending, first, second = case
    one, other = encode(marked(descending, first)), encode(marked(descending, second))
    assert (one > other) - (one < other) == compare(descending, first, second)


PART = st.recursive(
    st.one_of(*KINDS.values()), lambda inner: st.lists(inner | inner.map(Desc), max_size=3).map(tuple), max_leaves=6
)
TUPLE = st.lists(PART | PART.map(Desc), max_size=5).map(tuple)


@given(TUPLE)
def test_tuples_come_back(values: tuple[Any, ...]) -> None:
    assert decode(encode(values)) == values


@given(TUPLE, TUPLE)
def test_no_two_tuples_share_their_bytes(first: tuple[Any, ...], second: tuple[Any, ...]) -> None:
    if repr(first) != repr(second) and encode(first) == encode(second):
        assert decode(encode(first)) == second  # equal values that are written in two ways, as 1.0 and 1.00


@given(TUPLE, TUPLE)
def test_extensions_are_a_range(first: tuple[Any, ...], rest: tuple[Any, ...]) -> None:
    low, high = prefix_range(encode(first))
    assert low <= encode(first + rest) < high


@given(st.tuples(KINDS["str"], KINDS["int"]), st.tuples(KINDS["str"], KINDS["int"]))
def test_nested_tuples_sort_as_values(first: tuple[str, int], second: tuple[str, int]) -> None:
    assert (encode((first, 1)) < encode((second, 1))) == (
        (first[0].encode(), first[1]) < (second[0].encode(), second[1])
    )
    assert (encode((Desc(first),)) > encode((Desc(second),))) == (
        (first[0].encode(), first[1]) < (second[0].encode(), second[1])
    )


@given(st.binary(max_size=40))
def test_foreign_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(InvalidArgument):
        assert decode(encode(decode(data))) == decode(data)


VECTORS = [
    ((), ""),
    ((None, b"\x00a", "ü"), "0001" + "00ff6100" + "02c3bc00"),
    ((0, 1, -1, 255, 256, -255, -256), "14" + "1501" + "13fe" + "15ff" + "160100" + "1300" + "12feff"),
    (((1 << 64), -(1 << 64)), "1d09010000000000000000" + "0bf6feffffffffffffffff"),
    ((1.5, -1.5, -0.0), "21bff8000000000000" + "214007ffffffffffff" + "218000000000000000"),
    ((False, True), "2627"),
    (((None, "a"),), "0500ff02610000"),
    ((uuid.UUID(int=1),), "30" + "00" * 15 + "01"),
    ((datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC),), "408000000000000000"),
    ((datetime.date(1970, 1, 2),), "4180000001"),
    ((decimal.Decimal("12.50"), decimal.Decimal("-0.07")), "4203" + "15020203" + "0600" + "4201" + "ec01f7ff"),
    ((Desc(1), Desc("a"), Desc(None)), "e9fe" + "fc9efffe" + "fe"),
]


@pytest.mark.parametrize(("values", "data"), VECTORS, ids=[repr(values)[:40] for values, _ in VECTORS])
def test_vectors(values: tuple[Any, ...], data: str) -> None:
    assert encode(values).hex() == data
    assert decode(bytes.fromhex(data)) == values


class Colour(enum.Enum):
    RED = 1


class Name(str):
    __slots__ = ()


def test_decimals_out_of_all_bounds_are_refused() -> None:
    exponent = encode((10**30,))
    for data in (b"\x42\x03" + exponent + b"\x02\0", b"\x42\x03" + encode((2**62,)) + b"\x02\0", b"\x42\x03\x14\xff\0"):
        with pytest.raises(InvalidArgument):
            decode(data)


def test_enums_and_subclasses_are_their_values() -> None:
    assert encode((Colour.RED, Name("a"))) == encode((1, "a"))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (float("nan"), InvalidArgument),
        (decimal.Decimal("NaN"), InvalidArgument),
        (datetime.datetime(2026, 1, 1), InvalidArgument),
        ("\ud800", InvalidArgument),
        (Desc(Desc(1)), InvalidArgument),
        ([1], WrongType),
        (object(), WrongType),
    ],
)
def test_what_has_no_place_in_an_order(value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        encode((value,))


def test_depth_is_bounded() -> None:
    deep: Any = 1
    for _ in range(40):
        deep = (deep,)
    with pytest.raises(InvalidArgument):
        encode(deep)
    with pytest.raises(InvalidArgument):
        decode(b"\x05" * 2000)
