"""A listening port with its connections: how many there may be, and how they are brought to an end.

States: opened (connections are cut at once: the server is not ready) -> serving -> closing (no new connections; gRPC
connections get GOAWAY and finish what runs, then all are cut at the deadline) -> closed. `MAX_CONNECTIONS` bounds what
strangers can hold; one more is cut at once. Choosing the port before serving lets a server announce its addresses to
itself before anyone can ask for them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, Protocol

from pytikv.rt.interface import Listener, Runtime, StreamProtocol, Transport
from pytikv.rt.tls import TlsContext

__all__ = ["MAX_CONNECTIONS", "Connection", "Port", "split_address"]

MAX_CONNECTIONS: Final = 4096


class Connection(StreamProtocol, Protocol):
    """A connection that can be asked to end."""

    async def shutdown(self, deadline: float) -> None:
        """Take no more requests, finish what runs until `deadline`, then close."""


Factory = Callable[[], Connection]


def split_address(address: str) -> tuple[str, int]:
    """Split ``host:port``; ``[::1]:port`` and ``:port`` too. Raises ValueError.

    >>> split_address("[::1]:2379")
    ('::1', 2379)
    """
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{address!r} is not host:port")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is not host:port")
    return host, int(port)


class Port:
    """One listening port. Make it with `Port.open`."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._listener: Listener | None = None
        self._factory: Factory | None = None
        self._members: dict[_Member, None] = {}  # in order: what happens must not hang on addresses
        self._emptied: Callable[[], None] = lambda: None

    @classmethod
    async def open(cls, rt: Runtime, host: str, port: int, *, or_any: bool, tls: TlsContext | None) -> Port:
        """Listen. With `or_any` another free port is taken where `port` is in use. Raises OSError."""
        self = cls(host)
        try:
            self._listener = await rt.listen(host, port, lambda: _Member(self), tls=tls)
        except OSError as error:
            if not or_any or error.errno != errno.EADDRINUSE:
                raise
            self._listener = await rt.listen(host, 0, lambda: _Member(self), tls=tls)
        return self

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._listener is not None
        return self._listener.port

    @property
    def address(self) -> str:
        """`host:port`, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._members)

    def serve(self, factory: Factory) -> None:
        """Serve connections made from now on with what `factory` makes."""
        self._factory = factory

    def _join(self, member: _Member) -> Connection | None:
        """Take a connection in; None where it is to be cut."""
        if self._factory is None or len(self._members) >= MAX_CONNECTIONS:
            return None
        self._members[member] = None
        return self._factory()

    def _left(self, member: _Member) -> None:
        self._members.pop(member, None)
        if not self._members:
            self._emptied()

    async def close(self, rt: Runtime, deadline: float) -> None:
        """Stop accepting, let connections finish until `deadline`, then cut them."""
        self._factory = None
        if self._listener is not None:
            await self._listener.close()
        if not self._members:
            return
        emptied = rt.create_future()
        self._emptied = lambda: None if emptied.done() else emptied.set_result(None)
        await rt.gather(*(member.shutdown(deadline) for member in list(self._members)))
        if not self._members:
            return
        try:
            await rt.wait(emptied, deadline)
        except TimeoutError:
            for member in list(self._members):
                member.abort()


class _Member(StreamProtocol):
    """A connection of a port: passes everything on, and tells the port when it is over.

    It joins when it is made, not when it is accepted: a TLS handshake that fails ends without a word to its protocol.
    """

    def __init__(self, port: Port) -> None:
        self._port = port
        self._inner: Connection | None = None
        self._transport: Transport | None = None

    def connection_made(self, transport: Transport) -> None:
        self._transport = transport
        self._inner = self._port._join(self)
        if self._inner is None:
            transport.abort()
        else:
            self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.data_received(data)

    def connection_lost(self, error: BaseException | None) -> None:
        if self._inner is not None:
            self._inner.connection_lost(error)
        self._port._left(self)

    def writable(self) -> None:
        if self._inner is not None:
            self._inner.writable()

    async def shutdown(self, deadline: float) -> None:
        if self._inner is not None:
            await self._inner.shutdown(deadline)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
