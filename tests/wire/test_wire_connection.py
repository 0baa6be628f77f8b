"""The HTTP/2 engine: against itself in both roles, in pieces of any size, with windows of any size."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytikv.wire.http2 import frames
from pytikv.wire.http2.frames import ErrorCode, StreamError
from pytikv.wire.http2.headers import encode_headers
from pytikv.wire.http2.limits import Http2Config
from pytikv.wire.http2.streams import TRANSITIONS, IllegalMove, Move, State, Stream

RESPONSE = encode_headers([(b":status", b"200"), (b"content-type", b"application/grpc")])
TRAILERS = encode_headers([(b"grpc-status", b"0")])
fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("move", Move)
def test_the_table_is_the_law(state: State, move: Move, recorder: Any) -> None:
    stream = Stream(1, recorder(), 0, 0)
    stream.state = state
    if (state, move) in TRANSITIONS:
        stream.move(move)
        assert stream.state is TRANSITIONS[state, move]
    else:
        with pytest.raises(IllegalMove):
            stream.move(move)
        assert stream.state is state


def test_no_way_leads_out_of_closed_and_every_state_is_reached() -> None:
    assert not any(state is State.CLOSED for state, _ in TRANSITIONS)
    assert set(TRANSITIONS.values()) == set(State) - {State.IDLE}


def exchange(pair: Any, body: bytes, answer: bytes, chunk: int = 1 << 30) -> Any:
    stream, sink = pair.client.open()
    pair.client.engine.send_data(stream, body, end_stream=True)
    pair.run(chunk)
    server_stream, server_sink = pair.server.requests[-1]
    assert server_sink.body == body
    assert server_sink.ended
    pair.server.engine.send_headers(server_stream, RESPONSE)
    pair.server.engine.send_data(server_stream, answer)
    pair.server.engine.send_headers(server_stream, TRAILERS, end_stream=True)
    pair.run(chunk)
    return sink


@fixtures
@given(
    size=st.sampled_from([0, 1, 16_384, 16_385, 70_000, 300_000]),
    answer=st.sampled_from([1, 5, 65_536, 200_000]),
    window=st.sampled_from([1, 100, 65_535, 1 << 20]),
    chunk=st.sampled_from([1, 7, 9, 1000, 1 << 30]),
)
def test_any_body_through_any_window_in_any_pieces(
    make_pair: Any, size: int, answer: int, window: int, chunk: int
) -> None:
    if window < 100 or chunk < 10:
        size, answer = min(size, 300), min(answer, 300)
    pair = make_pair(Http2Config(stream_window=window), Http2Config(stream_window=window))
    sink = exchange(pair, b"q" * size, b"a" * answer, chunk)
    assert next(entry[0] for entry in sink.log if entry[0] != "drained") == "headers"
    assert sink.body == b"a" * answer
    assert sink.log[-1] == ("headers", [(b"grpc-status", b"0")], True)
    assert not pair.client.engine.streams
    assert not pair.server.engine.streams
    assert pair.client.engine.queued_bytes == pair.server.engine.queued_bytes == 0


def test_many_streams_share_the_connection_window_fairly(make_pair: Any) -> None:
    pair = make_pair(server=Http2Config(connection_window=65_535))
    opened = [pair.client.open() for _ in range(5)]
    for stream, _ in opened:
        pair.client.engine.send_data(stream, b"x" * 60_000, end_stream=True)
    first = pair.client.engine.data_to_send()
    assert pair.client.engine.queued_bytes == 5 * 60_000 - 65_535
    pair.server.feed(first)
    pair.run()
    assert [sink.body for _, sink in pair.server.requests] == [b"x" * 60_000] * 5


def test_requests_do_not_wait_for_settings_nor_their_acknowledgement(make_side: Any) -> None:
    client = make_side(client=True)
    stream, _ = client.open()
    client.engine.send_data(stream, b"now", end_stream=True)
    data = client.engine.data_to_send()
    assert data.startswith(frames.PREFACE)
    assert b"now" in data


def test_a_consumer_that_does_not_consume_holds_the_peer_back(make_pair: Any) -> None:
    pair = make_pair(server=Http2Config(stream_window=10_000))
    pair.server.on_new = lambda stream, sink: setattr(stream, "auto_window", False)
    stream, _ = pair.client.open()
    pair.client.engine.send_data(stream, b"x" * 30_000)
    pair.run()
    server_stream, sink = pair.server.requests[0]
    assert len(sink.body) == 10_000
    pair.server.engine.consume(server_stream, 10_000)
    pair.run()
    assert len(sink.body) == 20_000


def test_window_updates_are_lazy(make_pair: Any) -> None:
    pair = make_pair(server=Http2Config(stream_window=1000, connection_window=70_000))
    stream, _ = pair.client.open()
    pair.client.engine.send_data(stream, b"x" * 499)
    pair.run()
    assert stream.send_window == 501
    pair.client.engine.send_data(stream, b"x" * 2)
    pair.run()
    assert stream.send_window == 1000


def test_long_header_lists_go_as_continuation_and_arrive(pair: Any, recorder: Any) -> None:
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b"x", b"v" * 40_000)]
    pair.client.engine.open_stream(recorder(), encode_headers(headers), True)
    pair.run(1000)
    assert pair.server.requests[0][1].log == [("headers", headers, True)]


def test_ping_and_pong(pair: Any) -> None:
    pair.client.engine.ping(b"12345678")
    pair.run()
    assert pair.client.pongs == [b"12345678"]


def test_goaway_tells_what_was_not_processed(pair: Any) -> None:
    one, first = pair.client.open()
    pair.run()
    two, second = pair.client.open()
    pair.server.engine.goaway(debug=b"bye")
    pair.client.feed(pair.server.engine.data_to_send())
    assert first.log == []
    assert second.resets == [("reset", 0, True)]
    assert pair.client.goaways == [(one.id, 0, b"bye")]
    assert not pair.client.engine.can_open()
    pair.run()
    assert len(pair.server.requests) == 1
    server_stream, _ = pair.server.requests[0]
    pair.server.engine.send_headers(server_stream, RESPONSE)
    pair.server.engine.send_headers(server_stream, TRAILERS, end_stream=True)
    pair.run()
    assert first.ended
    assert two.state is State.CLOSED


def test_streams_over_the_limit_are_not_opened_and_refused(make_pair: Any) -> None:
    pair = make_pair(server=Http2Config(max_concurrent_streams=2))
    pair.client.open()
    pair.client.open()
    assert not pair.client.engine.can_open()
    with pytest.raises(StreamError):
        pair.client.open()
    pair.client.engine.max_streams = 3
    _, sink = pair.client.open()
    pair.run()
    assert sink.resets == [("reset", ErrorCode.REFUSED_STREAM, True)]


def test_stream_ids_run_out(pair: Any) -> None:
    pair.client.engine.next_id = frames.MAX_STREAM_ID
    stream, _ = pair.client.open(end_stream=True)
    assert stream.id == frames.MAX_STREAM_ID
    assert not pair.client.engine.can_open()
    assert pair.client.engine.exhausted()
    pair.run()
    assert pair.server.requests


def test_reset_both_ways_and_late_frames_are_dropped(pair: Any) -> None:
    stream, sink = pair.client.open()
    pair.run()
    server_stream, server_sink = pair.server.requests[0]
    pair.server.engine.send_headers(server_stream, RESPONSE)
    pair.server.engine.send_data(server_stream, b"late")
    pair.client.engine.reset(stream, ErrorCode.CANCEL)
    pair.run()
    assert sink.log == []
    assert server_sink.resets == [("reset", ErrorCode.CANCEL, False)]
    assert not pair.client.engine.closed
    assert not pair.server.engine.closed


def test_settings_that_shrink_the_window_below_zero(pair: Any) -> None:
    pair.client.engine.peer_stream_window = 65_535
    stream, _ = pair.client.open()
    stream.send_window = 65_535
    pair.client.engine.send_data(stream, b"x" * 65_000)
    pair.client.feed(frames.settings_frame({frames.Setting.INITIAL_WINDOW_SIZE: 100}))
    assert stream.send_window == 100 - 65_000
    pair.client.engine.data_to_send()
    pair.client.engine.send_data(stream, b"y" * 10)
    pair.client.engine.send_data(stream, b"", end_stream=True)
    assert pair.client.engine.data_to_send() == b""
    pair.client.feed(frames.window_update_frame(stream.id, 65_000))
    out = pair.client.engine.data_to_send()
    assert out.endswith(b"y" * 10)
    assert out[-15] == frames.Flag.END_STREAM


def test_a_shrunken_header_table_is_acknowledged_in_the_next_block(pair: Any) -> None:
    pair.client.feed(frames.settings_frame({frames.Setting.HEADER_TABLE_SIZE: 0}))
    pair.client.engine.data_to_send()
    pair.client.open(end_stream=True)
    assert pair.client.engine.data_to_send()[9] == 0x20
    pair.client.open(end_stream=True)
    assert pair.client.engine.data_to_send()[9] != 0x20


def test_misuse_changes_nothing(pair: Any) -> None:
    stream, _ = pair.client.open(end_stream=True)
    before = list(pair.client.engine.out)
    with pytest.raises(StreamError):
        pair.client.engine.send_data(stream, b"x")
    with pytest.raises(StreamError):
        pair.client.engine.send_headers(stream, TRAILERS, end_stream=True)
    assert pair.client.engine.out == before


def conversation(make_side: Any) -> bytes:
    """What a client sends in a life with a bit of everything."""
    client = make_side(client=True)
    engine = client.engine
    client.feed(frames.settings_frame({}))
    a, _ = client.open()
    engine.send_data(a, b"first")
    engine.ping(b"abcdefgh")
    b, _ = client.open()
    engine.send_data(b, b"second" * 3000)
    engine.reset(b, ErrorCode.CANCEL)
    engine.send_data(a, b"", end_stream=True)
    padded = frames.frame(0, frames.Flag.PADDED | frames.Flag.END_STREAM, 5, b"\x03body\x00\x00\x00")
    _c, _ = client.open()
    engine.out.append(padded)
    engine.out.append(frames.frame(77, 3, 0, b"unknown"))
    engine.out.append(frames.frame(2, 0, 5, b"\x00\x00\x00\x00\x10"))
    return bytes(engine.data_to_send())


@fixtures
@given(cuts=st.lists(st.integers(1, 3000), max_size=40))
def test_the_chunking_of_the_bytes_does_not_matter(make_side: Any, cuts: list[int]) -> None:
    data = conversation(make_side)
    whole, pieces = make_side(client=False), make_side(client=False)
    whole.feed(data)
    rest = data
    for cut in cuts:
        pieces.feed(rest[:cut])
        rest = rest[cut:]
    pieces.feed(rest)
    assert [sink.log for _, sink in pieces.requests] == [sink.log for _, sink in whole.requests]
    assert pieces.engine.data_to_send() == whole.engine.data_to_send()
    assert [sink.body for _, sink in whole.requests] == [b"first", b"second" * 3000, b"body"]
