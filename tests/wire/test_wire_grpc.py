"""Message framing, timeouts, status texts, content types."""

from __future__ import annotations

import gzip
import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.wire import grpc
from pytikv.wire.errors import ConnectFailed, ConnectionLost, RpcError, Status


@given(st.lists(st.binary(max_size=50), max_size=8), st.lists(st.integers(1, 40), max_size=30))
def test_any_chunking_gives_the_same_messages(messages: list[bytes], cuts: list[int]) -> None:
    data = b"".join(map(grpc.message_frame, messages))
    deframer = grpc.Deframer()
    out: list[bytes] = []
    for cut in cuts:
        out += deframer.feed(data[:cut])
        data = data[cut:]
    out += deframer.feed(data)
    assert out == messages
    assert deframer.buffered == 0


def test_a_huge_length_reserves_nothing_and_is_refused_at_once() -> None:
    deframer = grpc.Deframer(1000)
    assert deframer.feed(b"\x00\xff\xff") == []
    with pytest.raises(RpcError) as caught:
        deframer.feed(b"\xff\xff")
    assert caught.value.status == Status.RESOURCE_EXHAUSTED


def test_the_limit_is_inclusive() -> None:
    assert grpc.Deframer(10).feed(grpc.message_frame(b"x" * 10)) == [b"x" * 10]
    data = grpc.message_frame(b"x" * 11)
    with pytest.raises(RpcError):
        grpc.Deframer(10).feed(data)
    in_pieces = grpc.Deframer(10)
    assert in_pieces.feed(data[:3]) == []
    with pytest.raises(RpcError):
        in_pieces.feed(data[3:])


def test_gzip_is_undone() -> None:
    packed = gzip.compress(b"hello" * 100)
    deframer = grpc.Deframer(encoding=b"gzip")
    assert deframer.feed(struct.pack(">BI", 1, len(packed)) + packed) == [b"hello" * 100]


@pytest.mark.parametrize(
    ("encoding", "flag", "body", "status"),
    [
        (b"identity", 1, b"x", Status.INTERNAL),
        (b"gzip", 1, b"not gzip", Status.INTERNAL),
        (b"gzip", 1, gzip.compress(b"hello")[:-9], Status.INTERNAL),
        (b"gzip", 1, gzip.compress(bytes(5000)), Status.RESOURCE_EXHAUSTED),
        (b"gzip", 2, b"x", Status.INTERNAL),
    ],
    ids=["no encoding named", "not gzip", "cut gzip", "gzip bomb", "unknown flag"],
)
def test_bad_compression(encoding: bytes, flag: int, body: bytes, status: Status) -> None:
    with pytest.raises(RpcError) as caught:
        grpc.Deframer(1000, encoding).feed(struct.pack(">BI", flag, len(body)) + body)
    assert caught.value.status == status


@given(st.floats(0.0001, 1e6))
def test_timeouts_are_rounded_up_and_read_back(seconds: float) -> None:
    back = grpc.parse_timeout(grpc.encode_timeout(seconds))
    assert seconds - 1e-9 <= back <= seconds + 1.0 if seconds > 1e5 else seconds - 1e-9 <= back <= seconds + 0.0011


@pytest.mark.parametrize("value", [b"", b"5", b"m", b"-5m", b"5x", b"123456789m", b"5 m", b"5m "])
def test_ill_formed_timeouts(value: bytes) -> None:
    with pytest.raises(ValueError, match="ill-formed"):
        grpc.parse_timeout(value)


@given(st.text(max_size=40))
def test_status_texts_survive(text: str) -> None:
    value = grpc.encode_grpc_message(text)
    assert all(0x20 <= byte <= 0x7E for byte in value)
    assert grpc.decode_grpc_message(value) == text.encode("utf-8", "replace").decode()


def test_broken_percent_encoding_stays_readable() -> None:
    assert grpc.decode_grpc_message(b"50% of %zz %E4") == "50% of %zz �"


@pytest.mark.parametrize(
    ("trailers", "want"),
    [
        ([], None),
        ([(b"grpc-status", b"0")], (0, "")),
        ([(b"grpc-status", b"5"), (b"grpc-message", b"no%20such")], (5, "no such")),
        ([(b"grpc-status", b"99")], (2, "")),
        ([(b"grpc-status", b"abc")], (2, "")),
        ([(b"grpc-status", b"")], (2, "")),
        ([(b"grpc-status", b"0"), (b"grpc-status", b"13")], (2, "")),
        ([(b"grpc-status", b"-1")], (2, "")),
    ],
)
def test_status_of_trailers(trailers: list[tuple[bytes, bytes]], want: tuple[int, str] | None) -> None:
    assert grpc.status_from_trailers(trailers) == want


def test_content_types() -> None:
    for good in (b"application/grpc", b"application/grpc+proto", b"application/grpc;charset=utf-8"):
        assert grpc.is_grpc_content_type(good)
    for bad in (b"", b"text/html", b"application/grpcweb", b"application/grpc-web"):
        assert not grpc.is_grpc_content_type(bad)


@pytest.mark.parametrize(
    "error",
    [RpcError(5, "x", not_processed=True), ConnectionLost("gone"), ConnectFailed("no", reason="tls")],
)
def test_errors_can_be_pickled(error: RpcError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert vars(back) == vars(error)
    assert str(back) == str(error)
