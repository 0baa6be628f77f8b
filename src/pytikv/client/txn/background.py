"""Work that outlives a call: secondaries of a commit, clean-up after a failed one, locks that readers passed over.

One `Background` per connect, shared by all views of a client (`Background.of`). At most `background_worker_size` pieces
run at once; up to `QUEUE_MAX` more wait in line. Where the line is full, `submit` does the piece in the caller's own
time, so that a client that writes faster than its background works is slowed down and nothing is lost.

A piece is given as a function that makes its coroutine. It runs without the deadline of the call that submitted it, and
must bound itself. What it raises is logged and has no other effect: everything done here is something that others
finish by themselves if it is left undone (locks are resolved by whoever meets them).

`drain` waits for all of it, as the closing client does; what is not done by then is given up. What has no end of its
own (heartbeats) does not belong here: it would hold a worker for as long as its transaction lives.

Safe for threads: the blocking client submits from any of them, and the work runs on the housekeeper's.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

from pytikv.client.deadline import forget_deadline
from pytikv.client.txn.backend import TxnBackend
from pytikv.errors import TikvError
from pytikv.rt.interface import Runtime
from pytikv.rt.locks import mutex
from pytikv.rt.shared import SharedFuture

__all__ = ["QUEUE_MAX", "Background"]

QUEUE_MAX: Final = 4096
_NAME: Final = "background"

logger: Final = logging.getLogger("pytikv")

Work = Callable[[], Coroutine[Any, Any, object]]


class Background:
    """The bounded set of workers of one client; see the module's docstring."""

    def __init__(self, rt: Runtime, workers: int) -> None:
        self._rt = rt
        self._workers = workers
        self._lock = mutex()
        self._running = 0
        self._queue: deque[tuple[Work, str]] = deque()
        self._idle: SharedFuture[None] | None = None

    @classmethod
    def of(cls, backend: TxnBackend) -> Background:
        """Return the one of this connect, made when it is first asked for."""
        found = backend.shared.get(_NAME)
        if found is None:  # setdefault is one step: two threads get the same one
            found = backend.shared.setdefault(_NAME, cls(backend.rt, backend.config.background_worker_size))
        return cast("Background", found)

    async def submit(self, work: Work, name: str) -> None:
        """Run `work()` in the background; here and now where the line is full. `name` is for the log.

        Raises ClientClosed when the client has been closed.
        """
        with self._lock:
            is_full = self._running >= self._workers and len(self._queue) >= QUEUE_MAX
            begins = self._running < self._workers
            if begins:
                self._running += 1
            elif not is_full:
                self._queue.append((work, name))
        if begins:
            try:
                self._rt.spawn(self._run(work, name), name=name)
            except BaseException:
                self._ended()
                raise
        elif is_full:
            await _attempt(work, name)

    async def _run(self, work: Work, name: str) -> None:
        """One worker: its first piece, then what waits in line."""
        forget_deadline()
        following: tuple[Work, str] | None = (work, name)
        try:
            while following is not None:
                await _attempt(*following)
                following = self._next()
        except BaseException:  # cancelled: the client is going
            self._ended()
            raise

    def _next(self) -> tuple[Work, str] | None:
        """Take the next piece, or end the worker: one step, lest a piece be queued behind a worker that has left."""
        with self._lock:
            if self._queue:
                return self._queue.popleft()
            idle = self._leave()
        if idle is not None:
            idle.set_result(None)
        return None

    def _ended(self) -> None:
        with self._lock:
            idle = self._leave()
        if idle is not None:
            idle.set_result(None)

    def _leave(self) -> SharedFuture[None] | None:
        """Count a worker out, under the lock; returns what is to be told that the last one has left."""
        self._running -= 1
        if self._running:
            return None
        idle, self._idle = self._idle, None
        return idle

    async def drain(self, deadline: float) -> bool:
        """Wait until nothing runs or waits, at most until `deadline` (a value of `rt.now()`); True when that is so."""
        with self._lock:
            if not self._running:
                return True
            if self._idle is None:
                self._idle = SharedFuture()
            idle = self._idle
        try:
            await self._rt.wait(idle, deadline)
        except TimeoutError:
            with self._lock:
                left = self._running + len(self._queue)
            logger.warning(
                "%d pieces of background work were given up: the locks they left are resolved by readers", left
            )
            return False
        return True


async def _attempt(work: Work, name: str) -> None:
    try:
        await work()
    except TikvError as error:
        logger.info("background work %s was left to others: %s", name, error)
    except Exception:
        logger.exception("background work %s failed", name)
