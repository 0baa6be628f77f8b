"""Header blocks: what we encode any decoder reads, the cache never changes an answer, malformed lists are named."""

from __future__ import annotations

import contextlib

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytikv.wire.http2.frames import ErrorCode, ProtocolError
from pytikv.wire.http2.headers import (
    HeaderDecoder,
    content_length,
    encode_headers,
    request_problem,
    response_problem,
    trailers_problem,
)

names = st.sampled_from([b":path", b"x-a", b"content-type", b"grpc-timeout", b"grpc-status", b"x" * 200])
values = st.sampled_from([b"", b"0", b"application/grpc", b"v" * 130, b"v" * 5000]) | st.binary(max_size=20)
lists = st.lists(st.tuples(names, values), max_size=6)


@given(lists)
def test_the_library_reads_what_we_encode(headers: list[tuple[bytes, bytes]]) -> None:
    decoder = hpack.Decoder(max_header_list_size=1 << 20)
    assert [tuple(h) for h in decoder.decode(encode_headers(headers), raw=True)] == headers
    assert not decoder.header_table.dynamic_entries


@settings(max_examples=150)
@given(st.lists(st.tuples(lists, st.booleans(), st.sampled_from([None, 0, 64, 4096])), min_size=1, max_size=12))
def test_the_cache_never_changes_an_answer(steps: list[tuple[list[tuple[bytes, bytes]], bool, int | None]]) -> None:
    encoder, plain, mine = hpack.Encoder(), hpack.Decoder(max_header_list_size=1 << 20), HeaderDecoder(1 << 20)
    for headers, sensitive, table_size in steps:
        if table_size is not None:
            encoder.header_table_size = table_size
        block = encoder.encode([(n, v, sensitive) for n, v in headers])
        for _ in range(2):  # the second time may come from the cache; a plain decoder must then agree
            want = [tuple(h) for h in plain.decode(block, raw=True)]
            assert mine.decode(block) == want
            if encoder.header_table.dynamic_entries or block[:1] > b"\x1f":
                break


def test_repeated_blocks_come_from_the_cache_until_the_table_changes() -> None:
    decoder = HeaderDecoder(65536)
    encoder = hpack.Encoder()
    first = encoder.encode([(b"x-a", b"1")])
    decoder.decode(first)
    indexed = encoder.encode([(b"x-a", b"1")])
    assert len(indexed) == 1
    assert decoder.decode(indexed) is decoder.decode(indexed)
    decoder.decode(encoder.encode([(b"x-b", b"2")]))
    assert decoder.decode(indexed) == [(b"x-b", b"2")]


@pytest.mark.parametrize(
    "block",
    [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x80",
        b"\xbe",
        b"\x40",
        b"\x40\x03ab",
        b"\x3f\xe2\x1f",
        b"\x00\x85",
    ],
    ids=["long integer", "index 0", "index beyond", "cut", "cut name", "table too large", "bad huffman"],
)
def test_bad_blocks_are_compression_errors(block: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        HeaderDecoder(65536).decode(block)
    assert caught.value.code is ErrorCode.COMPRESSION_ERROR


@given(st.binary(max_size=60))
def test_random_blocks_raise_nothing_else(block: bytes) -> None:
    decoder = HeaderDecoder(4096)
    with contextlib.suppress(ProtocolError):
        decoder.decode(block)


def test_a_bomb_is_stopped() -> None:
    entry = b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4000
    with pytest.raises(ProtocolError) as caught:
        HeaderDecoder(65536).decode(entry + b"\xbe" * 16000)
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


GOOD = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a/b"), (b":authority", b"h"), (b"te", b"trailers")]


@pytest.mark.parametrize(
    "headers",
    [
        GOOD[1:],
        [*GOOD, (b":method", b"POST")],
        [GOOD[0], *GOOD],
        [*GOOD, (b"X-Upper", b"1")],
        [*GOOD, (b"connection", b"close")],
        [*GOOD, (b"te", b"gzip")],
        [*GOOD, (b"", b"1")],
        [*GOOD, (b"a b", b"1")],
        [*GOOD, (b"a", b"x\r\ny")],
        [(b":status", b"200"), *GOOD],
        [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"")],
    ],
)
def test_malformed_requests_are_named(headers: list[tuple[bytes, bytes]]) -> None:
    assert request_problem(headers)


def test_well_formed_lists_pass() -> None:
    assert request_problem(GOOD) is None
    assert response_problem([(b":status", b"200"), (b"content-type", b"application/grpc")]) is None
    assert trailers_problem([(b"grpc-status", b"0")]) is None


@pytest.mark.parametrize(
    "headers",
    [[], [(b":status", b"2x0")], [(b":status", b"200"), (b":path", b"/")], [(b"a", b"1"), (b":status", b"200")]],
)
def test_malformed_responses_are_named(headers: list[tuple[bytes, bytes]]) -> None:
    assert response_problem(headers)


def test_content_length() -> None:
    assert content_length([(b"a", b"1")]) is None
    assert content_length([(b"content-length", b"12")]) == 12
    assert content_length([(b"content-length", b"-1")]) == -1
    assert content_length([(b"content-length", b"1"), (b"content-length", b"2")]) == -1
