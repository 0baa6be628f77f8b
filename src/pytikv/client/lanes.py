"""The seam at the pool: what stands between a request and its channel when somebody wants to stand there.

`LanePool` takes the pool's place. Its channels are *lanes*, one an address, with the channel's two calls:

    interceptors (the first one outermost)
      -> guard: may this be sent? it may wait in the store's queue; `Refused` where it may not
        -> a connection from the pool -> the RPC -> the answer, or the failure
      <- guard: how it went, and how long it took
      <- the present call's record: a step "rpc"

What ends or keeps up a transaction (commit, rollback, heartbeat) is not shed for want of a place: it waits for one up
to its deadline, since the locks that it would leave behind cost more than it does.

A lane holds no connection: one is asked for when the guard has let the request pass, so that what waits in a queue
keeps none from others, and a connection that cannot be made counts against the address.

Nobody there is the ordinary state: the plain pool is used then, and nothing in here runs. `Cluster.observe` puts lanes
in place when the first sink comes, and takes them out when the last one goes and there is neither guard nor
interceptor. Requests under way keep the lane that they began with.

RPCs to PD pass the guard and are recorded, and are not intercepted; streams (timestamps) are their holder's to guard.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from pytikv.client.pool import ConnectionPool
from pytikv.client.rpcs import (
    KV_BATCH_ROLLBACK,
    KV_COMMIT,
    KV_PESSIMISTIC_ROLLBACK,
    KV_TXN_HEART_BEAT,
    NAME_OF_SLOT,
    REGION_ERROR,
    is_write_name,
)
from pytikv.errors import ConnectionFailed, Outcome, TikvError, WrongType
from pytikv.interceptors import Interceptor, Proceed, RpcInfo
from pytikv.observe.telemetry import CallRecord, current_record, status_of
from pytikv.wire.channel import ClientChannel, Metadata
from pytikv.wire.errors import RpcError, Status

__all__ = ["AnyChannel", "AnyPool", "ApartLane", "Channels", "Guard", "GuardSource", "Lane", "LanePool"]

_STORE_SERVICE: Final = b"/tikvpb.Tikv/"
_ENDING: Final = frozenset(
    rpc.slot for rpc in (KV_COMMIT, KV_BATCH_ROLLBACK, KV_PESSIMISTIC_ROLLBACK, KV_TXN_HEART_BEAT)
)


class Guard(Protocol):
    """What a lane asks of the guard of its address (`client.resilience.guard.Guard`)."""

    def admit(self, now: float) -> int:
        """Return a ticket for a request that may be sent, -1 for one that must `queue`. Raises Refused."""
        ...

    async def queue(self, deadline: float, *, is_patient: bool = False) -> int:
        """Wait for a place; returns the ticket. Raises Refused. `is_patient`: only the deadline ends the wait."""
        ...

    def done(self, ticket: int, now: float, took_s: float, answer: bytes) -> None:
        """Take note of an answer."""

    def failed(self, ticket: int, now: float, took_s: float, given_s: float, error: BaseException) -> None:
        """Take note that there was none, in a time that could have been `given_s`."""


class GuardSource(Protocol):
    """Whoever has a guard for each address (`client.resilience.guard.Guards`)."""

    def of(self, address: str) -> Guard:
        """Return the guard of an address."""
        ...


class Batch(Protocol):
    """As `ClientChannel.batch`."""

    def __call__(self, slot: int, request: bytes, deadline: float, /) -> Coroutine[Any, Any, bytes]: ...


class Channels(Protocol):
    """Where a lane gets its channels: `ConnectionPool`."""

    now: Callable[[], float]

    async def channel(self, address: str, deadline: float, /) -> ClientChannel:
        """Return a channel to an address."""
        ...


class Lane:
    """The way to one address. As a `ClientChannel`: `batch` and `unary`, from any loop and thread that the pool allows.

    Raises what a channel and the pool raise (RpcError, ConnectionFailed, Overloaded, ClientClosed), `Refused` (an
    RpcError: nothing was sent), and what interceptors raise.
    """

    __slots__ = ("_channel", "_guard", "_now", "_outer", "address", "batch")

    def __init__(self, pool: Channels, address: str, guard: Guard | None, outer: tuple[Interceptor, ...]) -> None:
        self.address = address
        self._channel = pool.channel
        self._now = pool.now
        self._guard = guard
        self._outer = outer
        self.batch: Batch = self._intercept if outer else self._send
        """Sends one command over the BatchCommands stream; returns the serialized answer."""

    def unary(
        self, path: bytes, request: bytes, *, deadline: float, metadata: Metadata = ()
    ) -> Coroutine[Any, Any, bytes]:
        """Call a method by itself; returns the serialized answer."""
        if self._outer and path.startswith(_STORE_SERVICE):
            return self._intercept(0, request, deadline, path, metadata)
        return self._send(0, request, deadline, path, metadata)

    async def _send(
        self, slot: int, request: bytes, deadline: float, path: bytes = b"", metadata: Metadata = ()
    ) -> bytes:
        """Send a request past the guard."""
        now, guard = self._now, self._guard
        began = now()
        ticket = 0
        if guard is not None:
            ticket = guard.admit(began)
            if ticket < 0:
                began, ticket = await self._queue(guard, slot, began, deadline)
        try:
            channel = await self._channel(self.address, deadline)
            if slot:
                data = await channel.batch(slot, request, deadline)
            else:
                data = await channel.unary(path, request, deadline=deadline, metadata=metadata)
        except BaseException as error:
            ended = now()
            if guard is not None:
                guard.failed(ticket, ended, ended - began, deadline - began, error)
            record = current_record()
            if record is not None:
                self._record(record, slot, path, began, ended, request, error)
            raise
        ended = now()
        if guard is not None:
            guard.done(ticket, ended, ended - began, data)
        record = current_record()
        if record is not None:
            self._record(record, slot, path, began, ended, request, data)
        return data

    async def _queue(self, guard: Guard, slot: int, began: float, deadline: float) -> tuple[float, int]:
        """Wait for a place; returns the time and the ticket."""
        status = "ok"
        try:
            ticket = await guard.queue(deadline, is_patient=slot in _ENDING)
        except BaseException as error:
            status = _status_of(error)
            raise
        finally:
            ended = self._now()
            record = current_record()
            if record is not None:
                record.step("queue", "bulkhead", began, ended, status, self.address)
        return ended, ticket

    def _record(
        self,
        record: CallRecord,
        slot: int,
        path: bytes,
        began: float,
        ended: float,
        request: bytes,
        met: bytes | BaseException,
    ) -> None:
        name = _name_of(slot, path)
        if isinstance(met, BaseException):
            record.step("rpc", name, began, ended, _status_of(met), self.address, (request, None))
            return
        is_for_store = slot or path.startswith(_STORE_SERVICE)
        status = "region_error" if met and met[0] == REGION_ERROR and is_for_store else "ok"
        record.step("rpc", name, began, ended, status, self.address, (request, met))

    # --- interceptors -------------------------------------------------------------------------------------------------

    async def _intercept(
        self, slot: int, request: bytes, deadline: float, path: bytes = b"", metadata: Metadata = ()
    ) -> bytes:
        """Send a request through the interceptors."""
        met: list[BaseException | None] = []  # what came of each time that the request was sent: None for an answer

        async def send(rpc: RpcInfo) -> bytes:
            try:
                data = await self._send(slot, rpc.request, deadline, path, metadata)
            except BaseException as error:
                met.append(error)
                raise
            met.append(None)
            return data

        proceed: Proceed = send
        for interceptor in reversed(self._outer):
            proceed = _around(interceptor, proceed)
        name = _name_of(slot, path)
        rpc = RpcInfo(name, self.address, is_write=is_write_name(name), deadline=deadline, request=request)
        try:
            data = await proceed(rpc)
            if not isinstance(data, bytes):
                raise WrongType(f"an interceptor of {name} returned {_kind(data)}, not the serialized answer's bytes")
            return data
        except Exception as error:
            raise _account_for(error, rpc, met) from error.__cause__


def _around(interceptor: Interceptor, proceed: Proceed) -> Proceed:
    def enter(rpc: RpcInfo) -> Coroutine[Any, Any, bytes]:
        answer = interceptor(rpc, proceed)
        if not hasattr(answer, "__await__"):
            raise WrongType(
                f"interceptors are `async def (rpc, proceed)`, and {interceptor!r} returned {_kind(answer)}"
            )
        return answer

    return enter


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _account_for(error: Exception, rpc: RpcInfo, met: list[BaseException | None]) -> Exception:
    """Return the error to raise: what an interceptor says of a write that had been sent is not taken for granted."""
    may_be_applied = any(one is None or not _was_refused(one) for one in met)
    if not rpc.is_write or not may_be_applied or (len(met) == 1 and met[0] is error):
        return error
    if isinstance(error, (ConnectionFailed, RpcError)):
        return RpcError(Status.UNAVAILABLE, f"{rpc.address}: {error} (after the request had been sent)")
    if isinstance(error, TikvError) and error.outcome is Outcome.NOT_APPLIED:
        error.outcome = Outcome.UNDETERMINED
    return error


def _was_refused(error: BaseException) -> bool:
    """Tell whether a request that met this was certainly not processed."""
    if isinstance(error, RpcError):
        return error.not_processed
    return isinstance(error, TikvError) and error.outcome is Outcome.NOT_APPLIED


def _name_of(slot: int, path: bytes) -> str:
    return NAME_OF_SLOT.get(slot) or path.rpartition(b"/")[2].decode()


def _status_of(error: BaseException) -> str:
    return Status.name_of(error.status) if isinstance(error, RpcError) else status_of(error)


class _Apart:
    """Opens a connection that is no one else's when it is asked for one, and ends it."""

    def __init__(self, plain: ConnectionPool) -> None:
        self.now = plain.now
        self._plain = plain
        self._opened: list[ClientChannel] = []

    async def channel(self, address: str, deadline: float) -> ClientChannel:
        channel = await self._plain.open_apart(address, deadline)
        self._opened.append(channel)
        return channel

    def close(self) -> None:
        while self._opened:
            self._plain.close_apart(self._opened.pop())


