"""Escaped text: readable, re-typable, exact."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.errors import InvalidArgument
from pytikv.transfer.escape import escape, unescape


@given(st.binary(max_size=200))
def test_round_trip(data: bytes) -> None:
    text = escape(data)
    assert unescape(text) == data
    assert text.isascii()
    assert all(c in string.printable and c not in "\t\n\r\v\f" for c in text)


@given(st.text(alphabet=st.characters(exclude_characters="\\"), max_size=50))
def test_text_without_backslash_stands_for_its_utf8(text: str) -> None:
    if not any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        assert unescape(text) == text.encode()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"user_1", "user_1"),
        (b"a b", "a b"),
        (b"\x00\xff", r"\x00\xff"),
        (b"back\\slash", r"back\\slash"),
        (b"\n", r"\x0a"),
        ("é".encode(), r"\xc3\xa9"),
        (b"[~]", "[~]"),
        (b"\x7f", r"\x7f"),
    ],
)
def test_examples(data: bytes, text: str) -> None:
    assert escape(data) == text
    assert unescape(text) == data


def test_also_taken() -> None:
    assert unescape(r"\n\t\r\0\x4A") == b"\n\t\r\x00J"
    assert unescape("é\\x00") == "é".encode() + b"\x00"
    assert unescape("\udcff") == b"\xff"  # an undecodable byte of the command line


@pytest.mark.parametrize("text", ["\\", r"a\q", r"\x", r"\x1", r"\xg0", "\\\\\\"])
def test_bad_escape_says_where(text: str) -> None:
    with pytest.raises(InvalidArgument, match="a backslash at position"):
        unescape(text)
