"""The three forms of a key in each API version."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.codec import api, memcomparable


def test_raw_v1_is_plain_everywhere() -> None:
    codec = api.raw_v1()
    assert codec.encode_key(b"k") == codec.region_key(b"k") == codec.decode_key(b"k") == b"k"
    assert codec.encode_range(b"", b"") == (b"", b"")
    assert codec.wire_border(b"anything") == b"anything"


def test_txn_v1_encodes_borders_only() -> None:
    codec = api.txn_v1()
    assert codec.encode_key(b"k") == b"k"
    assert codec.region_key(b"k") == memcomparable.encode(b"k")
    assert codec.region_border(b"") == b""


@pytest.mark.parametrize(
    ("keyspace_id", "is_raw", "prefix", "end"),
    [
        (0, True, b"r\x00\x00\x00", b"r\x00\x00\x01"),
        (0xFFFFFF, True, b"r\xff\xff\xff", b"s\x00\x00\x00"),
        (0xFFFFFF, False, b"x\xff\xff\xff", b"y\x00\x00\x00"),
    ],
)
def test_v2_prefix_and_end(keyspace_id: int, is_raw: bool, prefix: bytes, end: bytes) -> None:
    codec = api.v2(keyspace_id, is_raw=is_raw)
    assert codec.encode_key(b"k") == prefix + b"k"
    assert codec.encode_range(b"", b"") == (prefix, end)
    assert codec.encode_range(b"a", b"b") == (prefix + b"a", prefix + b"b")
    with pytest.raises(ValueError, match="outside of keyspace"):
        codec.decode_key(b"q" + prefix[1:])


@given(st.integers(0, 0xFFFFFF), st.binary(max_size=30), st.booleans())
def test_v2_round_trip_within_the_keyspace(keyspace_id: int, key: bytes, is_raw: bool) -> None:
    codec = api.v2(keyspace_id, is_raw=is_raw)
    wire = codec.encode_key(key)
    assert codec.decode_key(wire) == key
    start, end = codec.encode_range(b"", b"")
    assert start <= wire < end
    assert codec.wire_border(codec.region_key(wire)) == wire


@pytest.mark.parametrize("keyspace_id", [-1, 0x1000000])
def test_keyspace_id_out_of_range(keyspace_id: int) -> None:
    with pytest.raises(ValueError, match="keyspace id"):
        api.v2(keyspace_id, is_raw=True)
