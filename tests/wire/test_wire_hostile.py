"""What a broken or hostile peer may send: each ends in the right error, and nothing grows."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytikv.wire.http2 import frames
from pytikv.wire.http2.frames import ErrorCode, ProtocolError, frame
from pytikv.wire.http2.headers import encode_headers
from pytikv.wire.http2.limits import Http2Config

REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s/m"), (b":authority", b"a")]
BLOCK = encode_headers(REQUEST)
RESPONSE = encode_headers([(b":status", b"200")])
SETTINGS = frames.settings_frame({})
HELLO = frames.PREFACE + SETTINGS


def headers(stream_id: int, flags: int = 5, block: bytes = BLOCK) -> bytes:
    return frame(1, flags, stream_id, block)


CONNECTION_ERRORS = {
    "data on stream 0": (frame(0, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data on an idle stream": (frame(0, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data on an even stream": (frame(0, 0, 2, b"x"), ErrorCode.PROTOCOL_ERROR),
    "headers on stream 0": (headers(0), ErrorCode.PROTOCOL_ERROR),
    "headers on an even stream": (headers(2), ErrorCode.PROTOCOL_ERROR),
    "headers going back": (headers(5) + headers(3), ErrorCode.STREAM_CLOSED),
    "bad hpack index": (headers(1, block=b"\xff\xff\x7f"), ErrorCode.COMPRESSION_ERROR),
    "padding too long": (headers(1, 4) + frame(0, 8, 1, b"\x05abc"), ErrorCode.PROTOCOL_ERROR),
    "padded and empty": (headers(1, 4) + frame(0, 8, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "headers padding too long": (frame(1, 5 | 8, 1, b"\xff" + BLOCK), ErrorCode.PROTOCOL_ERROR),
    "headers cut in the priority": (frame(1, 5 | 32, 1, b"\x00\x00"), ErrorCode.FRAME_SIZE_ERROR),
    "depends on itself": (frame(1, 5 | 32, 1, b"\x00\x00\x00\x01\x10" + BLOCK), ErrorCode.PROTOCOL_ERROR),
    "priority of a wrong size": (frame(2, 0, 1, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
    "reset of an idle stream": (frame(3, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "reset of a wrong size": (headers(1, 4) + frame(3, 0, 1, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
    "settings on a stream": (frame(4, 0, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "settings of a wrong size": (frame(4, 0, 0, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
    "settings ack with a payload": (frame(4, 1, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "window over 2^31": (frame(4, 0, 0, struct.pack(">HI", 4, 1 << 31)), ErrorCode.FLOW_CONTROL_ERROR),
    "frame size too small": (frame(4, 0, 0, struct.pack(">HI", 5, 100)), ErrorCode.PROTOCOL_ERROR),
    "frame size too large": (frame(4, 0, 0, struct.pack(">HI", 5, 1 << 24)), ErrorCode.PROTOCOL_ERROR),
    "enable push 2": (frame(4, 0, 0, struct.pack(">HI", 2, 2)), ErrorCode.PROTOCOL_ERROR),
    "push promise": (frame(5, 4, 1, bytes(4) + BLOCK), ErrorCode.PROTOCOL_ERROR),
    "ping on a stream": (frame(6, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "ping of a wrong size": (frame(6, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "goaway on a stream": (frame(7, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "goaway of a wrong size": (frame(7, 0, 0, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    "window update of a wrong size": (frame(8, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "window update by zero": (frame(8, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "window update on an idle stream": (frame(8, 0, 9, b"\0\0\0\1"), ErrorCode.PROTOCOL_ERROR),
    "window overflow": (frame(8, 0, 0, b"\x7f\xff\xff\xff"), ErrorCode.FLOW_CONTROL_ERROR),
    "settings overflow a window": (
        headers(1, 4)
        + frame(8, 0, 1, struct.pack(">I", 0x7FFFFFFF - 65_535))
        + frames.settings_frame({frames.Setting(4): 70_000}),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "continuation alone": (frame(9, 4, 1, BLOCK), ErrorCode.PROTOCOL_ERROR),
    "continuation of another stream": (headers(1, 0) + frame(9, 4, 3, b""), ErrorCode.PROTOCOL_ERROR),
    "a frame within a header block": (headers(1, 0) + frame(6, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "an unknown frame within a header block": (headers(1, 0) + frame(99, 0, 0, b""), ErrorCode.PROTOCOL_ERROR),
    "a frame too large": (frame(0, 0, 1, bytes(16_385)), ErrorCode.FRAME_SIZE_ERROR),
    "an unknown frame too large": (struct.pack(">HBBBI", 0xFFFF, 0, 99, 0, 0), ErrorCode.FRAME_SIZE_ERROR),
    "continuation flood": (headers(1, 0) + frame(9, 0, 1, b"") * 1000, ErrorCode.ENHANCE_YOUR_CALM),
    "header block flood": (headers(1, 0) + frame(9, 0, 1, bytes(16_000)) * 10, ErrorCode.ENHANCE_YOUR_CALM),
    "ping flood": (frame(6, 0, 0, bytes(8)) * 1500, ErrorCode.ENHANCE_YOUR_CALM),
    "settings flood": (frame(4, 0, 0, b"") * 1500, ErrorCode.ENHANCE_YOUR_CALM),
    "empty data flood": (headers(1, 4) + frame(0, 0, 1, b"") * 10_100, ErrorCode.ENHANCE_YOUR_CALM),
    "priority flood": (frame(2, 0, 1, bytes(4) + b"\x10") * 10_100, ErrorCode.ENHANCE_YOUR_CALM),
    "unknown frame flood": (frame(99, 0, 0, b"") * 10_100, ErrorCode.ENHANCE_YOUR_CALM),
}


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_faults_of_a_client_end_the_connection(name: str, make_side: Any) -> None:
    data, code = CONNECTION_ERRORS[name]
    side = make_side(client=False)
    side.feed(HELLO)
    side.engine.data_to_send()
    with pytest.raises(ProtocolError) as caught:
        side.feed(data)
    assert caught.value.code is code
    assert side.engine.closed
    out = side.engine.data_to_send()
    goaway = out[out.rindex(b"\x07\x00\x00\x00\x00\x00", 0) - 3 :]
    assert struct.unpack(">I", goaway[13:17])[0] == code
    side.feed(b"anything")


def rapid_reset(number: int) -> bytes:
    return b"".join(headers(n) + frame(3, 0, n, bytes(4)) for n in range(1, 2 * number, 2))


def made_you_reset(number: int) -> bytes:
    return b"".join(headers(n) + frame(8, 0, n, bytes(4)) for n in range(1, 2 * number, 2))


def too_many_streams(number: int) -> bytes:
    return b"".join(headers(n) for n in range(1, 2 * number, 2))


@pytest.mark.parametrize("attack", [rapid_reset, made_you_reset, too_many_streams])
def test_streams_ended_early_are_rationed(attack: Callable[[int], bytes], make_side: Any) -> None:
    side = make_side(client=False)
    side.feed(HELLO)
    data = attack(5000)

    def feed_all() -> None:
        for at in range(0, len(data), 4096):
            side.feed(data[at : at + 4096])
            side.engine.data_to_send()

    with pytest.raises(ProtocolError) as caught:
        feed_all()
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM
    assert len(side.engine.streams) <= 1000
    assert len(side.requests) <= 3100


def test_what_is_allowed_a_second_is_no_attack(make_side: Any) -> None:
    side = make_side(client=False)
    side.feed(HELLO)
    for n in range(1, 8001, 2):
        side.feed(headers(n) + frame(3, 0, n, bytes(4)), now=n / 800)
    for n in range(60_000):
        side.feed(frame(6, 0, 0, bytes(8)), now=10 + n / 500)
        side.engine.data_to_send()
    assert not side.engine.closed


def test_a_ping_for_every_data_frame_is_no_flood(make_side: Any) -> None:
    side = make_side(client=False)
    side.feed(HELLO + headers(1, 4))
    for _ in range(30_000):
        side.feed(frame(0, 0, 1, b"x") + frame(6, 0, 0, bytes(8)))
        side.engine.data_to_send()
    assert not side.engine.closed


STREAM_ERRORS = {
    "data after the end": (headers(1) + frame(0, 0, 1, b"x"), ErrorCode.STREAM_CLOSED),
    "headers after the end": (headers(1) + headers(1), ErrorCode.STREAM_CLOSED),
    "no path": (headers(1, block=encode_headers(REQUEST[:2])), ErrorCode.PROTOCOL_ERROR),
    "content-length with no body": (
        headers(1, block=BLOCK + encode_headers([(b"content-length", b"3")])),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "longer than content-length": (
        headers(1, 4, BLOCK + encode_headers([(b"content-length", b"3")])) + frame(0, 1, 1, b"four"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "shorter than content-length": (
        headers(1, 4, BLOCK + encode_headers([(b"content-length", b"3")])) + frame(0, 1, 1, b"xx"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "trailers without end": (headers(1, 4) + headers(1, 4, encode_headers([(b"a", b"b")])), ErrorCode.PROTOCOL_ERROR),
    "pseudo field in trailers": (headers(1, 4) + headers(1, 5), ErrorCode.PROTOCOL_ERROR),
    "window update by zero": (headers(1, 4) + frame(8, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "window overflow": (headers(1, 4) + frame(8, 0, 1, b"\x7f\xff\xff\xff"), ErrorCode.FLOW_CONTROL_ERROR),
}


@pytest.mark.parametrize("name", STREAM_ERRORS)
def test_faults_on_a_stream_end_the_stream(name: str, make_side: Any) -> None:
    data, code = STREAM_ERRORS[name]
    side = make_side(client=False)
    side.feed(HELLO)
    side.engine.data_to_send()
    side.feed(data)
    assert frames.rst_stream_frame(1, code) in side.engine.data_to_send()
    assert not side.engine.streams
    side.feed(headers(7))
    assert side.engine.streams


def test_data_beyond_the_stream_window(make_side: Any) -> None:
    side = make_side(client=False, config=Http2Config(stream_window=1000))
    side.on_new = lambda stream, sink: setattr(stream, "auto_window", False)
    side.feed(HELLO + headers(1, 4) + frame(0, 0, 1, bytes(1001)))
    assert side.requests[0][1].resets == [("reset", ErrorCode.FLOW_CONTROL_ERROR, False)]


SERVER_FAULTS = {
    "http/1": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "tls alert and more": b"\x15\x03\x01\x00\x02\x02\x46" + bytes(9),
    "not settings first": frame(6, 0, 0, bytes(8)),
    "settings ack first": frames.SETTINGS_ACK,
    "push promise": SETTINGS + frame(5, 4, 1, struct.pack(">I", 2) + BLOCK),
    "enable push": frame(4, 0, 0, struct.pack(">HI", 2, 1)),
    "headers on an even stream": SETTINGS + headers(2, block=RESPONSE),
    "headers on an idle stream": SETTINGS + headers(99, block=RESPONSE),
    "data on an idle stream": SETTINGS + frame(0, 0, 99, b"x"),
}


@pytest.mark.parametrize("name", SERVER_FAULTS)
def test_faults_of_a_server_end_the_connection(name: str, make_side: Any) -> None:
    side = make_side(client=True)
    side.open()
    with pytest.raises(ProtocolError):
        side.feed(SERVER_FAULTS[name])


SERVER_STREAM_FAULTS = {
    "data before headers": frame(0, 0, 1, b"x"),
    "no status": headers(1, 4, encode_headers([(b"a", b"b")])),
    "informational end": headers(1, 5, encode_headers([(b":status", b"103")])),
    "data after trailers": headers(1, 4, RESPONSE) + headers(1, 4, encode_headers([(b"a", b"b")])),
}


@pytest.mark.parametrize("name", SERVER_STREAM_FAULTS)
def test_faults_of_a_server_on_a_stream(name: str, make_side: Any) -> None:
    side = make_side(client=True)
    _, sink = side.open()
    side.feed(SETTINGS + SERVER_STREAM_FAULTS[name])
    assert sink.resets == [("reset", ErrorCode.PROTOCOL_ERROR, False)]
    assert not side.engine.closed


def test_informational_responses_are_passed_over(make_side: Any) -> None:
    side = make_side(client=True)
    _, sink = side.open()
    early = encode_headers([(b":status", b"103")])
    side.feed(SETTINGS + headers(1, 4, early) * 2 + headers(1, 4, RESPONSE))
    assert sink.log == [("headers", [(b":status", b"200")], False)]


def test_zero_window_hoarding_is_visible_to_the_owner(make_side: Any) -> None:
    side = make_side(client=False)
    side.feed(frames.PREFACE + frames.settings_frame({frames.Setting.INITIAL_WINDOW_SIZE: 0}) + headers(1) + headers(3))
    for stream, _ in side.requests:
        side.engine.send_data(stream, bytes(100_000), end_stream=True)
    assert side.engine.queued_bytes == 200_000
    side.feed(frame(3, 0, 1, bytes(4)))
    assert side.engine.queued_bytes == 100_000


kinds = st.integers(0, 10)
random_frames = st.builds(
    frame, kinds, st.integers(0, 255), st.integers(0, 9) | st.integers(0, (1 << 32) - 1), st.binary(max_size=40)
)
good_frames = st.sampled_from(
    [headers(1, 4), headers(3), headers(5, 0), frame(9, 4, 5, b""), frame(0, 0, 1, b"data"), frame(0, 1, 1, b""),
     frame(6, 0, 0, bytes(8)), SETTINGS, frames.SETTINGS_ACK, frame(8, 0, 1, b"\0\0\0\5"), frame(3, 0, 3, bytes(4))]
)  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(random_frames | good_frames | st.binary(max_size=30), max_size=25), st.booleans(), st.integers(1, 50))
def test_nothing_but_protocol_errors_and_no_growth(
    make_side: Any, parts: list[bytes], client: bool, chunk: int
) -> None:
    side = make_side(client=client)
    if client:
        side.open()
        side.open(end_stream=True)
    data = (SETTINGS if client else HELLO) + b"".join(parts)
    try:
        for at in range(0, len(data), chunk):
            side.feed(data[at : at + chunk])
    except ProtocolError:
        assert side.engine.closed
    assert len(side.engine.rest) < 16_394
    assert sum(map(len, side.engine.out)) < 20 * len(data) + 200
    assert len(side.engine.streams) <= len(parts) + 2
