"""What everything that waits is written on: one small interface, three implementations.

Code above this room is `async def` on a `Runtime` and imports neither asyncio nor socket, threading, time or random.
The implementations are `rt.aio` (asyncio, uvloop), `rt.caller` (the blocking API: the coroutine is driven in the
calling thread) and `testing.sim` (a seeded, virtual world).

Rules of the house:

* Futures, tasks and transports belong to the loop that made them, and are touched from it only. What crosses loops or
  threads goes through `SharedFuture` (one value, any number of waiters anywhere) and what is built on it:
  `SingleFlight` and `Combiner` (both in `rt.shared`).
* Every wait has an end. `wait` takes a `deadline` (a value of `now()`, or None where an outer wait has one) and raises
  TimeoutError when it passes; cancellation raises `Cancelled` inside the coroutine, which must let it through.
* Nothing blocks the loop: disk and other blocking work goes through `run_blocking`.
* Protocols are callbacks, as in asyncio: the transport calls them from its loop, never re-entrantly from `write`.
* In `rt.caller`, connections are *leased*: between calls a transport belongs to nobody's loop. `exclusive_connections`
  tells the pool so; it calls `attach` before a call uses a transport and `detach` at the end of the call. Elsewhere
  connections are shared, and both are no-ops.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol, TypeVar, runtime_checkable

from pytikv.rt.tls import TlsContext

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

__all__ = [
    "Future",
    "Listener",
    "Runtime",
    "StreamProtocol",
    "Task",
    "Timer",
    "Transport",
]


class Future(Protocol[T]):
    """A value to come, within one loop. `asyncio.Future` is one. Await it once, or poll `done`."""

    def done(self) -> bool:
        """Tell whether a value or an error is there."""
        ...

    def set_result(self, result: T, /) -> None:
        """Complete with a value; an error when already done."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """Complete with an error, which the waiter raises; an error when already done."""
        ...

    def result(self) -> T:
        """Return the value or raise the error; an error when not done."""
        ...

    def cancelled(self) -> bool:
        """Tell whether it ended in cancellation."""
        ...

    def __await__(self) -> Generator[Any, Any, T]: ...


class Task(Protocol[T_co]):
    """A coroutine running by itself, made with `Runtime.spawn`."""

    def done(self) -> bool:
        """Tell whether the coroutine has ended."""
        ...

    def cancel(self) -> Any:
        """Raise `Cancelled` in the coroutine where it waits next."""
        ...


class Timer(Protocol):
    """A callback to come, made with `Runtime.call_at`."""

    def cancel(self) -> None:
        """Never call back; without effect when it was called."""
        ...


class StreamProtocol(Protocol):
    """What a transport tells its owner. All four are called from the transport's loop and must not raise."""

    def connection_made(self, transport: Transport) -> None:
        """The connection stands, and its TLS; `transport` may be used from here on."""
        ...

    def data_received(self, data: bytes) -> None:
        """Bytes have come, cut anywhere."""
        ...

    def connection_lost(self, error: BaseException | None) -> None:
        """Called exactly once, whoever closed; `error` None for an orderly end."""
        ...

    def writable(self) -> None:
        """The write buffer has fallen below its low-water mark after `write` had returned False."""
        ...


@runtime_checkable
class Transport(Protocol):
    """A byte stream (TCP, TLS or simulated). Bounded only by its owner: heed the answer of `write`."""

    def write(self, data: bytes) -> bool:
        """Queue `data`, sending at once what the socket takes. False: over the high-water mark, wait for `writable`."""
        ...

    def close(self) -> None:
        """Flush what is queued, then close; `connection_lost` follows. Idempotent."""
        ...

    def abort(self) -> None:
        """Close at once, dropping what is queued."""
        ...

    def pause_reading(self) -> None:
        """Receive nothing until `resume_reading`; the end of the connection may then go unnoticed."""
        ...

    def resume_reading(self) -> None:
        """Receive again."""
        ...

    @property
    def peer_name(self) -> str:
        """`host:port` of the other side, for messages."""
        ...

    @property
    def alpn(self) -> str | None:
        """The protocol agreed in the TLS handshake; None without TLS or without agreement."""
        ...


class Listener(Protocol):
    """A listening socket made with `Runtime.listen`."""

    @property
    def port(self) -> int:
        """The port bound to."""
        ...

    async def close(self) -> None:
        """Stop accepting; open connections are left to their owners."""
        ...


