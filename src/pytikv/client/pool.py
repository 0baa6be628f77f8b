"""Connections to stores and PD: who gets which channel, how many there are, and when they end.

Two ways, by what the runtime says:

* **Shared** (asyncio, simulation): the channels to an address are used by all calls at once, round robin. One is
  opened at first, by one task for all who wait; another in the background when those there are busy (`busy_in_flight`
  calls each), up to `grpc_concurrency`.
* **Exclusive** (`rt.caller`): a channel is *leased* to the present call, which may use it for any number of requests,
  and goes back when the call ends, however it ends. The last one returned is the next one leased. Between leases the
  runtime looks after it: it answers the store's keepalive PING (TiKV pings after 10 s of silence and waits for 3 s),
  and on attaching one that sat idle it takes in what came, so that an end is noticed before the connection is used.

Bounds: `max_connections` open at once in the whole pool. Over it an idle connection to another address is closed;
where none is idle, the caller waits for one until its deadline and then gets `Overloaded`. Idle connections are closed
after `idle_timeout_s`. A channel that must not be used any more (GOAWAY, fault) is never handed out again.

An address that cannot be reached is not tried again before 100 ms have passed, then 160 ms and so on up to 3 s;
meanwhile callers get the reason of the last failure at once. Waiting is left to them: another replica may serve.

Errors: `ConnectionFailed` names the address and the reason, `ClientClosed` after `close`. Nothing was sent then.

Source of the reconnect times: client-go internal/client/conn_pool.go.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, Protocol

from pytikv.client.flights import Flights
from pytikv.errors import ClientClosed, ConfigError, ConnectionFailed, Overloaded
from pytikv.observe.state import AddressStats
from pytikv.observe.telemetry import as_step
from pytikv.proto import health_pb2 as health
from pytikv.rt.interface import Future, Runtime, Timer
from pytikv.rt.locks import mutex
from pytikv.rt.shared import SharedFuture
from pytikv.rt.tls import TlsContext
from pytikv.wire.channel import ChannelConfig, ClientChannel, Metadata
from pytikv.wire.errors import ConnectFailed, RpcError, Status

__all__ = ["ConnectionPool", "PoolSettings", "PoolStats", "Tokens", "split_address"]

_HEALTH_CHECK: Final = b"/grpc.health.v1.Health/Check"
_RECONNECT_BASE_S: Final = 0.1
_RECONNECT_FACTOR: Final = 1.6
_RECONNECT_CAP_S: Final = 3.0
_JITTER: Final = 0.2
_DRAIN_S: Final = 5.0
_FAIR_TRY_S: Final = 1.0  # a connect cut short by its caller before this says nothing about the address


@dataclasses.dataclass(frozen=True, slots=True)
class PoolSettings:
    """Limits of a pool. `grpc_concurrency` counts for shared connections and one address, `max_connections` for all."""

    grpc_concurrency: int = 8
    max_connections: int = 256
    idle_timeout_s: float = 60.0
    connect_timeout_s: float = 3.0
    busy_in_flight: int = 256
    channel: ChannelConfig = dataclasses.field(default_factory=ChannelConfig)


class PoolStats(NamedTuple):
    """A look at a pool."""

    addresses: tuple[AddressStats, ...]
    max_connections: int
    waiting: int
    """Calls that wait for a connection."""


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port`. Raises ConfigError."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or not 0 < int(port) < 65536 or (":" in host and host[0] != "["):
        raise ConfigError(f"{address!r} is not an address of the form host:port")
    return host.strip("[]"), int(port)


class _Address:
    """What the pool knows of one address. `idle` (exclusive): channels with the time of their return. `every`: all
    channels made for it that are still there, for `ConnectionPool.stats`."""

    __slots__ = (
        "channels",
        "cursor",
        "every",
        "failures",
        "generation",
        "growing",
        "host",
        "idle",
        "last_error",
        "name",
        "port",
        "retry_at",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.host, self.port = split_address(name)
        self.channels: list[ClientChannel] = []
        self.every: weakref.WeakSet[ClientChannel] = weakref.WeakSet()
        self.cursor = 0
        self.growing = False
        self.idle: list[tuple[ClientChannel, float]] = []
        self.generation = 0
        self.failures = 0
        self.retry_at = float("-inf")
        self.last_error = ConnectFailed()


class Tokens(Protocol):
    """The client's token (`client.tokens.TokenSource`)."""

    @property
    def metadata(self) -> Metadata:
        """What streams carry."""
        ...

    async def ready(self, deadline: float) -> None:
        """Return when `metadata` is what it should be."""


