"""Hand-encoded messages are protobuf's, byte for byte; short decoders agree with protobuf or step aside."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from pytikv.codec.hot_raw import (
    UNUSUAL,
    context_field,
    decode_get,
    decode_pairs,
    encode_delete,
    encode_get,
    encode_pairs,
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


def parsed(data: bytes) -> list[tuple[bytes, bytes]]:
    return [(pair.key, pair.value) for pair in kvrpcpb.RawBatchGetResponse.FromString(data).pairs]


def answer(pairs: list[tuple[bytes, bytes]]) -> bytes:
    return kvrpcpb.RawBatchGetResponse(
        pairs=[kvrpcpb.KvPair(key=key, value=value) for key, value in pairs]
    ).SerializeToString()


@given(st.lists(st.tuples(keys, st.one_of(keys, st.binary(min_size=16_380, max_size=16_390))), max_size=8), ttls, cfs)
def test_pairs_are_encoded(pairs: list[tuple[bytes, bytes]], ttl: int, cf: str) -> None:
    rest = kvrpcpb.RawBatchPutRequest(cf=cf, for_cas=True, ttls=[ttl])
    whole = kvrpcpb.RawBatchPutRequest(pairs=[kvrpcpb.KvPair(key=k, value=v) for k, v in pairs])
    whole.MergeFrom(rest)
    ours = encode_pairs([key for key, _ in pairs], [value for _, value in pairs]) + rest.SerializeToString()
    assert ours == whole.SerializeToString()


@given(st.data(), st.sampled_from([1, 14, 127, 128, 300]), st.sampled_from([1, 100, 127, 128, 16_000]))
def test_pairs_of_one_layout_are_read(data: DataObject, key_size: int, value_size: int) -> None:
    key, value = (st.binary(min_size=size, max_size=size) for size in (key_size, value_size))
    pairs = data.draw(st.lists(st.tuples(key, value), min_size=1, max_size=5))
    read = decode_pairs(answer(pairs))
    if key_size + value_size < 9:
        assert read is UNUSUAL or list(zip(*read, strict=True)) == pairs
    else:
        assert read is not UNUSUAL
        assert list(zip(*read, strict=True)) == pairs


@given(st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=3)), max_size=6))
def test_pairs_of_other_layouts_are_never_misread(pairs: list[tuple[bytes, bytes]]) -> None:
    read = decode_pairs(answer(pairs))
    assert read is UNUSUAL or list(zip(*read, strict=True)) == pairs


@given(
    st.lists(st.tuples(st.binary(min_size=2, max_size=2), st.binary(min_size=3, max_size=3)), min_size=1, max_size=4),
    st.lists(
        st.tuples(st.integers(0, 1000), st.sampled_from(b"\x00\x01\x02\x03\x08\x09\x0a\x12\x1a\x80\xff")), max_size=3
    ),
    st.binary(max_size=3),
)
@example([(b"kk", b"vvv")], [(1, 0x80)], b"")
@example([(b"kk", b"vvv")], [(2, 0x0A)], b"")
def test_spoilt_pairs_are_never_misread(
    pairs: list[tuple[bytes, bytes]], spoilt: list[tuple[int, int]], tail: bytes
) -> None:
    data = bytearray(answer(pairs))
    for position, byte in spoilt:
        data[position % len(data)] = byte
    read = decode_pairs(bytes(data + tail))
    if read is not UNUSUAL:
        assert list(zip(*read, strict=True)) == parsed(bytes(data + tail))


@given(st.binary(max_size=24))
def test_any_bytes_are_never_misread_as_pairs(data: bytes) -> None:
    read = decode_pairs(data)
    if read is not UNUSUAL:
        assert list(zip(*read, strict=True)) == parsed(data)


def test_other_answers_to_a_batch() -> None:
    error = kvrpcpb.RawBatchGetResponse()
    error.region_error.not_leader.region_id = 2
    refusal = kvrpcpb.RawBatchGetResponse()
    refusal.pairs.add().error.abort = "no such thing"
    for unusual in (kvrpcpb.RawBatchGetResponse(), error, refusal):
        assert decode_pairs(unusual.SerializeToString()) is UNUSUAL
