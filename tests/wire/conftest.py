"""Recording sinks and an in-memory pair of engines, for tests that need no loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytikv.wire.http2.connection import Connection
from pytikv.wire.http2.headers import encode_headers
from pytikv.wire.http2.limits import Http2Config
from pytikv.wire.http2.streams import Stream

REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s/m"), (b":authority", b"a")]


class Recorder:
    """A stream's sink that writes down what it is told; `merged` joins neighbouring data."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []

    def on_headers(self, headers: list[tuple[bytes, bytes]], end_stream: bool) -> None:
        self.log.append(("headers", list(headers), end_stream))

    def on_data(self, data: bytes, end_stream: bool) -> None:
        self.log.append(("data", bytes(data), end_stream))

    def on_reset(self, code: int, not_processed: bool, reason: str) -> None:
        self.log.append(("reset", int(code), not_processed))

    def on_drained(self) -> None:
        self.log.append(("drained",))

    @property
    def body(self) -> bytes:
        return b"".join(entry[1] for entry in self.log if entry[0] == "data")

    @property
    def ended(self) -> bool:
        return any(entry[0] in ("headers", "data") and entry[2] for entry in self.log)

    @property
    def resets(self) -> list[tuple[Any, ...]]:
        return [entry for entry in self.log if entry[0] == "reset"]


class Side:
    """An engine with its handler and what came of it."""

    def __init__(self, *, client: bool, config: Http2Config | None = None) -> None:
        self.engine = Connection(client=client, handler=self, config=config)
        self.engine.start()
        self.requests: list[tuple[Stream, Recorder]] = []
        self.goaways: list[tuple[int, int, bytes]] = []
        self.pongs: list[bytes] = []
        self.settings = 0
        self.on_new: Callable[[Stream, Recorder], None] | None = None

    def on_request(self, stream: Stream, headers: list[tuple[bytes, bytes]], end_stream: bool) -> Recorder:
        sink = Recorder()
        sink.on_headers(headers, end_stream)
        self.requests.append((stream, sink))
        if self.on_new is not None:
            self.on_new(stream, sink)
        return sink

    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        self.goaways.append((last_stream_id, code, debug))

    def on_pong(self, opaque: bytes) -> None:
        self.pongs.append(opaque)

    def on_settings(self) -> None:
        self.settings += 1

    def open(self, end_stream: bool = False) -> tuple[Stream, Recorder]:
        sink = Recorder()
        return self.engine.open_stream(sink, encode_headers(REQUEST), end_stream), sink

    def feed(self, data: bytes, now: float = 0.0) -> None:
        self.engine.receive_data(data, now)


class Pair:
    """A client and a server that speak to each other when `run` is called."""

    def __init__(self, client: Http2Config | None = None, server: Http2Config | None = None) -> None:
        self.client = Side(client=True, config=client)
        self.server = Side(client=False, config=server)
        self.run()

    def run(self, chunk: int = 1 << 30) -> None:
        """Carry bytes both ways, in pieces of `chunk`, until both are silent."""
        while True:
            to_server = self.client.engine.data_to_send()
            to_client = self.server.engine.data_to_send()
            if not to_server and not to_client:
                return
            for side, data in ((self.server, to_server), (self.client, to_client)):
                for at in range(0, len(data), chunk):
                    side.feed(data[at : at + chunk])


@pytest.fixture
def pair() -> Pair:
    return Pair()


@pytest.fixture
def make_pair() -> type[Pair]:
    return Pair


@pytest.fixture
def make_side() -> type[Side]:
    return Side


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder
