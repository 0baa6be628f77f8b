"""Field specs: columns, templates, whole rows."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.errors import InvalidArgument
from pytikv.transfer.template import (
    ENCODINGS,
    compile_spec,
    decode_text,
    encode_bytes,
    json_object,
    spec_columns,
)

COLUMNS = ("carrier", "flight", "a b")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("flight", "15"),
        ("flight/{carrier}/{flight}", "flight/UA/15"),
        ("{flight:04}", "0015"),
        ("{a b}", "x%s"),
        ("{{{flight}}}", "{15}"),
        ("100%{flight}%s", "100%15%s"),
        ("{flight}{flight:03}", "15015"),
    ],
)
def test_specs(spec: str, expected: str) -> None:
    assert compile_spec(spec, COLUMNS)(["UA", "15", "x%s"]) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tail", "no column 'tail'; the columns are: carrier, flight, a b"),
        ("{tail}", "no column 'tail'"),
        ("{carrier", "stray '{' at position 1"),
        ("x}", "stray '}' at position 2"),
        ("{}", "stray"),
        ("{flight:x}", "stray"),
    ],
)
def test_bad_specs(spec: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        compile_spec(spec, COLUMNS)


def test_columns_of_a_spec() -> None:
    assert spec_columns("plain") == ["plain"]
    assert spec_columns("{a}/{{x}}/{b:02}") == ["a", "b"]


@given(st.dictionaries(st.text(min_size=1), st.text(), min_size=1))
def test_whole_row_is_the_json_of_the_row(row: dict[str, str]) -> None:
    assert json.loads(json_object(list(row))(list(row.values()))) == row


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name != "text"])
@given(data=st.binary(max_size=64))
def test_encodings_round_trip(encoding: str, data: bytes) -> None:
    assert decode_text(encoding)(encode_bytes(encoding)(data)) == data


def test_text_encoding_keeps_undecodable_bytes_of_the_file() -> None:
    assert decode_text("text")(b"\xffa".decode("utf-8", "surrogateescape")) == b"\xffa"
