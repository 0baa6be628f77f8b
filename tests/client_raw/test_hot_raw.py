"""Hand-encoded messages are protobuf's, byte for byte; short decoders agree with protobuf or step aside."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytikv.codec.hot_raw import (
    UNUSUAL,
    context_field,
    decode_get,
    encode_delete,
    encode_get,
    encode_put,
    varint,
)
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

keys = st.one_of(st.binary(max_size=80), st.binary(min_size=120, max_size=140), st.binary(min_size=500, max_size=530))
cfs = st.sampled_from(["", "default", "lock", "write"])
ttls = st.one_of(st.just(0), st.integers(1, (1 << 63) - 1))


@given(keys, cfs)
def test_get(key: bytes, cf: str) -> None:
    assert encode_get(key, cf.encode()) == kvrpcpb.RawGetRequest(key=key, cf=cf).SerializeToString()


@given(keys, st.one_of(keys, st.binary(min_size=16_380, max_size=16_390)), ttls, st.booleans(), cfs)
def test_put(key: bytes, value: bytes, ttl: int, for_cas: bool, cf: str) -> None:
    expected = kvrpcpb.RawPutRequest(key=key, value=value, ttl=ttl, for_cas=for_cas, cf=cf)
    assert encode_put(key, value, ttl, for_cas, cf.encode()) == expected.SerializeToString()


@given(keys, st.booleans(), cfs)
def test_delete(key: bytes, for_cas: bool, cf: str) -> None:
    expected = kvrpcpb.RawDeleteRequest(key=key, for_cas=for_cas, cf=cf)
    assert encode_delete(key, for_cas, cf.encode()) == expected.SerializeToString()


@given(st.integers(0, (1 << 64) - 1))
@example((1 << 64) - 1)
def test_varint(number: int) -> None:
    expected = kvrpcpb.RawPutRequest(ttl=number).SerializeToString()
    assert (b"\x28" + varint(number) if number else b"") == expected


def test_context_comes_first_and_once() -> None:
    context = kvrpcpb.Context(region_id=7, request_source="x" * 200)
    data = context_field(context.SerializeToString()) + encode_get(b"k")
    assert kvrpcpb.RawGetRequest.FromString(data) == kvrpcpb.RawGetRequest(context=context, key=b"k")


def read(data: bytes) -> bytes | None:
    answer = kvrpcpb.RawGetResponse.FromString(data)
    assert not answer.error
    return None if answer.not_found else answer.value


@given(st.one_of(keys, st.binary(min_size=16_380, max_size=16_390)))
def test_values_are_read(value: bytes) -> None:
    assert decode_get(kvrpcpb.RawGetResponse(value=value).SerializeToString()) == value


def test_other_answers() -> None:
    assert decode_get(kvrpcpb.RawGetResponse(not_found=True).SerializeToString()) is None
    error = kvrpcpb.RawGetResponse()
    error.region_error.not_leader.region_id = 2
    assert decode_get(error.SerializeToString()) is UNUSUAL
    assert decode_get(kvrpcpb.RawGetResponse(error="no").SerializeToString()) is UNUSUAL
    both = kvrpcpb.RawGetResponse(value=b"v", not_found=True).SerializeToString()
    assert decode_get(both) is UNUSUAL


@given(st.binary(max_size=24))
@example(b"\x1a")
@example(b"\x1a\x80")
@example(b"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x1a\x81\x00v")
def test_never_misread(data: bytes) -> None:
    value = decode_get(data)
    if value is not UNUSUAL:
        assert read(data) == value


@pytest.mark.parametrize("size", [0, 1, 127, 128, 511, 512, 16_383, 16_384, 70_000])
def test_borders_of_lengths(size: int) -> None:
    value = b"v" * size
    assert decode_get(kvrpcpb.RawGetResponse(value=value).SerializeToString()) == value
    assert encode_put(b"k" * size, value) == kvrpcpb.RawPutRequest(key=b"k" * size, value=value).SerializeToString()