class ConnectionPool:
    """The pool of one client. Safe for many threads on an exclusive runtime; else it belongs to one loop."""

    tokens: Tokens | None = None
    """What streams are authorized by; whoever keeps one looks here whether it must be renewed. None: by nothing."""

    def __init__(self, rt: Runtime, settings: PoolSettings | None = None, tls: TlsContext | None = None) -> None:
        self._rt = rt
        self.now = rt.now
        self._settings = settings or PoolSettings()
        self._tls = tls
        self._exclusive = rt.exclusive_connections
        self._addresses: dict[str, _Address] = {}
        self._lock = mutex()
        self._flights = Flights(rt)
        self._waiters: deque[SharedFuture[None]] = deque()
        self._open = 0
        self._closed = False
        self._tending = False
        self._timer: Timer | None = None

    @property
    def uses_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self._tls is not None

    @property
    def open_connections(self) -> int:
        """How many connections are open or being opened."""
        return self._open

    async def channel(self, address: str, deadline: float) -> ClientChannel:
        """Return a usable channel to `address` (`host:port`), the caller's until the end of the present call.

        Raises ConnectionFailed, Overloaded, ClientClosed, or ConfigError for an ill-formed address.
        """
        state = self._addresses.get(address)
        if state is None:
            state = self._address(address)
        if self._exclusive:
            scope = self._rt.call_scope()
            if scope is None:
                raise RuntimeError("a leased connection is asked for outside of a call")
            channel: ClientChannel | None = scope.get(state)
            if channel is not None and channel.usable:
                return channel
            return await self._lease(state, scope, deadline)
        channels = state.channels
        if channels:
            state.cursor = cursor = (state.cursor + 1) % len(channels)
            channel = channels[cursor]
            if channel.usable and channel.in_flight < self._settings.busy_in_flight:
                return channel
        return await self._share(state, deadline)

    def _address(self, address: str) -> _Address:
        if self._closed:
            raise ClientClosed("the client was closed")
        return self._addresses.setdefault(address, _Address(address))

    # --- shared -------------------------------------------------------------------------------------------------------

    async def _share(self, state: _Address, deadline: float) -> ClientChannel:
        while True:
            self._drop_unusable(state)
            if state.channels:
                break
            await self._flights.run(state, lambda: self._open_shared(state, deadline), deadline)
        least = min(state.channels, key=lambda channel: channel.in_flight)
        if least.in_flight >= self._settings.busy_in_flight:
            self._grow(state)
        return least

    def _drop_unusable(self, state: _Address) -> None:
        usable = [channel for channel in state.channels if channel.usable]
        gone = len(state.channels) - len(usable)
        state.channels = usable
        state.cursor = 0
        for _ in range(gone):  # they end by themselves with their last call
            self._give_back()

    async def _open_shared(self, state: _Address, deadline: float) -> None:
        if state.channels and state.channels[0].usable:
            return
        channel = await self._connect(state, deadline)
        state.channels = [*state.channels, channel]
        self._arm_timer()

    def _grow(self, state: _Address) -> None:
        settings = self._settings
        if state.growing or len(state.channels) >= settings.grpc_concurrency or self._open >= settings.max_connections:
            return
        state.growing = True
        self._rt.spawn(self._add_channel(state), name=f"connect {state.name}")

    async def _add_channel(self, state: _Address) -> None:
        try:
            channel = await self._connect(state, self._rt.now() + self._settings.connect_timeout_s)
            state.channels = [*state.channels, channel]
        except (ConnectionFailed, Overloaded, ClientClosed):
            pass  # the channels there go on; the next busy moment tries again
        finally:
            state.growing = False

    def _arm_timer(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = self._rt.call_at(self._rt.now() + self._settings.idle_timeout_s / 2, self._on_timer)

    def _on_timer(self) -> None:
        """Close the shared channels that were idle for long; runs only while there are channels."""
        self._timer = None
        before = self._rt.now() - self._settings.idle_timeout_s
        for state in self._addresses.values():
            for channel in [c for c in state.channels if not c.in_flight and c.idle_since <= before]:
                state.channels = [c for c in state.channels if c is not channel]
                self._rt.spawn(self._close(channel), name="close an idle connection")
        if any(state.channels for state in self._addresses.values()):
            self._arm_timer()

    # --- exclusive ----------------------------------------------------------------------------------------------------

    async def _lease(self, state: _Address, scope: dict[Any, Any], deadline: float) -> ClientChannel:
        """Lease a channel to the present call; parts of the call that come at the same time share it."""
        opening = ("opening", state)
        while True:
            waiters: list[Future[None]] | None = scope.get(opening)
            if waiters is None:
                break
            turn: Future[None] = self._rt.create_future()
            waiters.append(turn)
            try:
                await self._rt.wait(turn, deadline)
            except TimeoutError:
                raise ConnectionFailed(f"{state.name}: no connection in time") from None
            channel: ClientChannel | None = scope.get(state)
            if channel is not None and channel.usable:
                return channel
        scope[opening] = waiters = []
        try:
            channel = self._take_idle(state)
            if channel is None:
                channel = await self._connect(state, deadline)
            scope[state] = channel
            self._rt.at_call_end(self._releaser(state, channel))
            return channel
        finally:
            del scope[opening]
            for turn in waiters:
                if not turn.done():
                    turn.set_result(None)

    def _take_idle(self, state: _Address) -> ClientChannel | None:
        while state.idle:
            try:
                channel, since = state.idle.pop()
            except IndexError:  # another thread was faster
                return None
            if not self._attach(channel):
                state.idle.insert(0, (channel, since))
                return None
            if channel.usable:
                return channel
            self._discard(channel, "the connection had ended while idle")
        return None

    def _attach(self, channel: ClientChannel) -> bool:
        """Lease a channel's transport to the present call. False while the last one's end is still being handled."""
        try:
            if channel.transport is not None:
                self._rt.attach(channel.transport)
        except RuntimeError:
            return False
        return True

    def _releaser(self, state: _Address, channel: ClientChannel) -> Callable[[], None]:
        generation = state.generation

        def release() -> None:
            # A call that was given up may have left requests without an answer: that channel is not handed on.
            if self._closed or generation != state.generation or not channel.usable or channel.in_flight:
                self._discard(channel, "the call that held the connection was given up")
                return
            if channel.transport is not None:
                self._rt.detach(channel.transport)
            state.idle.append((channel, self._rt.now()))
            if self._waiters:
                self._wake()
            if not self._tending:
                self._start_tending()

        return release

    def _start_tending(self) -> None:
        with self._lock:
            if self._tending or self._closed:
                return
            self._tending = True
        self._rt.spawn(self._tend(), name="idle connections")

    async def _tend(self) -> None:
        """Close leased connections that were idle for long; one wake-up per timeout, and none without connections."""
        timeout_s = self._settings.idle_timeout_s
        try:
            while not self._closed:
                oldest = [state.idle[0][1] for state in self._states() if state.idle]
                if not oldest:
                    return
                await self._rt.sleep(max(min(oldest) + timeout_s - self._rt.now(), timeout_s / 10))
                for state in self._states():
                    self._close_idle(state, self._rt.now() - timeout_s)
        finally:
            self._tending = False

    def _close_idle(self, state: _Address, before: float) -> None:
        """Close the channels returned before a time; whoever takes one out of the list owns it."""
        while state.idle and state.idle[0][1] <= before:
            try:
                channel, since = state.idle.pop(0)
            except IndexError:
                return
            if since > before or not self._attach(channel):
                state.idle.insert(0, (channel, since))
                return
            self._discard(channel, "closed after a time without use")

    # --- opening and closing ------------------------------------------------------------------------------------------

    async def open_apart(self, address: str, deadline: float) -> ClientChannel:
        """Open a channel that is no one else's: for a stream that outlives calls. Ends with `close_apart`.

        On an exclusive runtime it is attached to the present call; the owner detaches and attaches it.
        """
        return await self._connect(self._addresses.get(address) or self._address(address), deadline)

    def close_apart(self, channel: ClientChannel) -> None:
        """End a channel made by `open_apart`."""
        self._discard(channel, "closed")

    async def _connect(self, state: _Address, deadline: float) -> ClientChannel:
        now = self._rt.now()
        if now < state.retry_at:
            text = f"{state.last_error.details} (tried again in {state.retry_at - now:.2g} s)"
            raise ConnectionFailed(text) from state.last_error
        await self._reserve(state, deadline)
        start = self._rt.now()
        channel = ClientChannel(self._rt, address=state.name, config=self._settings.channel)
        try:
            until = min(deadline, start + self._settings.connect_timeout_s)
            connect = channel.connect(state.host, state.port, until, self._tls)
            await as_step(self._rt.now, "connect", "tls" if self.uses_tls else "tcp", connect, store=state.name)
        except ConnectFailed as error:
            self._give_back()
            self._on_failure(state, error, self._rt.now() - start)
            raise ConnectionFailed(error.details) from error
        except BaseException:
            self._give_back()
            raise
        state.failures = 0
        with self._lock:
            state.every.add(channel)
        if self._closed:
            self._discard(channel, "closed")
            raise ClientClosed("the client was closed")
        return channel

    def _on_failure(self, state: _Address, error: ConnectFailed, took_s: float) -> None:
        state.last_error = ConnectFailed(error.details, reason=error.reason)  # without its traceback
        if error.reason == "timeout" and took_s < min(_FAIR_TRY_S, self._settings.connect_timeout_s):
            return
        pause_s = min(_RECONNECT_CAP_S, _RECONNECT_BASE_S * _RECONNECT_FACTOR ** min(state.failures, 16))
        state.failures += 1
        state.retry_at = self._rt.now() + pause_s * (1 + _JITTER * (2 * self._rt.rng.random() - 1))

    async def _reserve(self, state: _Address, deadline: float) -> None:
        """Count one more connection, making room or waiting for it. Raises Overloaded, ClientClosed."""
        while True:
            with self._lock:
                if self._closed:
                    raise ClientClosed("the client was closed")
                if self._open < self._settings.max_connections:
                    self._open += 1
                    return
                turn: SharedFuture[None] = SharedFuture()
                self._waiters.append(turn)
            victim = self._pop_victim()
            if victim is not None:
                self._leave_queue(turn)
                self._discard(victim, "its place was needed")
                continue
            try:
                wait = self._rt.wait(turn, deadline)
                await as_step(self._rt.now, "queue", "connection", wait, store=state.name)
            except BaseException as error:
                self._leave_queue(turn)
                if isinstance(error, TimeoutError):
                    text = f"all {self._settings.max_connections} connections (max_connections) are in use"
                    raise Overloaded(f"{state.name}: {text}") from None
                raise

    def _pop_victim(self) -> ClientChannel | None:
        """Take the connection that was idle for longest out of the pool."""
        if self._exclusive:
            for state in sorted((s for s in self._states() if s.idle), key=_oldest):
                try:
                    channel, since = state.idle.pop(0)
                except IndexError:
                    continue
                if self._attach(channel):
                    return channel
                state.idle.insert(0, (channel, since))
            return None
        idle = [(state, channel) for state in self._states() for channel in state.channels if not channel.in_flight]
        if not idle:
            return None
        state, channel = min(idle, key=lambda entry: entry[1].idle_since)
        state.channels = [other for other in state.channels if other is not channel]
        return channel

    def _leave_queue(self, turn: SharedFuture[None]) -> None:
        with self._lock:
            if turn in self._waiters:
                self._waiters.remove(turn)
                return
        self._wake()  # it had been woken: pass that on

    def _wake(self) -> None:
        with self._lock:
            turn = self._waiters.popleft() if self._waiters else None
        if turn is not None:
            turn.set_result(None)

    def _give_back(self) -> None:
        with self._lock:
            self._open -= 1
        self._wake()

    def _discard(self, channel: ClientChannel, reason: str) -> None:
        channel.abort(reason)
        self._give_back()

    def _discard_idle(self, state: _Address) -> None:
        self._close_idle(state, float("inf"))

    async def _close(self, channel: ClientChannel) -> None:
        """Close a shared channel that is out of the list, after its calls in flight."""
        until = self._rt.now() + _DRAIN_S
        while channel.in_flight and channel.usable and self._rt.now() < until:
            await self._rt.sleep(0.05)
        await channel.close()
        self._give_back()

    def forget(self, address: str) -> None:
        """Use no present connection to `address` for new calls: another process may be there by now (StoreNotMatch)."""
        state = self._addresses.get(address)
        if state is None:
            return
        state.generation += 1
        state.retry_at = float("-inf")
        channels, state.channels = state.channels, []
        for channel in channels:
            self._rt.spawn(self._close(channel), name="close a forgotten connection")
        if self._exclusive:
            scope = self._rt.call_scope()
            if scope is not None:
                scope.pop(state, None)  # it stays leased until the call ends, and is dropped then
            self._discard_idle(state)

    async def is_alive(self, address: str, deadline: float) -> bool:
        """Ask the gRPC health service at `address`. Serving, or without that service, is alive; no answer is not."""
        try:
            channel = await self.channel(address, deadline)
            data = await channel.unary(_HEALTH_CHECK, b"", deadline=deadline)
        except RpcError as error:
            return error.status == Status.UNIMPLEMENTED
        except (ConnectionFailed, Overloaded):
            return False
        answer = health.HealthCheckResponse.FromString(data)
        return answer.status == health.HealthCheckResponse.SERVING

    def stats(self) -> PoolStats:
        """Return what is open at present, and who waits."""
        with self._lock:
            channels = [(state, list(state.every)) for state in self._states()]
            waiting = len(self._waiters)
        addresses = tuple(self._stats_of(state, every) for state, every in channels if every)
        return PoolStats(addresses, self._settings.max_connections, waiting)

    def _stats_of(self, state: _Address, every: list[ClientChannel]) -> AddressStats:
        usable = [channel for channel in every if channel.usable]
        idle = {id(channel) for channel, _ in tuple(state.idle)}
        if not self._exclusive:
            idle = {id(channel) for channel in usable if not channel.in_flight}
        unused = sum(id(channel) in idle for channel in usable)
        in_flight = sum(channel.in_flight for channel in usable)
        return AddressStats(state.name, len(usable) - unused, unused, in_flight)

    async def close(self) -> None:
        """End all connections; leased ones when their calls end. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for state in self._states():
            channels, state.channels = state.channels, []
            for channel in channels:
                await channel.close()
                self._give_back()
            self._discard_idle(state)
        while self._waiters:
            self._wake()

    def abandon(self, *, forked: bool = False) -> None:
        """As `close`, without waiting. `forked`: in a child process; the sockets are the parent's and left alone."""
        self._closed = True
        for state in self._states():
            channels, state.channels = state.channels, []
            if forked:
                state.idle.clear()
                continue
            for channel in channels:
                self._discard(channel, "closed")
            self._discard_idle(state)

    def _states(self) -> Iterator[_Address]:
        yield from list(self._addresses.values())


def _oldest(state: _Address) -> float:
    return state.idle[0][1] if state.idle else float("inf")
