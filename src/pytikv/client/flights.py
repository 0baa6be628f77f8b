"""One load for all who want the same, with each caller's own time and own error.

`rt.shared.SingleFlight` shares a value. What this adds for the client: a load that failed *because its leader had less
time* is repeated by those who have more; every caller gets an error object of its own, since errors are completed on
their way up (`outcome`); and running out of time while waiting for another's load is `DeadlineExceeded`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, TypeVar

from pytikv.errors import DeadlineExceeded, TikvError
from pytikv.rt.interface import Runtime
from pytikv.rt.shared import SingleFlight

__all__ = ["Flights"]

T = TypeVar("T")

_GRACE_S: Final = 0.05  # a load keeps its deadline itself, and knows better what to say; this is the safety net


class _Failed(Exception):
    """The error of a load, and when its leader's time ended."""

    def __init__(self, error: TikvError, deadline: float) -> None:
        super().__init__(error, deadline)
        self.error = error
        self.deadline = deadline


class Flights:
    """Loads under way, by key. Safe across threads and loops."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._flights = SingleFlight(rt)

    async def run(self, key: Hashable, load: Callable[[], Coroutine[Any, Any, T]], deadline: float) -> T:
        """Return what `load` makes of `key`, or what a load already under way does. `load` must keep `deadline`."""
        while True:
            leads = False

            async def lead() -> T:
                nonlocal leads
                leads = True
                try:
                    return await load()
                except TikvError as error:
                    raise _Failed(error, deadline) from error

            try:
                return await self._flights.run(key, lead, deadline + _GRACE_S)
            except _Failed as failed:
                if leads:
                    raise failed.error from failed.error.__cause__
                had_less_time = failed.deadline < deadline and failed.error.retryable
                if not had_less_time or self._rt.now() >= deadline:
                    raise copy.copy(failed.error) from failed.error
            except TimeoutError:
                raise DeadlineExceeded("the time for the call ran out while a look-up was under way") from None
