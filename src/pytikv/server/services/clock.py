"""The clock of a store's service, and when the message that is being carried out came.

`arrived` is set by whoever takes a message off the wire, right before its commands run in the same turn: so it is right
for each of them, and costs nothing for each. What runs later keeps the value that it found (`storage.spent`).
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["ServiceClock"]


class ServiceClock:
    """`now()` in seconds, monotonic; belongs to the loop."""

    __slots__ = ("arrived", "now")

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.arrived = 0.0

    def arrive(self) -> float:
        """A message has come; return the time."""
        self.arrived = now = self.now()
        return now
