"""The HTTP/1.1 side: what is taken, what is refused, and that a connection always ends up somewhere."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.server.http import (
    HEAD_TIMEOUT_S,
    MAX_HEAD,
    BadRequest,
    HttpProtocol,
    HttpRequest,
    HttpResponse,
    SniffingProtocol,
    json_response,
    parse_head,
)


class FakeTimer:
    def __init__(self, when, callback):
        self.when, self.callback, self.is_cancelled = when, callback, False

    def cancel(self):
        self.is_cancelled = True


class FakeRt:
    def __init__(self):
        self.time, self.timers = 0.0, []

    def now(self):
        return self.time

    def call_at(self, when, callback):
        self.timers.append(FakeTimer(when, callback))
        return self.timers[-1]

    def advance(self, seconds):
        self.time += seconds
        due = [t for t in self.timers if t.when <= self.time and not t.is_cancelled]
        self.timers = [t for t in self.timers if t not in due]
        for timer in due:
            timer.callback()


class FakeTransport:
    peer_name = "test"

    def __init__(self, alpn=None):
        self.sent, self.closed, self.aborted, self.paused, self.room = b"", False, False, False, True
        self.alpn = alpn

    def write(self, data):
        self.sent += data
        return self.room

    def close(self):
        self.closed = True

    def abort(self):
        self.aborted = True

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False


def echo(request: HttpRequest) -> HttpResponse:
    if request.segments == (b"boom",):
        raise RuntimeError("secret")
    return json_response([segment.decode("latin-1") for segment in request.segments])


def connect(rt=None):
    rt, transport = rt or FakeRt(), FakeTransport()
    protocol = HttpProtocol(rt, echo)
    protocol.connection_made(transport)
    return rt, transport, protocol


def get(path: str, *headers: str, method="GET", version="1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: x", *headers, "", ""]).encode("latin-1")


def status_of(transport) -> int:
    return int(transport.sent.split(b" ", 2)[1])


def test_one_request_and_keep_alive():
    _, transport, protocol = connect()
    for byte in get("/a/b?x=1"):
        protocol.data_received(bytes([byte]))
    head, body = transport.sent.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body) == ["a", "b"]
    assert not transport.closed
    transport.sent = b""
    protocol.data_received(get("/c") + get("/d%2Fe/") + get("/f", "Connection: close"))
    assert transport.sent.count(b"HTTP/1.1 200") == 3
    assert b'"d/e"' in transport.sent
    assert transport.closed


def test_head_has_no_body():
    _, transport, protocol = connect()
    protocol.data_received(get("/a", method="HEAD"))
    assert transport.sent.endswith(b"\r\n\r\n")
    assert b"Content-Length: 0" not in transport.sent


def test_http_1_0_closes():
    _, transport, protocol = connect()
    protocol.data_received(b"GET / HTTP/1.0\r\n\r\n")
    assert status_of(transport) == 200
    assert transport.closed


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get("/../../etc/passwd"), 400),
        (get("/%2e%2e/%2e%2e/etc/passwd"), 400),
        (get("/a/./b"), 400),
        (get("//a"), 400),
        (get("/a//b"), 400),
        (get("/a%zz"), 400),
        (get("http://evil/pd/api/v1/stores"), 400),
        (get("*"), 400),
        (get("/a\x00b"), 400),
        (get("/a b"), 400),
        (b"GET /a\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\nHost: a\n\n\r\n\r\n", 400),
        (get("/a", " folded: x"), 400),
        (get("/a", "Bad Name: x"), 400),
        (get("/a", "Name : x"), 400),
        (get("/a", "X: a\x00b"), 400),
        (get("/a", method="POST"), 405),
        (get("/a", "X-HTTP-Method-Override: DELETE", method="PUT"), 405),
        (get("/a", method="OPTIONS"), 405),
        (get("/a", "Content-Length: 10"), 413),
        (get("/a", "Content-Length: 0", "Content-Length: 0"), 400),
        (get("/a", "Content-Length: -1"), 413),
        (get("/a", "Transfer-Encoding: chunked"), 501),
        (get("/a", "Expect: 100-continue"), 417),
        (get("/a", version="2.0"), 505),
        (get("/a", *(f"h{i}: x" for i in range(1000))), 431),
        (get("/" + "a" * (1 << 20)), 431),
        (b"\x00" * (MAX_HEAD + 5), 431),
        (get("/boom"), 500),
    ],
)
def test_refused_and_closed(request_bytes, status):
    _, transport, protocol = connect()
    protocol.data_received(request_bytes + get("/smuggled"))
    assert status_of(transport) == status
    assert b"secret" not in transport.sent
    if status != 500:
        assert b"smuggled" not in transport.sent
        assert transport.closed
    if status == 405:
        assert b"Allow: GET, HEAD" in transport.sent


def test_override_headers_change_nothing():
    _, transport, protocol = connect()
    protocol.data_received(get("/a", "X-HTTP-Method-Override: DELETE", "Origin: http://evil"))
    assert status_of(transport) == 200
    assert b"Access-Control" not in transport.sent


def test_a_slow_head_times_out_however_it_drips():
    rt, transport, protocol = connect()
    for byte in b"GET /aaaaaaaaaaaaaaa":
        protocol.data_received(bytes([byte]))
        rt.advance(HEAD_TIMEOUT_S / 15)
        if transport.closed:
            break
    assert status_of(transport) == 408
    assert transport.closed


def test_silence_and_idleness_end():
    rt, transport, _ = connect()
    rt.advance(HEAD_TIMEOUT_S)
    assert transport.aborted
    rt, transport, protocol = connect()
    protocol.data_received(get("/a"))
    rt.advance(59)
    assert not transport.aborted
    rt.advance(1)
    assert transport.aborted


def test_pipelining_waits_for_a_slow_reader():
    _, transport, protocol = connect()
    transport.room = False
    protocol.data_received(get("/a") * 5)
    assert transport.sent.count(b"200 OK") == 1
    assert transport.paused
    transport.room = True
    protocol.writable()
    assert transport.sent.count(b"200 OK") == 5
    assert not transport.paused


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(data):
    status = 200
    try:
        request, _ = parse_head(data)
    except BadRequest as error:
        status = error.status
    else:
        assert request.method in ("GET", "HEAD")
    assert 200 <= status < 600


@given(st.lists(st.binary(min_size=1, max_size=6).filter(lambda s: s not in (b".", b"..")), min_size=1))
def test_escaped_segments_come_back(segments):
    path = "".join("/" + "".join(f"%{byte:02X}" for byte in segment) for segment in segments)
    request, keep = parse_head(f"GET {path} HTTP/1.1\r\nHost: x".encode())
    assert request.segments == tuple(segments)
    assert keep


class Recorder:
    def __init__(self):
        self.events = []

    def connection_made(self, transport):
        self.events.append("made")

    def data_received(self, data):
        self.events.append(data)

    def connection_lost(self, error):
        self.events.append("lost")

    def writable(self):
        self.events.append("writable")


@pytest.mark.parametrize(
    ("chunks", "alpn", "chosen"),
    [
        ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"more"], None, "grpc"),
        ([b"P", b"R", b"I", b" *"], None, "grpc"),
        ([b"P", b"OST / HTTP/1.1\r\n"], None, "http"),
        ([b"GET / HTTP/1.1\r\n"], None, "http"),
        ([b"\x00\x00"], None, "http"),
        ([b"PRI x"], None, "http"),
        ([b"anything"], "h2", "grpc"),
        ([b"anything"], "http/1.1", "http"),
    ],
)
def test_sniffing(chunks, alpn, chosen):
    grpc, http, transport = Recorder(), Recorder(), FakeTransport(alpn)
    rt = FakeRt()
    protocol = SniffingProtocol(rt, lambda: grpc, lambda: http)
    protocol.connection_made(transport)
    for chunk in chunks:
        protocol.data_received(chunk)
    protocol.writable()
    protocol.connection_lost(None)
    rt.advance(100)
    taken, other = (grpc, http) if chosen == "grpc" else (http, grpc)
    assert other.events == []
    assert taken.events[0] == "made"
    assert b"".join(e for e in taken.events if isinstance(e, bytes)) == b"".join(chunks)
    assert taken.events[-2:] == ["writable", "lost"]
    assert not transport.aborted


def test_sniffing_cuts_tls_and_silence():
    for first in (b"\x16\x03\x01\x02\x00\x01", None):
        rt, transport = FakeRt(), FakeTransport()
        protocol = SniffingProtocol(rt, Recorder, Recorder)
        protocol.connection_made(transport)
        if first:
            protocol.data_received(first)
        else:
            rt.advance(HEAD_TIMEOUT_S)
        assert transport.aborted
        assert protocol.chosen is None