class Runtime(Protocol):
    """The interface. One instance serves one client or server; see the module's docstring for the rules."""

    exclusive_connections: bool
    """Whether a connection serves one call at a time (True in `rt.caller`)."""

    Cancelled: type[BaseException]
    """What cancellation raises inside a coroutine: a BaseException, never to be swallowed."""

    rng: random.Random
    """The source of jitter and choices; seeded in simulations."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def time(self) -> float:
        """Unix seconds of the wall clock; may jump."""
        ...

    def create_future(self) -> Future[Any]:
        """Return a new future of the present loop."""
        ...

    async def wait(self, awaitable: Future[T] | SharedFutureLike[T], deadline: float | None) -> T:
        """Wait for a future of this loop or a shared one. Raises TimeoutError at `deadline`; the future stays valid.

        A value that is there wins over the deadline. A cancelled waiter may leave a future of asyncio cancelled: look
        at `done` before completing.
        """
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for a time; 0 lets others run."""
        ...

    async def gather(self, *coroutines: Coroutine[Any, Any, T]) -> list[T]:
        """Run all at once; answers in order. The first failure cancels the others, waits for them and is raised."""
        ...

    async def with_deadline(self, coroutine: Coroutine[Any, Any, T], deadline: float) -> T:
        """Run `coroutine`, cancelling it at `deadline`; raises TimeoutError then."""
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> Task[Any]:
        """Run in the background, beyond the present call (`rt.caller`: by the housekeeper). Errors are logged."""
        ...

    def call_soon(self, callback: Callable[[], None], /) -> object:
        """Run `callback` after what is running now, in the same turn of the loop (used to join writes)."""
        ...

    def is_alone(self) -> bool:
        """Tell whether nothing else is ready in this turn of the loop: then there is nothing to join a write with.

        False where that cannot be told.
        """
        ...

    def check_loop(self) -> None:
        """Raise InvalidArgument where this runtime belongs to another event loop than the one that runs here.

        What waits for a future of another loop meets a bare RuntimeError; this says what to do.
        """

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` at `when` (a value of `now()`); in `rt.caller` it ends with the call."""
        ...

    async def run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        """Run a blocking function off the loop (in `rt.caller`: right here, the thread is the caller's own)."""
        ...

    async def connect(
        self, host: str, port: int, protocol: StreamProtocol, *, deadline: float, tls: TlsContext | None = None
    ) -> Transport:
        """Connect, with TLS when `tls` is given. Raises OSError, ssl.SSLError or TimeoutError."""
        ...

    async def listen(
        self, host: str, port: int, factory: Callable[[], StreamProtocol], *, tls: TlsContext | None = None
    ) -> Listener:
        """Listen on `host:port` (0: any free port). `rt.caller` raises NotImplementedError: it never serves."""
        ...

    def attach(self, transport: Transport) -> None:
        """Give a leased transport to the present call's loop (`rt.caller`; elsewhere a no-op).

        What came while it sat idle is delivered first. RuntimeError when another call has it. Hold no lock that its
        protocol's callbacks take: the housekeeper may be calling them at this moment.
        """
        ...

    def detach(self, transport: Transport) -> None:
        """Take it back (`rt.caller`; elsewhere a no-op)."""
        ...

    def call_scope(self) -> dict[Any, Any] | None:
        """What the present blocking call keeps until it ends, by key (`rt.caller`); None where nothing ends."""
        ...

    def at_call_end(self, callback: Callable[[], None]) -> None:
        """Run `callback` when the present blocking call ends, however it ends (`rt.caller`; elsewhere an error)."""
        ...


class SharedFutureLike(Protocol[T_co]):
    """A value that any thread and any loop may wait for; `rt.shared.SharedFuture` is the one implementation."""

    def done(self) -> bool:
        """Tell whether a value or an error is there."""
        ...

    def result(self) -> T_co:
        """Return the value or raise the error."""
        ...

    def add_waker(self, waker: Callable[[], None]) -> bool:
        """Call `waker` (from any thread, once) when done; False, and no call, when it already is."""
        ...

    def remove_waker(self, waker: Callable[[], None]) -> None:
        """Forget `waker`; it may be called all the same when the value is being set right now."""
        ...
