"""Lock requests that wait, on a loop: their time, and the delayed wake-ups of those that wait behind them.

A wait ends by being told from any thread, or at its time. Wake-ups that the storage wants later (`call_later`, called
from any thread) are made by one task, which runs exactly while somebody waits: a delay concerns waiters only, so when
nobody waits any more, what is left of it is dropped.

Belongs to its loop; `call_later` may be called from anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pytikv.rt.interface import Runtime
from pytikv.rt.shared import SharedFuture
from pytikv.server.storage.txn_storage import Done, TxnStorage, Waiting

__all__ = ["LockWaits", "answer_of"]

_RESUMING_S: Final = 10.0
"""Most time that a request which is resumed when its time is over may take on another thread."""


async def answer_of(rt: Runtime, waiting: Waiting, deadline: float) -> Done:
    """Wait until a lock request has its answer; at `deadline` it is made to give one.

    One that is being resumed just then takes a moment longer. A caller that is cancelled gives the request up.
    """
    answer: SharedFuture[Done] = SharedFuture()
    waiting.on_done(answer.set_result)
    try:
        try:
            return await rt.wait(answer, deadline)
        except TimeoutError:
            waiting.expire()
            return await rt.wait(answer, rt.now() + _RESUMING_S)
    except BaseException:
        waiting.cancel()
        raise


class LockWaits:
    """The waits of one store on one loop."""

    def __init__(self, rt: Runtime, txn: TxnStorage) -> None:
        self._rt = rt
        self._waiting = 0
        self._is_running = False
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._bell: SharedFuture[None] = SharedFuture()
        txn.use_timers(self.call_later)

    async def finish(self, waiting: Waiting) -> Done:
        """Wait until a request has its answer. A cancelled caller gives it up."""
        self._begin()
        try:
            return await answer_of(self._rt, waiting, self._rt.now() + waiting.deadline_s)
        finally:
            self._end()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` on the loop in so many seconds, if somebody waits for a lock then. From any thread."""
        self._later.append((self._rt.now() + seconds, callback))
        self._bell.set_result(None)

    def _begin(self) -> None:
        self._waiting += 1
        if not self._is_running:
            self._is_running = True
            self._rt.spawn(self._run(), name="lock-waits")

    def _end(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._bell.set_result(None)

    async def _run(self) -> None:
        try:
            while self._waiting:
                due = min((when for when, _ in self._later), default=None)
                try:
                    await self._rt.wait(self._bell, due)  # without a due one: rung by the last wait that ends
                except TimeoutError:
                    pass
                else:
                    self._bell = SharedFuture()
                self._call_due()
        finally:
            self._later.clear()
            self._is_running = False

    def _call_due(self) -> None:
        now = self._rt.now()
        due = [entry for entry in list(self._later) if entry[0] <= now]
        for entry in due:
            self._later.remove(entry)
            entry[1]()
