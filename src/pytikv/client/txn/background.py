"""Work that outlives a call: secondaries of a commit, clean-up after a failed one, locks that readers passed over.

One `Background` per connect, shared by all views of a client (`Background.of`). At most `background_worker_size` pieces
run at once; up to `QUEUE_MAX` more wait in line. Where the line is full, `submit` does the piece in the caller's own
time, so that a client that writes faster than its background works is slowed down and nothing is lost.

A blocking client's work is done by another thread, and waking that costs more than a piece itself, as does one request
for each piece. So pieces are gathered for `GATHER_S` and begun together; the thread wakes by its own clock as long as
more come. That is as much longer as the locks of a transaction stay behind its commit. On asyncio nothing is gathered.

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
from typing import Any, Final

from pytikv.ambient import forget_ambient, on_behalf
from pytikv.client.txn.backend import TxnBackend, one_for_all
from pytikv.errors import TikvError
from pytikv.observe.telemetry import behind, forget_record
from pytikv.rt.interface import Runtime
from pytikv.rt.locks import mutex
from pytikv.rt.shared import SharedFuture

__all__ = ["QUEUE_MAX", "Background"]

QUEUE_MAX: Final = 4096
GATHER_S: Final = 0.0005
_NAME: Final = "background"
_PHASES: Final = {"commit of secondaries": "secondaries", "rollback": "rollback"}

logger: Final = logging.getLogger("pytikv")

Work = Callable[[], Coroutine[Any, Any, object]]
Piece = tuple[Work, str]


class Background:
    """The bounded set of workers of one client; see the module's docstring."""

    def __init__(self, rt: Runtime, workers: int) -> None:
        self._rt = rt
        self._workers = workers
        self._lock = mutex()
        self._running = 0
        self._queue: deque[Piece] = deque()
        self._gather_s = GATHER_S if rt is not None and rt.exclusive_connections else 0.0
        self._is_gathering = False
        self._idle: SharedFuture[None] | None = None

    @classmethod
    def of(cls, backend: TxnBackend) -> Background:
        """Return the one of this connect, made when it is first asked for."""
        return one_for_all(backend, _NAME, lambda _: cls(backend.rt, backend.config.background_worker_size))

    async def submit(self, work: Work, name: str) -> None:
        """Run `work()` in the background; here and now where the line is full. `name` is for the log.

        Raises ClientClosed when the client has been closed.
        """
        piece = (behind(self._rt.now, _PHASES.get(name, "cleanup"), on_behalf(work)), name)
        with self._lock:
            is_full = self._running + len(self._queue) >= self._workers + QUEUE_MAX
            begins = False
            if not is_full:
                self._queue.append(piece)
                begins = not self._is_gathering and self._running < self._workers
                self._is_gathering |= begins
        if is_full:
            await _attempt(piece)
        elif begins:
            try:
                self._rt.spawn(self._serve(), name="background")
            except BaseException:
                with self._lock:
                    self._is_gathering = False
                    self._queue.remove(piece)
                raise

    async def _serve(self) -> None:
        """Gather pieces for a moment and do them all at once, again and again until none come."""
        forget_ambient()
        forget_record()
        taken: list[Piece] = []
        try:
            while True:
                if self._gather_s:
                    await self._rt.sleep(self._gather_s)
                taken = self._take()
                if len(taken) > 1:
                    await self._rt.gather(*map(self._work_off, taken))
                elif taken:
                    await self._work_off(taken[0])
                with self._lock:
                    if not taken or self._is_gathering:
                        return
                    self._is_gathering = True
        except BaseException:  # cancelled: the client is going
            with self._lock:
                self._is_gathering = False
            raise

    def _take(self) -> list[Piece]:
        """Take as many pieces as may be begun."""
        with self._lock:
            self._is_gathering = False
            taken = [self._queue.popleft() for _ in range(min(len(self._queue), self._workers - self._running))]
            self._running += len(taken)
        return taken

    async def _work_off(self, piece: Piece) -> None:
        """Do a piece, and then what waits because all workers were busy."""
        following: Piece | None = piece
        try:
            while following is not None:
                await _attempt(following)
                following = self._next()
        except BaseException:  # cancelled: the client is going
            self._leave()
            raise

    def _next(self) -> Piece | None:
        """Take the next piece unless others gather them; else end the worker."""
        with self._lock:
            if self._queue and not self._is_gathering:
                return self._queue.popleft()
        self._leave()
        return None

    def _leave(self) -> None:
        """Count a worker out."""
        with self._lock:
            self._running -= 1
            if self._running or self._queue:
                return
            idle, self._idle = self._idle, None
        if idle is not None:
            idle.set_result(None)

    async def drain(self, deadline: float) -> bool:
        """Wait until nothing runs or waits, at most until `deadline` (a value of `rt.now()`); True when that is so."""
        with self._lock:
            if not self._running and not self._queue:
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


async def _attempt(piece: Piece) -> None:
    work, name = piece
    try:
        await work()
    except TikvError as error:
        logger.info("background work %s was left to others: %s", name, error)
    except Exception:
        logger.exception("background work %s failed", name)
