"""Opening a connection from a loop that is driven by hand: resolve, connect without blocking, shake hands.

All addresses of a name are tried in the resolver's order; each may take an equal share of the time that is left, so a
dead one does not eat the whole deadline. Resolving a name blocks the thread (there is no other way in the C library);
a numeric address is not resolved.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import Any, Final

from pytikv.rt.interface import StreamProtocol
from pytikv.rt.polling import Connecting, SocketLoop
from pytikv.rt.sockets import SocketTransport, TlsSocketTransport
from pytikv.rt.tasks import LoopFuture
from pytikv.rt.tls import TlsContext

__all__ = ["open_connection"]

_monotonic: Final = time.monotonic
_UNDER_WAY: Final = (errno.EINPROGRESS, errno.EWOULDBLOCK)


async def open_connection(
    loop: SocketLoop, host: str, port: int, protocol: StreamProtocol, deadline: float, tls: TlsContext | None
) -> SocketTransport:
    """Connect and attach to `loop`. Raises OSError, ssl.SSLError or TimeoutError; leaves nothing open then."""
    if deadline <= _monotonic():
        raise TimeoutError
    raw = await _connect_any(loop, host, port, deadline)
    peer_name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if tls is None:
        transport = SocketTransport(raw, protocol, peer_name)
        transport.home = loop
        loop.adopt(transport)
        protocol.connection_made(transport)
        return transport
    try:
        encrypted = TlsSocketTransport(raw, protocol, peer_name, tls.context(), tls.server_name or host)
    except BaseException:
        raw.close()
        raise
    await _shake_hands(loop, encrypted, deadline)
    return encrypted


async def _connect_any(loop: SocketLoop, host: str, port: int, deadline: float) -> socket.socket:
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError | None = None
    for position, (family, _, _, _, address) in enumerate(addresses):
        now = _monotonic()
        until = now + (deadline - now) / (len(addresses) - position)
        try:
            return await _connect(loop, family, address, until)
        except OSError as error:
            failure = error if failure is None or not isinstance(error, TimeoutError) else failure
    assert failure is not None, "getaddrinfo answers with an address or raises"
    raise failure


async def _connect(loop: SocketLoop, family: int, address: Any, until: float) -> socket.socket:
    raw = socket.socket(family, socket.SOCK_STREAM)
    try:
        raw.setblocking(False)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = raw.connect_ex(address)
        if error in _UNDER_WAY:
            await _until_writable(loop, raw, until)
            error = raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        return raw
    except BaseException:
        raw.close()
        raise


async def _until_writable(loop: SocketLoop, raw: socket.socket, until: float) -> None:
    connecting = Connecting(raw)
    loop.adopt(connecting)
    try:
        connecting.done.deadline = until
        await connecting.done
    finally:
        loop.drop(connecting)


async def _shake_hands(loop: SocketLoop, transport: TlsSocketTransport, deadline: float) -> None:
    over: LoopFuture[None] = LoopFuture()

    def on_handshake(error: BaseException | None) -> None:
        if error is not None:
            over.set_exception(error)
        else:
            transport.protocol.connection_made(transport)
            over.set_result(None)

    transport.on_handshake = on_handshake
    transport.home = loop
    loop.adopt(transport)
    transport.shake_hands()
    try:
        over.deadline = deadline
        await over
    except BaseException:
        transport.on_handshake = None if over.done() else transport.on_handshake
        transport.abort()
        raise
