"""What one request costs the store, and until when it may: measured on its way, told in its answer.

The times are values of the clock that the request was given. `arrived` is when its message came, `began` when its turn
came: what lies between is waiting. Latches and the engine add what they took. Nothing is measured for who gives no
`Spent` (the embedded store).

*The client's deadline*: `max_execution_duration_ms` of the request's context, counted from its arrival; 0: none. It is
looked at when the request's turn comes and again under its latches: what is too late then is not carried out, for
nobody waits for the answer. What has begun is finished.

Sources: TiKV components/tracker/src/lib.rs, components/tikv_util/src/deadline.rs, src/storage/txn/scheduler.rs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pytikv.server.storage.errors import StorageRefusal

__all__ = ["DEADLINE_REASON", "DeadlineExceeded", "Spent"]

DEADLINE_REASON: Final = "deadline is exceeded"


class DeadlineExceeded(StorageRefusal):
    """The time that the client gave the request was over before it was carried out."""

    def __init__(self) -> None:
        super().__init__("Deadline is exceeded", "DeadlineExceeded")


class Spent:
    """The costs of one request, in seconds; belongs to the thread that carries the request out."""

    __slots__ = (
        "arrived",
        "began",
        "deadline",
        "latch_wait_s",
        "lock_wait_s",
        "now",
        "process_s",
        "scanned",
        "write_s",
    )

    def __init__(self, now: Callable[[], float], arrived: float, max_execution_ms: int = 0) -> None:
        self.now = now
        self.arrived = self.began = arrived
        self.deadline = arrived + max_execution_ms / 1000 if max_execution_ms else None
        self.latch_wait_s = self.lock_wait_s = self.process_s = self.write_s = 0.0
        self.scanned: tuple[int, int, int] | None = None
        """Of a read that counts: versions looked at, versions found, and the bytes of those with their encoded keys."""

    def begin(self) -> None:
        """The request's turn has come. Raises DeadlineExceeded."""
        self.began = now = self.now()
        if self.deadline is not None and now >= self.deadline:
            raise DeadlineExceeded

    def latched(self, since: float) -> None:
        """The latches were waited for since then. Raises DeadlineExceeded."""
        now = self.now()
        self.latch_wait_s += now - since
        if self.deadline is not None and now >= self.deadline:
            raise DeadlineExceeded

    def wrote(self, since: float) -> None:
        """The engine was written to since then."""
        self.write_s += self.now() - since

    def end(self) -> None:
        """The request is carried out; waiting for another transaction's lock is not counted as work."""
        self.process_s = self.now() - self.began - self.latch_wait_s - self.lock_wait_s
