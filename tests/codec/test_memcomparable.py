"""The order-preserving byte encoding: vectors of TiKV's own tests, order, round trip, malformed input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.codec import memcomparable


@pytest.mark.parametrize(
    ("plain", "encoded"),
    [
        (b"", "0000000000000000f7"),
        (b"\x01\x02\x03", "0102030000000000fa"),
        (b"\x01\x02\x03\x00", "0102030000000000fb"),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08", "0102030405060708ff0000000000000000f7"),
        (b"\x00" * 9, "0000000000000000ff0000000000000000f8"),
    ],
)
def test_vectors(plain: bytes, encoded: str) -> None:
    assert memcomparable.encode(plain).hex() == encoded
    assert memcomparable.decode(bytes.fromhex(encoded)) == (plain, b"")


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_order_is_kept(a: bytes, b: bytes) -> None:
    assert (memcomparable.encode(a) < memcomparable.encode(b)) == (a < b)


@given(st.binary(max_size=60), st.binary(max_size=10))
def test_round_trip_leaves_the_rest(data: bytes, rest: bytes) -> None:
    assert memcomparable.decode(memcomparable.encode(data) + rest) == (data, rest)


@given(st.binary(max_size=40))
def test_any_bytes_decode_or_raise(data: bytes) -> None:
    try:
        plain, rest = memcomparable.decode(data)
    except ValueError:
        return
    assert memcomparable.encode(plain) + rest == data


def test_borders_leave_infinity_alone() -> None:
    assert memcomparable.encode_border(b"") == b""
    assert memcomparable.decode_border(b"") == b""
    with pytest.raises(ValueError, match="after its encoding"):
        memcomparable.decode_border(memcomparable.encode(b"a") + b"x")
