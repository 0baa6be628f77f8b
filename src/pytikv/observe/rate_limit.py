"""So many a second, and a count of what was more: for lines that a fault may write by the thousand."""

from __future__ import annotations

import threading

__all__ = ["RateLimit"]


class RateLimit:
    """Lets `per_second` pass in each second that begins with one that passes. Any thread may ask."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._lock = threading.Lock()
        self._began = float("-inf")
        self._passed = 0
        self._suppressed = 0

    def take(self, now: float) -> int | None:
        """Return how many were held back since the last one that passed, for one that passes; None: held back.

        `now`: monotonic seconds. A clock that goes back begins a new second.
        """
        with self._lock:
            if not 0 <= now - self._began < 1.0:
                self._began, self._passed = now, 0
            if self._passed >= self._per_second:
                self._suppressed += 1
                return None
            self._passed += 1
            suppressed, self._suppressed = self._suppressed, 0
            return suppressed
