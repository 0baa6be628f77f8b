"""The clock behind deadlines that are set outside of any runtime, as `with pytikv.deadline(0.05):` is.

A deadline is a value of the runtime's `now()`. Whoever sets an ambient one has no runtime at hand, so the clock rides
in a context variable: monotonic seconds unless a simulation puts its own there. The runtimes on real time count on the
same clock, so that the values compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

__all__ = ["ambient_clock"]

ambient_clock: Final[ContextVar[Callable[[], float]]] = ContextVar("pytikv_clock", default=time.monotonic)
"""The present context's `now()`. Set by simulations in the context that their tasks run in; never elsewhere."""
