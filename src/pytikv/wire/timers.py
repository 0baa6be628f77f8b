"""One lazily armed timer for everything that a connection has to do later.

A timer a call would cost as much as the call itself. So the owner keeps its deadlines where they are, and this object
holds one timer at the earliest time asked for. When it fires, the owner looks at what it has and names the next time.
A deadline that passed out of use costs nothing but at most one such look.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from pytikv.rt.interface import Runtime, Timer

__all__ = ["LazyTimer"]


class LazyTimer:
    """Calls `fire(now)` at the earliest time wanted; what it returns is wanted next (None: nothing, no timer)."""

    __slots__ = ("_fire", "_rt", "_timer", "when")

    def __init__(self, rt: Runtime, fire: Callable[[float], float | None]) -> None:
        self._rt = rt
        self._fire = fire
        self._timer: Timer | None = None
        self.when = math.inf

    def want(self, when: float) -> None:
        """Fire at `when` or before."""
        if when < self.when:
            if self._timer is not None:
                self._timer.cancel()
            self.when = when
            self._timer = self._rt.call_at(when, self._run)

    def cancel(self) -> None:
        """Forget what was wanted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.when = math.inf

    def _run(self) -> None:
        self._timer = None
        self.when = math.inf
        following = self._fire(self._rt.now())
        if following is not None:
            self.want(following)
