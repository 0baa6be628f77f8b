"""What a test left behind: threads, sockets, tasks of asyncio.

The guard notes what there is when it is made and looks again at the end. Threads and sockets that are on their way out
get a moment to go. A socket that only the garbage collector closed counts as left behind. Tasks are seen through the
complaints of asyncio ("Task was destroyed but it is pending", "Task exception was never retrieved"), which go to its
logger. Sockets are counted through /proc, so on Linux only.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time

__all__ = ["LeakGuard"]

_PATIENCE_SECONDS = 2.0
_SHARED_THREADS = ("pytikv-housekeeper", "asyncio_", "ThreadPoolExecutor", "pytest_timeout")
"""Beginnings of names of threads that belong to the process, or to an executor that a loop of its own joins."""


class LeakGuard:
    """Made before a test; `finish` after it returns what was left behind, a line each."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._sockets = _open_sockets()
        self.complaints = _Complaints()
        logging.getLogger("asyncio").addHandler(self.complaints)

    def finish(self) -> list[str]:
        """Look again; waits up to two seconds for threads to end."""
        leaks = [f"thread {thread.name!r}" for thread in self._wait_for_threads()]
        left = self._wait_for_sockets()
        if left:
            gc.collect()  # also brings up the complaints about tasks that nobody holds any more
            still = _open_sockets() - self._sockets
            leaks += [f"{len(left)} open sockets" + ("" if still else " (closed by the garbage collector)")]
        logging.getLogger("asyncio").removeHandler(self.complaints)
        return leaks + self.complaints.texts

    def _wait_for_threads(self) -> list[threading.Thread]:
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            left = [
                t for t in threading.enumerate() if t not in self._threads and not t.name.startswith(_SHARED_THREADS)
            ]
            if not left or time.monotonic() > end:
                return left
            left[0].join(0.01)

    def _wait_for_sockets(self) -> set[str]:
        end = time.monotonic() + _PATIENCE_SECONDS / 4
        while True:
            left = _open_sockets() - self._sockets
            if not left or time.monotonic() > end:
                return left
            time.sleep(0.005)


class _Complaints(logging.Handler):
    """Collects what asyncio's logger reports as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append("asyncio says: " + record.getMessage().splitlines()[0])


def _open_sockets() -> set[str]:
    """Return the inodes of this process's sockets, empty where the system does not tell."""
    found = set()
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return set()
    for name in names:
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found
