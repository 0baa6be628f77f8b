"""Sockets for loops that are driven by hand: transports without a selector of their own.

A `SocketTransport` writes through: what the socket takes at once leaves in the caller's own step; the rest is queued
and sent when the loop finds the socket writable. Reading is done by the loop that the transport is attached to, in one
of two ways:

* `receive`: after `poll` said so; never blocks.
* `receive_blocking`: the loop waits for nothing but this socket, so the wait *is* the `recv`: one system call. The
  kernel ends it after a slice of time (SO_RCVTIMEO), set rarely: any slice that is not much shorter than the time left
  will do, since the loop looks at its clock when a slice ends.

The socket itself stays in blocking mode; everything that must not block says MSG_DONTWAIT. TLS runs over memory
buffers, so that an encrypted transport reads and writes its socket in exactly the same two ways.

A transport belongs to the loop in `home`; without one nobody reads it, and what is queued waits. `connection_lost`
is called once, from a loop's turn.
"""

from __future__ import annotations

import logging
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from pytikv.rt.interface import StreamProtocol

__all__ = ["DIRECT_FROM_S", "Home", "SocketTransport", "TlsSocketTransport"]

logger: Final = logging.getLogger("pytikv")

_HIGH_WATER_BYTES: Final = 1 << 20
_LOW_WATER_BYTES: Final = 1 << 18
_READ_BYTES: Final = 1 << 16
_NOW: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
_SLICE_S: Final = 1.0
_TIMEVAL: Final = struct.Struct("ll")

DIRECT_FROM_S: Final = 0.02
"""Shorter waits go through `poll`: the kernel rounds SO_RCVTIMEO to its ticks of up to 10 ms."""


class Home(Protocol):
    """What a transport needs of the loop it is attached to."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` in this turn of the loop."""
        ...

    def interest_changed(self, transport: Any) -> None:
        """What the transport wants to hear from `poll` is another thing now, or it is closed."""
        ...


