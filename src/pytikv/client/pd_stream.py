"""One long-lived stream to PD's leader, used by one holder at a time, whatever thread or task that is.

The stream (Tso, QueryRegion) is opened when first used and kept. It answers in the order of asking, so there is one
request on it at a time; callers are joined before it (`rt.shared.Combiner`), and the combiner's leader is the holder.

On a shared runtime the stream runs over the pool's channel to the leader, beside other calls. On an exclusive one it
has a connection of its own, because leases end with the call and the stream does not: each exchange attaches it to the
holder's call and detaches it afterwards.

Any trouble, the holder's deadline and cancellation included, ends the stream: an answer that nobody waits for must not
become the next one's. The next exchange opens another, at whoever leads then. A stream unused for a minute is ended
too, so that an idle client has nothing open (on an exclusive runtime PD's keepalive does that). One that was opened
with a token that has changed since is opened anew.
"""

from __future__ import annotations

from typing import Final, Protocol

from pytikv.client.pd_status import accuses_leader
from pytikv.client.pool import ConnectionPool
from pytikv.client.resilience.guard import Guards, Refused
from pytikv.errors import ConnectionFailed
from pytikv.rt.interface import Runtime, Timer
from pytikv.wire.calls import ClientStream
from pytikv.wire.channel import ClientChannel, Metadata
from pytikv.wire.errors import ConnectionLost, RpcError

__all__ = ["LeaderSource", "PdStream"]

_IDLE_END_S: Final = 60.0


class LeaderSource(Protocol):
    """Whoever knows PD's leader: `PdClient`."""

    async def leader(self, deadline: float) -> str:
        """Return the leader's address."""
        ...

    def leader_failed(self, address: str) -> None:
        """Take note that it did not serve."""
        ...


class PdStream:
    """The stream for one method. `exchange` must not be entered again before it has returned."""

    def __init__(
        self, rt: Runtime, pool: ConnectionPool, source: LeaderSource, path: bytes, guards: Guards | None = None
    ) -> None:
        self._rt = rt
        self._pool = pool
        self._source = source
        self._path = path
        self._guards = guards
        self._channel: ClientChannel | None = None
        self._stream: ClientStream | None = None
        self._address = ""
        self._opened_with: Metadata = ()
        self._used_at = 0.0
        self._closed = False
        self._busy = False
        self._timer: Timer | None = None

    async def exchange(self, request: bytes, deadline: float) -> bytes:
        """Send a message and return the next one that comes. One try.

        Raises RpcError or ConnectionFailed; the leader is then looked for anew, unless it answered a moment ago and the
        fault is the caller's short time.
        The leader's guard, where there is one, counts it, and may refuse it (Refused).
        """
        if self._guards is None:
            return await self._exchange(request, deadline)
        leader = await self._source.leader(deadline)
        try:
            return await self._guards.of(leader).run(lambda: self._exchange(request, deadline), deadline)
        except Refused:
            self._source.leader_failed(leader)
            raise

    async def _exchange(self, request: bytes, deadline: float) -> bytes:
        self._rt.check_loop()
        done = False
        address = ""
        self._busy = True
        try:
            stream = await self._open(deadline)
            address = self._address
            stream.send(request)
            answer = await stream.recv(deadline)
            if answer is None:
                raise ConnectionLost(f"{address}: PD ended the stream")
            done = True
            return answer
        except (RpcError, ConnectionFailed) as error:
            if address and accuses_leader(error, self._rt.now() - self._used_at):
                self._source.leader_failed(address)
            raise
        finally:
            self._busy = False
            if done:
                self._put_down()
            else:
                self._drop()

    async def _open(self, deadline: float) -> ClientStream:
        """Return the stream, attached to the present call and open at the present leader."""
        leader = await self._source.leader(deadline)
        channel, stream = self._channel, self._stream
        if channel is not None and stream is not None and self._address == leader:
            is_sound = self._pick_up(channel)
            if is_sound and not stream.done and (self._pool.tokens is None or await self._is_authorized(deadline)):
                return stream
        self._drop()
        self._address = leader
        if self._rt.exclusive_connections:
            self._channel = await self._pool.open_apart(leader, deadline)
        else:
            self._channel = await self._pool.channel(leader, deadline)
        self._stream = self._channel.stream(self._path, deadline=None)
        self._opened_with = () if self._pool.tokens is None else self._pool.tokens.metadata
        return self._stream

    async def _is_authorized(self, deadline: float) -> bool:
        """Tell whether the stream carries the client's present token."""
        tokens = self._pool.tokens
        if tokens is None:
            return True
        await tokens.ready(deadline)
        return tokens.metadata == self._opened_with

    def _pick_up(self, channel: ClientChannel) -> bool:
        try:
            if channel.transport is not None:
                self._rt.attach(channel.transport)
        except RuntimeError:  # its last holder's end is still being handled
            return False
        return channel.usable

    def _put_down(self) -> None:
        if self._closed:
            self._drop()
            return
        self._used_at = self._rt.now()
        if not self._rt.exclusive_connections:
            self._timer = self._timer or self._rt.call_at(self._used_at + _IDLE_END_S, self._on_timer)
        elif self._channel is not None and self._channel.transport is not None:
            self._rt.detach(self._channel.transport)

    def _on_timer(self) -> None:
        self._timer = None
        if self._stream is None:
            return
        at = self._used_at + _IDLE_END_S
        if self._busy or self._rt.now() < at:
            self._timer = self._rt.call_at(max(at, self._rt.now() + 1.0), self._on_timer)
        else:
            self._drop()

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        channel, self._channel = self._channel, None
        if stream is not None:
            stream.cancel()
        if channel is not None and self._rt.exclusive_connections:
            self._pool.close_apart(channel)

    def close(self) -> None:
        """End the stream; the one who holds it at this moment ends it when done."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._busy:
            return
        if self._rt.exclusive_connections and self._channel is not None and self._channel.transport is not None:
            self._rt.attach(self._channel.transport)
        self._drop()
