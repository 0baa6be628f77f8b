"""What surrounds a call: its deadline, on whose behalf it is made, and how urgent it is.

    with pytikv.deadline(0.05, reserve=0.01):                      # the calls inside get 40 ms
    with pytikv.context(trace_id=..., tenant_id="acme"):           # on whose behalf
    with pytikv.context.from_headers(request.headers):             # both, as an inbound request says

All of it is one immutable value, `Ambient`, in one context variable: it follows asyncio tasks, threads started with a
copied context, and the coroutines of a blocking call. A call reads it once, at its start, and hands down what it found;
where nothing is set, that is one look at a variable.

* Deadlines are absolute (values of the runtime's `now()`). Nested ones only shrink. `reserve` is a margin for whoever
  opens the block: the calls inside end that much sooner than the block. A block that has run out does not interrupt
  code that is not calling the library; the next call in it fails at once.
* A context says what the outer one does but for what it says itself. Another `trace_id` begins another trace: the outer
  one's span, flags and tracestate do not carry over.
* A service class names a row of the client's `sla`, whose seconds take the place of `timeout` (`end_of_call`).

Work that outlives its call (the secondaries of a commit) keeps the context and drops the deadline: `on_behalf`. Whoever
works for many has first dropped all that surrounds it: `forget_ambient`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar

from pytikv.call_context import NOBODY, CallContext
from pytikv.errors import InvalidArgument, WrongType
from pytikv.rt.clock import ambient_clock
from pytikv.service_classes import Sla

__all__ = [
    "Ambient",
    "CallContext",
    "context",
    "current_ambient",
    "current_context",
    "current_deadline",
    "deadline",
    "effective",
    "end_of_call",
    "forget_ambient",
    "on_behalf",
    "remaining",
]


class Ambient(NamedTuple):
    """What surrounds the calls of a block; None stands for what nobody has set."""

    deadline: float | None = None
    context: CallContext | None = None
    service_class: str | None = None


class Timed(Protocol):
    """What `end_of_call` needs of a client's options."""

    @property
    def timeout(self) -> float:
        """Seconds that a call may take."""
        ...

    @property
    def service_class(self) -> str | None:
        """The class of a client's calls; None: `timeout` holds."""
        ...

    @property
    def sla(self) -> Sla:
        """Seconds that calls of each class may take."""
        ...


_NOTHING = Ambient()
_ambient: ContextVar[Ambient | None] = ContextVar("pytikv_ambient", default=None)
current_ambient = _ambient.get
"""Return what surrounds the present call; None where nothing was set, the ordinary case."""


def current_context() -> CallContext | None:
    """Return on whose behalf calls are made here; None where nobody said."""
    ambient = _ambient.get()
    return None if ambient is None else ambient.context


def current_deadline() -> float | None:
    """Return the ambient deadline as a value of the runtime's `now()`; None where there is none."""
    ambient = _ambient.get()
    return None if ambient is None else ambient.deadline


T = TypeVar("T")
_Block = TypeVar("_Block", bound="_Surrounding")


class _Surrounding:
    """A block that changes what surrounds the calls inside. One object serves one block at a time."""

    __slots__ = ("_token",)

    _token: Token[Ambient | None] | None

    def _inside(self, outer: Ambient) -> Ambient:
        raise TypeError(f"{type(self).__name__} says nothing about what is inside")

    def __enter__(self: _Block) -> _Block:
        if self._token is not None:
            raise InvalidArgument(f"this {type(self).__name__} is in use already: make a new one for each block")
        self._token = _ambient.set(self._inside(_ambient.get() or _NOTHING))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        token, self._token = self._token, None
        if token is not None:
            _ambient.reset(token)


class deadline(_Surrounding):
    """Bound all calls inside the block: `with pytikv.deadline(seconds):`.

    `seconds` (a number of at least 0) counts from entering the block. `reserve` (likewise, default 0) is how many of
    them are kept for what the caller does after its calls: those end at the block's end minus `reserve`, and where an
    outer block ends sooner, at that end minus `reserve`. `deadline(math.inf, reserve=0.01)` only reserves.

    Calls that do not finish in time raise DeadlineExceeded, or the more telling error of what they were waiting for.
    Raises InvalidArgument for a negative number or NaN, WrongType for what is no number. One object serves one block at
    a time; make a new one for each.
    """

    __slots__ = ("_reserve", "_seconds")

    def __init__(self, seconds: float, *, reserve: float = 0.0) -> None:
        self._seconds = _check_seconds(seconds, "a deadline")
        self._reserve = _check_seconds(reserve, "a reserve")
        if self._reserve == math.inf:
            raise InvalidArgument("a reserve is a finite number of seconds")
        self._token = None

    def _inside(self, outer: Ambient) -> Ambient:
        return outer._replace(deadline=_sooner(outer.deadline, self._seconds, self._reserve))


