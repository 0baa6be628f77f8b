"""Our engine against the `h2` library, in memory, in both roles."""

from __future__ import annotations

from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest

from pytikv.wire.http2.frames import ErrorCode
from pytikv.wire.http2.headers import encode_headers
from pytikv.wire.http2.limits import Http2Config

REQUEST = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/s/m"),
    (b":authority", b"a"),
    (b"x-big", b"v" * 20_000),
]
RESPONSE = [(b":status", b"200"), (b"content-type", b"application/grpc")]
TRAILERS = [(b"grpc-status", b"0")]
BODY = bytes(range(256)) * 800


class Peer:
    """An h2 connection that collects what it is told, and acknowledges data."""

    def __init__(self, client: bool) -> None:
        config = h2.config.H2Configuration(client_side=client, header_encoding=False)
        self.conn = h2.connection.H2Connection(config)
        self.conn.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.bodies: dict[int, bytes] = {}

    def feed(self, data: bytes) -> None:
        for event in self.conn.receive_data(data):
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def of(self, kind: type[h2.events.Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def carry(side: Any, peer: Peer) -> None:
    while True:
        ours, theirs = side.engine.data_to_send(), peer.conn.data_to_send()
        if not ours and not theirs:
            return
        if ours:
            peer.feed(ours)
        if theirs:
            side.feed(theirs)


def send_all(side: Any, peer: Peer, stream_id: int, body: bytes) -> None:
    while body:
        room = min(peer.conn.local_flow_control_window(stream_id), peer.conn.max_outbound_frame_size, len(body))
        peer.conn.send_data(stream_id, body[:room], pad_length=3 if room < 100 else None)
        body = body[room:]
        carry(side, peer)


@pytest.mark.parametrize("table_size", [0, 4096])
def test_our_client_and_the_h2_server(make_side: Any, recorder: Any, table_size: int) -> None:
    side, peer = make_side(client=True, config=Http2Config(stream_window=70_000, connection_window=80_000)), Peer(False)
    peer.conn.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: table_size})
    carry(side, peer)
    for number in range(3):
        sink = recorder()
        stream = side.engine.open_stream(sink, encode_headers(REQUEST))
        side.engine.send_data(stream, BODY, end_stream=True)
        carry(side, peer)
        assert peer.of(h2.events.RequestReceived)[number].headers == REQUEST
        assert peer.bodies[stream.id] == BODY
        peer.conn.send_headers(stream.id, RESPONSE)
        send_all(side, peer, stream.id, BODY)
        peer.conn.send_headers(stream.id, TRAILERS, end_stream=True)
        carry(side, peer)
        assert sink.body == BODY
        assert sink.log[-1] == ("headers", TRAILERS, True)
    assert not side.engine.streams


def test_our_server_and_the_h2_client(make_side: Any) -> None:
    side, peer = make_side(client=False, config=Http2Config(stream_window=70_000, connection_window=80_000)), Peer(True)
    carry(side, peer)
    for number in range(3):
        stream_id = peer.conn.get_next_available_stream_id()
        peer.conn.send_headers(stream_id, REQUEST)
        send_all(side, peer, stream_id, BODY)
        peer.conn.end_stream(stream_id)
        carry(side, peer)
        stream, sink = side.requests[number]
        assert sink.log[0] == ("headers", REQUEST, False)
        assert sink.body == BODY
        side.engine.send_headers(stream, encode_headers(RESPONSE))
        side.engine.send_data(stream, BODY)
        side.engine.send_headers(stream, encode_headers(TRAILERS), end_stream=True)
        carry(side, peer)
        assert peer.bodies[stream_id] == BODY
        assert [event.headers for event in peer.of(h2.events.TrailersReceived)][-1] == TRAILERS
    assert not side.engine.streams


def test_ping_reset_and_goaway_with_h2(make_side: Any, recorder: Any) -> None:
    side, peer = make_side(client=True), Peer(False)
    carry(side, peer)
    side.engine.ping(b"12345678")
    peer.conn.ping(b"abcdefgh")
    sinks = [recorder() for _ in range(3)]
    streams = [side.engine.open_stream(sink, encode_headers(REQUEST)) for sink in sinks]
    carry(side, peer)
    assert side.pongs == [b"12345678"]
    assert peer.of(h2.events.PingAckReceived)[0].ping_data == b"abcdefgh"
    peer.conn.reset_stream(streams[0].id, h2.errors.ErrorCodes.REFUSED_STREAM)
    side.engine.reset(streams[1], ErrorCode.CANCEL)
    carry(side, peer)
    assert sinks[0].resets == [("reset", ErrorCode.REFUSED_STREAM, True)]
    assert peer.of(h2.events.StreamReset)[0].error_code == h2.errors.ErrorCodes.CANCEL
    peer.conn.close_connection(last_stream_id=3)
    carry(side, peer)
    assert sinks[2].resets == [("reset", 0, True)]