class SocketTransport:
    """A TCP connection. See `Transport` for what its users call; the rest is for loops."""

    def __init__(self, raw: socket.socket, protocol: StreamProtocol, peer_name: str) -> None:
        raw.settimeout(None)
        self.socket = raw
        self.fd = raw.fileno()
        self.home: Home | None = None
        self.closed = False
        self.idle_since = 0.0
        self.protocol = protocol
        self._recv = raw.recv
        self._send = raw.send
        self._deliver = protocol.data_received
        self._peer_name = peer_name
        self._queue: deque[bytes | memoryview] = deque()
        self._queued_bytes = 0
        self._full = False
        self._paused = False
        self._closing = False
        self.direct = True  # whether waiting for this transport alone can be a blocking receive
        self._slice_s = 0.0

    # --- for the transport's user ---

    def write(self, data: bytes) -> bool:
        """See `Transport.write`."""
        if self._queue or self.closed:
            return self._enqueue(data)
        try:
            sent = self._send(data, _NOW)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._broken(error)
            return True
        return True if sent == len(data) else self._enqueue(memoryview(data)[sent:])

    def close(self) -> None:
        """See `Transport.close`."""
        if self._closing or self.closed:
            return
        self._closing = True
        if not self._queue:
            self._lose_soon(None)

    def abort(self) -> None:
        """See `Transport.abort`."""
        self._lose_soon(None)

    def pause_reading(self) -> None:
        """See `Transport.pause_reading`."""
        self._paused = True
        self._interest_changed()

    def resume_reading(self) -> None:
        """See `Transport.resume_reading`."""
        self._paused = False
        self._interest_changed()

    @property
    def peer_name(self) -> str:
        """See `Transport.peer_name`."""
        return self._peer_name

    @property
    def alpn(self) -> str | None:
        """See `Transport.alpn`."""
        return None

    # --- for the loop ---

    @property
    def wants_read(self) -> bool:
        """Whether the loop is to read."""
        return not self._paused and not self.closed

    @property
    def wants_write(self) -> bool:
        """Whether the loop is to say when the socket takes more."""
        return bool(self._queue) and not self.closed

    def receive_blocking(self, timeout: float) -> None:
        """Wait at most about `timeout` seconds for bytes and deliver them."""
        slice_s = self._slice_s
        if slice_s > timeout or (timeout > 4 * slice_s and slice_s != _SLICE_S):
            # Somewhat less than is left: the next call, with the same time to go, need not set it again.
            self._set_slice(min(0.75 * timeout, _SLICE_S))
        try:
            data = self._recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        self._received(data)

    def receive(self) -> bool:
        """Deliver what is there, if anything; True when something was (or the connection ended)."""
        if self.closed:
            return False
        try:
            data = self._recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._lose(error)
            return True
        self._received(data)
        return True

    def flush(self) -> None:
        """Send of the queue what the socket takes now."""
        queue = self._queue
        while queue and not self.closed:
            data = queue[0]
            try:
                sent = self._send(data, _NOW)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._broken(error)
                return
            self._queued_bytes -= sent
            if sent < len(data):
                queue[0] = memoryview(data)[sent:]
                return
            queue.popleft()
        self._interest_changed()
        if self._closing:
            self._lose(None)
        elif self._full and self._queued_bytes <= _LOW_WATER_BYTES:
            self._full = False
            self._tell(self.protocol.writable)

    def _received(self, data: bytes) -> None:
        if not data:
            self._lose(None)
            return
        try:
            self._deliver(data)
        except Exception as error:
            self._failed(error)

    def _tell(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            callback(*args)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        logger.exception("the protocol of %s raised; the connection is dropped", self._peer_name)
        self._lose(error)

    def _enqueue(self, data: bytes | memoryview) -> bool:
        if self.closed or self._closing:
            return True
        self._queue.append(data)
        self._queued_bytes += len(data)
        if len(self._queue) == 1:
            self._interest_changed()
        self._full = self._full or self._queued_bytes > _HIGH_WATER_BYTES
        return not self._full

    def _broken(self, error: OSError) -> None:
        """Sending failed: read what the peer said before (a GOAWAY, say), then report the end, from the loop's turn."""
        self._queue.clear()
        self._closing = True
        self._interest_changed()

        def end() -> None:
            while not self.closed and self.receive():
                pass
            self._lose(error)

        self._soon(end)

    def _lose_soon(self, error: BaseException | None) -> None:
        if not self.closed:
            self._queue.clear()
            self._closing = True
            self._interest_changed()
            self._soon(lambda: self._lose(error))

    def _soon(self, callback: Callable[[], None]) -> None:
        if self.home is None:  # nobody's loop: there is no code of ours on the stack that this could surprise
            callback()
        else:
            self.home.call_soon(callback)

    def _lose(self, error: BaseException | None) -> None:
        if self.closed:
            return
        self.closed = True
        self._queue.clear()
        self._interest_changed()
        self.socket.close()
        try:
            self.protocol.connection_lost(error)
        except Exception:
            logger.exception("the protocol of %s raised in connection_lost", self._peer_name)

    def _interest_changed(self) -> None:
        self.direct = not (self._paused or self._queue or self.closed)
        if self.home is not None:
            self.home.interest_changed(self)

    def _set_slice(self, seconds: float) -> None:
        micros = int(seconds * 1e6)
        value = _TIMEVAL.pack(micros // 1_000_000, micros % 1_000_000)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._slice_s = seconds


class TlsSocketTransport(SocketTransport):
    """The same over TLS. `shake_hands` first: until then nothing reaches the protocol.

    `on_handshake` is called once, with None or the error.
    """

    def __init__(
        self, raw: socket.socket, protocol: StreamProtocol, peer_name: str, context: ssl.SSLContext, server_name: str
    ) -> None:
        super().__init__(raw, protocol, peer_name)
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=False, server_hostname=server_name)
        self._established = False
        self.on_handshake: Callable[[BaseException | None], None] | None = None
        self._deliver_plain = protocol.data_received
        self._deliver = self._decrypt

    @property
    def alpn(self) -> str | None:
        """See `Transport.alpn`."""
        return self._tls.selected_alpn_protocol()

    def shake_hands(self) -> None:
        """Go on with the handshake as far as the bytes received allow."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._pump()
            return
        except (ssl.SSLError, OSError) as error:
            self._pump()  # the alert, so that the server's log says why
            self._lose(error)
            return
        self._pump()
        self._established = True
        self._handshake_over(None)

    def write(self, data: bytes) -> bool:
        """See `Transport.write`."""
        if self.closed or self._closing:
            return True
        self._tls.write(data)
        return super().write(self._out.read())

    def close(self) -> None:
        """See `Transport.close`."""
        if self._established and not self.closed and not self._closing:
            try:
                self._tls.unwrap()
            except (ssl.SSLError, OSError):  # wants the peer's answer, which we do not wait for
                self._pump()
        super().close()

    def _decrypt(self, data: bytes) -> None:
        self._in.write(data)
        if not self._established:
            self.shake_hands()
            if not self._established:
                return
        parts: list[bytes] = []
        ended: BaseException | None = None
        over = False
        try:
            while part := self._tls.read(_READ_BYTES):
                parts.append(part)
            over = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            over = True
        except ssl.SSLError as error:
            over, ended = True, error
        self._pump()
        if parts and not self.closed:
            self._deliver_plain(parts[0] if len(parts) == 1 else b"".join(parts))
        if over:
            self._lose(ended)

    def _pump(self) -> None:
        out = self._out.read()
        if out:
            super().write(out)

    def _lose(self, error: BaseException | None) -> None:
        if self.on_handshake is None:
            super()._lose(error)
        elif not self.closed:  # never handed to the protocol: the end is told to whoever connects
            self.closed = True
            self._interest_changed()
            self.socket.close()
            self._handshake_over(error or ConnectionResetError("the peer closed the connection in the TLS handshake"))

    def _handshake_over(self, error: BaseException | None) -> None:
        callback, self.on_handshake = self.on_handshake, None
        if callback is not None:
            callback(error)