class context(_Surrounding):
    """Say on whose behalf the calls inside the block are made: `with pytikv.context(tenant_id="acme"):`.

    trace_id: of the trace that the calls belong to, 32 hex digits (dashes, as in a UUID, are ignored).
    span_id: of the caller's span in it, 16 hex digits; needs a trace_id, here or outside. Default: made from trace_id.
    tenant_id: for whom; goes into logs, spans and metadata.
    request_source: the origin of the requests in the stores' metrics, before the option of the same name.
    resource_group: what the requests are charged to, before the option of the same name.
    priority: "low", "normal" or "high", before the option of the same name.
    user_token: sent to servers as `authorization: Bearer ...`; such calls travel each by itself. Never shown anywhere.
    service_class: a row of the client's `sla`; its seconds take the place of `timeout`.
    baggage: names and values that travel along, added to the outer ones.

    What is left out (None) stays as the outer block has it. Where an inner service class allows more time than an
    outer deadline, the deadline holds. Raises InvalidArgument for a value that is none, WrongType for one of the wrong
    type. One object serves one block at a time; make a new one for each.
    """

    __slots__ = ("_changes", "_seconds", "_service_class")

    def __init__(
        self,
        *,
        trace_id: str | None = None,
        span_id: str | None = None,
        tenant_id: str | None = None,
        request_source: str | None = None,
        resource_group: str | None = None,
        priority: str | None = None,
        user_token: str | None = None,
        service_class: str | None = None,
        baggage: Mapping[str, str] | None = None,
    ) -> None:
        said: dict[str, Any] = {
            "trace_id": trace_id,
            "span_id": span_id,
            "tenant_id": tenant_id,
            "request_source": request_source,
            "resource_group": resource_group,
            "priority": priority,
            "user_token": user_token,
            "baggage": baggage,
        }
        self._changes = CallContext.check({name: value for name, value in said.items() if value is not None})
        if service_class is not None and not isinstance(service_class, str):
            raise WrongType(f"service_class is a string, not {type(service_class).__name__}")
        if service_class == "":
            raise InvalidArgument("service_class names a row of the client's sla, and not ''")
        self._service_class = service_class
        self._seconds: float | None = None
        self._token = None

    @classmethod
    def from_headers(cls, headers: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> context:
        """Take over what an inbound request says: its trace, its baggage, and the time it leaves.

        `headers`: a mapping or pairs of names and values, str or bytes, names in any case; also a WSGI environ. Read
        are `traceparent`, `tracestate` and `baggage` (W3C) and `grpc-timeout`, whose time counts from entering the
        block. What is malformed or too large is ignored, as W3C demands: no content of a request raises. Raises
        WrongType where `headers` is neither a mapping nor pairs.
        """
        from pytikv.inbound import read_headers  # rarely wanted, and by servers only

        inbound = read_headers(headers)
        taken = cls()
        taken._changes, taken._seconds = inbound.changes, inbound.timeout_s
        return taken

    def _inside(self, outer: Ambient) -> Ambient:
        at = outer.deadline if self._seconds is None else _sooner(outer.deadline, self._seconds, 0.0)
        whose = (outer.context or NOBODY).changed(self._changes) if self._changes else outer.context
        return Ambient(at, whose, self._service_class or outer.service_class)

    def __repr__(self) -> str:
        names = [*self._changes, *(["service_class"] if self._service_class is not None else [])]
        return f"context({', '.join(f'{name}=...' for name in names)})"


def _check_seconds(seconds: float, what: str) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise WrongType(f"{what} is a number of seconds, not {type(seconds).__name__}")
    if not seconds >= 0:
        raise InvalidArgument(f"{what} is at least 0 seconds, not {seconds}")
    return seconds


def _sooner(outer: float | None, seconds: float, reserve: float) -> float | None:
    if seconds == math.inf:
        return None if outer is None else outer - reserve
    at = ambient_clock.get()() + seconds
    return (at if outer is None or at < outer else outer) - reserve


# --- what a call asks -------------------------------------------------------------------------------------------------


def effective(now: float, timeout: float) -> float:
    """Return when a call begun at `now` must end: after `timeout` seconds, or at the ambient deadline if sooner."""
    at = now + timeout
    ambient = _ambient.get()
    if ambient is None or ambient.deadline is None or at < ambient.deadline:
        return at
    return ambient.deadline


def end_of_call(now: float, options: Timed, more_s: float = 0.0) -> float:
    """Return when a call begun at `now` must end by the client's options and what surrounds it.

    `more_s`: what the caller allows on top of what the options say, for a wait that it asked for.

    The service class of the block comes before the client's, and either before `timeout`; the ambient deadline ends
    all of them. Raises InvalidArgument for a class that `sla` does not have.
    """
    ambient = _ambient.get()
    name = options.service_class if ambient is None else ambient.service_class or options.service_class
    at = now + (options.timeout if name is None else options.sla.seconds(name)) + more_s
    if ambient is None or ambient.deadline is None or at < ambient.deadline:
        return at
    return ambient.deadline


def remaining() -> float | None:
    """Return the seconds left of the ambient deadline, at least 0; None where there is none."""
    at = current_deadline()
    return None if at is None else max(0.0, at - ambient_clock.get()())


def on_behalf(work: Callable[[], Coroutine[Any, Any, T]]) -> Callable[[], Coroutine[Any, Any, T]]:
    """Return `work` to be run by others, in the context of whoever calls this now but without its deadline.

    Others are those who have called `forget_ambient`.
    """
    context = current_context()
    if context is None:
        return work
    kept = Ambient(None, context)

    async def run() -> T:
        token = _ambient.set(kept)
        try:
            return await work()
        finally:
            _ambient.reset(token)

    return run


def forget_ambient() -> None:
    """Let nothing surround what the present task does from now on: it was begun by one call, and works for many."""
    _ambient.set(None)
