"""Hand-made requests are protobuf's, byte for byte; short decoders agree with protobuf or step aside."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.codec.hot_raw import UNUSUAL
from pytikv.codec.hot_txn import decode_get, decode_pairs, encode_get
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

keys = st.one_of(st.binary(max_size=80), st.binary(min_size=120, max_size=140), st.binary(min_size=500, max_size=530))
values = st.one_of(keys, st.binary(min_size=16_380, max_size=16_390))
details = st.one_of(st.just(b""), st.binary(max_size=300))
u64 = st.integers(0, (1 << 64) - 1)


@given(keys, u64, st.booleans())
def test_get(key: bytes, version: int, need_commit_ts: bool) -> None:
    expected = kvrpcpb.GetRequest(key=key, version=version, need_commit_ts=need_commit_ts)
    assert encode_get(key, version, need_commit_ts) == expected.SerializeToString()


def varint(number: int) -> bytes:
    return kvrpcpb.GetRequest(version=number).SerializeToString()[1:] or b"\x00"


def field(tag: int, data: bytes) -> bytes:
    return bytes((tag,)) + varint(len(data)) + data


@given(st.one_of(st.none(), values), st.one_of(st.none(), details))
def test_answers_with_and_without_details_are_read(value: bytes | None, cost: bytes | None) -> None:
    answer = kvrpcpb.GetResponse(not_found=True) if value is None else kvrpcpb.GetResponse(value=value)
    data = answer.SerializeToString() + (b"" if cost is None else field(0x32, cost))
    assert decode_get(data) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_protobuf_does_or_not_at_all(data: bytes) -> None:
    read = decode_get(data)
    if read is UNUSUAL:
        return
    answer = kvrpcpb.GetResponse.FromString(data)
    assert not answer.HasField("error")
    assert not answer.HasField("region_error")
    assert read == (None if answer.not_found else answer.value)


@pytest.mark.parametrize(
    "answer",
    [
        kvrpcpb.GetResponse(error=kvrpcpb.KeyError(abort="x")),
        kvrpcpb.GetResponse(value=b"v", commit_ts=9),
        kvrpcpb.GetResponse(region_error={"message": "m"}),
    ],
)
def test_what_is_not_plain_is_left_to_protobuf(answer: kvrpcpb.GetResponse) -> None:
    assert decode_get(answer.SerializeToString()) is UNUSUAL


@given(
    st.integers(1, 20),
    st.integers(1, 300),
    st.integers(1, 60),
    st.integers(1, 60),
    st.one_of(st.none(), details),
)
def test_pairs_of_one_layout_are_read(
    seed: int, key_size: int, value_size: int, count: int, cost: bytes | None
) -> None:
    pairs = [(bytes((n, seed)) * key_size, bytes((seed, n)) * value_size) for n in range(count)]
    answer = kvrpcpb.BatchGetResponse(pairs=[kvrpcpb.KvPair(key=key, value=value) for key, value in pairs])
    data = answer.SerializeToString() + (b"" if cost is None else field(0x22, cost))
    read = decode_pairs(data)
    if read is UNUSUAL:  # a pair of more than one byte of length with pairs of another: layouts that differ
        assert key_size * 2 > 120 or value_size * 2 > 120 or len(cost or b"") > 0
        return
    assert list(zip(*read, strict=True)) == pairs


def test_details_do_not_cost_the_short_way() -> None:
    pairs = [kvrpcpb.KvPair(key=b"k%04d" % n, value=b"v%04d" % n) for n in range(1000)]
    data = kvrpcpb.BatchGetResponse(pairs=pairs).SerializeToString()
    for cost in (b"", b"x" * 64, b"x" * 1000):
        read = decode_pairs(data + field(0x22, cost))
        assert read is not UNUSUAL
        assert read[0][999] == b"k0999"
        assert len(read[1]) == 1000


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.binary(max_size=3)), max_size=4), st.binary(max_size=12)
)
def test_any_pairs_are_read_as_protobuf_does_or_not_at_all(pairs: list[tuple[bytes, bytes]], tail: bytes) -> None:
    answer = kvrpcpb.BatchGetResponse(pairs=[kvrpcpb.KvPair(key=key, value=value) for key, value in pairs])
    data = answer.SerializeToString() + tail
    read = decode_pairs(data)
    if read is UNUSUAL:
        return
    parsed = kvrpcpb.BatchGetResponse.FromString(data)
    assert not parsed.HasField("error")
    assert list(zip(*read, strict=True)) == [(pair.key, pair.value) for pair in parsed.pairs]
    assert not any(pair.HasField("error") for pair in parsed.pairs)
