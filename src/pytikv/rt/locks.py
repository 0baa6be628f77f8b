"""Mutual exclusion between threads, for memory that blocking work shares with a loop.

Held for short, bounded stretches only; what waits for the network or another task never holds one.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager

__all__ = ["mutex"]


def mutex() -> AbstractContextManager[object]:
    """Return a new lock for `with`; the thread that holds it may enter again."""
    return threading.RLock()
