"""The floor: a request frame built beforehand, sent on a plain blocking socket; the answer is read and thrown away.

It holds one BatchCommands stream on an HTTP/2 connection and sends the same DATA frame, one raw get with a context,
again and again. What remains is two system calls, the loopback and the server: no client in Python can be faster with
one request at a time.
"""

from __future__ import annotations

import socket
import struct
import sys

import loop

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _WINDOW_UPDATE = 0, 1, 4, 8
_END_HEADERS, _ACK = 4, 1
_LARGEST_WINDOW = (1 << 31) - 1


def field(number: int, payload: bytes | int) -> bytes:
    """One protobuf field (values below 2^14 bytes)."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    """A protobuf varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    """One header as HPACK writes it without any compression."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


def get_frame(key: bytes) -> bytes:
    """The DATA frame of a BatchCommands message holding one raw get (slot 13) with a context as clients send it."""
    epoch = field(1, 1) + field(2, 1)
    peer = field(1, 2_000_000_000) + field(2, 1)
    context = field(1, 1_000_000_000) + field(2, epoch) + field(3, peer)
    raw_get = field(1, context) + field(2, key)
    message = field(1, field(13, raw_get)) + field(2, varint(1))
    return frame(_DATA, 0, 1, b"\0" + struct.pack(">I", len(message)) + message)


def connect(host: str, port: int) -> tuple[socket.socket, bytes, int]:
    """Open the stream; answers the socket, the request frame and the length of the answer's DATA frame."""
    sock = socket.create_connection((host, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = get_frame(loop.KEYS[0])
    headers = b"".join(
        header(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/tikvpb.Tikv/BatchCommands"),
            (b":authority", f"{host}:{port}".encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        )
    )
    settings = struct.pack(">HI", 4, _LARGEST_WINDOW)
    sock.sendall(
        _PREFACE
        + frame(_SETTINGS, 0, 0, settings)
        + frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST_WINDOW - 65_535))
        + frame(_SETTINGS, _ACK, 0, b"")
        + frame(_HEADERS, _END_HEADERS, 1, headers)
        + request
    )
    return sock, request, _first_answer(sock)


def _first_answer(sock: socket.socket) -> int:
    data = b""
    while True:
        received = sock.recv(65_536)
        if not received:
            raise ConnectionError("the server closed the connection")
        data += received
        rest = data
        while len(rest) >= 9 and len(rest) >= 9 + (length := int.from_bytes(rest[:3], "big")):
            if rest[3] == _DATA:
                return 9 + length
            rest = rest[9 + length :]


def exchange(sock: socket.socket, request: bytes, answer_length: int, n: int) -> None:
    """Send `request` n times, each after the answer to the one before."""
    send, receive = sock.sendall, sock.recv
    for _ in range(n):
        send(request)
        # Only the answer's own length ends the wait: a WINDOW_UPDATE may come alone or before it.
        while len(answer := receive(65_536)) < answer_length:
            if not answer:
                raise ConnectionError("the server closed the connection")


def main() -> None:
    """Serve the one case, from `HOST:PORT` (the neutral server answers commands on every port)."""
    host, _, port = sys.argv[1].rpartition(":")
    sock, request, answer_length = connect(host, int(port))
    loop.serve({"get": lambda n: exchange(sock, request, answer_length, n)}, answer_bytes=answer_length)


if __name__ == "__main__":
    main()