class ApartLane(Lane):
    """A lane with a connection of its own, made when it is used."""

    __slots__ = ("_apart",)

    def __init__(
        self, plain: ConnectionPool, address: str, guard: Guard | None, outer: tuple[Interceptor, ...]
    ) -> None:
        self._apart = _Apart(plain)
        super().__init__(self._apart, address, guard, outer)

    def close(self) -> None:
        """End the connection."""
        self._apart.close()


class LanePool:
    """A pool whose channels are lanes. What it has no word on is the plain pool's (`plain`)."""

    def __init__(
        self, plain: ConnectionPool, *, guards: GuardSource | None = None, interceptors: tuple[Interceptor, ...] = ()
    ) -> None:
        self.plain = plain
        self.uses_tls = plain.uses_tls
        self.forget = plain.forget
        self.is_alive = plain.is_alive
        self.close = plain.close
        self.abandon = plain.abandon
        self._guards = guards
        self._interceptors = interceptors
        self._lanes: dict[str, Lane] = {}

    @property
    def open_connections(self) -> int:
        """How many connections are open or being opened."""
        return self.plain.open_connections

    async def channel(self, address: str, deadline: float) -> Lane:
        """Return the lane to `address` (`host:port`); it may be kept. Connections are made when it is used."""
        lane = self._lanes.get(address)
        if lane is None:
            lane = Lane(self.plain, address, self._guard(address), self._interceptors)
            lane = self._lanes.setdefault(address, lane)
        return lane

    async def open_apart(self, address: str, deadline: float) -> ApartLane:
        """Return a lane to `address` with a connection of its own, which ends with `close_apart`."""
        return ApartLane(self.plain, address, self._guard(address), self._interceptors)

    def close_apart(self, lane: ApartLane) -> None:
        """End a lane made by `open_apart`."""
        lane.close()

    def _guard(self, address: str) -> Guard | None:
        return self._guards.of(address) if self._guards is not None else None


AnyPool = ConnectionPool | LanePool
"""What `Cluster.pool` may be."""

AnyChannel = ClientChannel | Lane
"""What its channels may be."""
