"""Ambient deadlines: `with pytikv.deadline(0.05):` bounds every call made inside the block, in whatever client.

The deadline is one absolute time (a value of the runtime's `now()`) in a context variable, so it follows asyncio tasks,
threads started with a copied context, and the coroutines of a blocking call. Nested blocks only shrink: an inner one
that would end later than the outer one changes nothing. A call takes `effective(now, timeout)` once, at its start, and
hands the result down; nothing below it looks at the variable again.

A block that has run out does not interrupt code that is not calling the library; the next call in it fails at once.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType

from pytikv.errors import InvalidArgument, WrongType
from pytikv.rt.clock import ambient_clock

__all__ = ["current_deadline", "deadline", "effective", "forget_deadline", "remaining"]

_ambient: ContextVar[float | None] = ContextVar("pytikv_deadline", default=None)
current_deadline = _ambient.get
"""Return the ambient deadline as a value of the runtime's `now()`; None where there is none."""


class deadline:
    """Bound all calls inside the block: `with pytikv.deadline(seconds):`.

    `seconds` (a number of at least 0) counts from entering the block. Calls that do not finish in time raise
    DeadlineExceeded, or the more telling error of what they were waiting for. Raises InvalidArgument for a negative
    number or NaN, WrongType for what is no number. One object serves one block at a time; make a new one for each.
    """

    __slots__ = ("_seconds", "_token")

    def __init__(self, seconds: float) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise WrongType(f"a deadline is a number of seconds, not {type(seconds).__name__}")
        if not seconds >= 0:
            raise InvalidArgument(f"a deadline is at least 0 seconds, not {seconds}")
        self._seconds = seconds
        self._token: Token[float | None] | None = None

    def __enter__(self) -> deadline:
        if self._token is not None:
            raise InvalidArgument("this deadline is in use already: make a new one for each block")
        at = ambient_clock.get()() + self._seconds
        outer = _ambient.get()
        self._token = _ambient.set(at if outer is None or at < outer else outer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        token, self._token = self._token, None
        if token is not None:
            _ambient.reset(token)


def effective(now: float, timeout: float) -> float:
    """Return when a call begun at `now` must end: after `timeout` seconds, or at the ambient deadline if sooner."""
    at = now + timeout
    ambient = _ambient.get()
    return at if ambient is None or at < ambient else ambient


def remaining() -> float | None:
    """Return the seconds left of the ambient deadline, at least 0; None where there is none."""
    ambient = _ambient.get()
    return None if ambient is None else max(0.0, ambient - ambient_clock.get()())


def forget_deadline() -> None:
    """Drop the ambient deadline for the rest of the present task: its work outlives the call that began it."""
    _ambient.set(None)
