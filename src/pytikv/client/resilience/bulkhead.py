"""A bounded number of places for requests to one address, and a bounded queue before them.

Who finds a place free takes it without a lock. Who does not waits its turn, first in first out, until its deadline or
`max_queue_s`, and is refused then; where the queue is full, at once. A place that is given up goes to the oldest
waiter. A waiter that goes away (timed out, cancelled) leaves the queue; if a place had just come to it, that goes on to
the next one.

The number of places may change (`resize`): new ones go to the waiters first; ones too many are taken away as they are
given up.

Works across threads and loops: waiters hang on `rt.shared.SharedFuture`. The free places are the items of a list,
whose `append` and `pop` are atomic. That nobody waits while a place is free is kept so: who begins to wait looks once
more after joining the queue, who gives a place up looks at the queue once more after putting it down.
"""

from __future__ import annotations

from collections import OrderedDict

from pytikv.rt.interface import Runtime
from pytikv.rt.locks import mutex
from pytikv.rt.shared import SharedFuture

__all__ = ["Bulkhead", "QueueFull", "QueueTimeout"]


class QueueFull(Exception):
    """As many as may are waiting already. Internal."""


class QueueTimeout(Exception):
    """No place became free in time. Internal."""


class Bulkhead:
    """The places of one address."""

    __slots__ = ("_debt", "_lock", "_max_queue", "_max_queue_s", "_rt", "_waiters", "free", "limit", "take")

    def __init__(self, rt: Runtime, limit: int, *, max_queue: int, max_queue_s: float) -> None:
        self.limit = limit
        """How many places there are."""
        self._rt = rt
        self._max_queue = max_queue
        self._max_queue_s = max_queue_s
        self.free = [None] * limit
        """One item for each free place."""
        self.take = self.free.pop
        """Takes a place; IndexError where none is free. `try_enter` without its cost."""
        self._debt = 0  # places that are taken away when they are given up
        self._waiters: OrderedDict[SharedFuture[Exception | None], None] = OrderedDict()
        self._lock = mutex()

    @property
    def in_flight(self) -> int:
        """How many places are taken."""
        return self.limit + self._debt - len(self.free)

    @property
    def queued(self) -> int:
        """How many wait for one."""
        return len(self._waiters)

    def try_enter(self) -> bool:
        """Take a place if one is free."""
        try:
            self.take()
        except IndexError:
            return False
        return True

    async def enter(self, deadline: float, *, is_patient: bool = False) -> None:
        """Take a place, waiting for it. Raises QueueFull, QueueTimeout, or what `refuse_waiters` was given.

        `is_patient`: neither the length of the queue nor `max_queue_s` ends the wait.
        """
        turn: SharedFuture[Exception | None] = SharedFuture()
        with self._lock:
            if len(self._waiters) >= self._max_queue and not is_patient:
                raise QueueFull
            self._waiters[turn] = None
            if self.try_enter():
                del self._waiters[turn]
                return
        until = deadline if is_patient else min(deadline, self._rt.now() + self._max_queue_s)
        try:
            refusal = await self._rt.wait(turn, until)
        except BaseException as error:
            self._withdraw(turn)
            if isinstance(error, TimeoutError):
                raise QueueTimeout from None
            raise
        if refusal is not None:
            raise refusal

    def _withdraw(self, turn: SharedFuture[Exception | None]) -> None:
        with self._lock:
            if self._waiters.pop(turn, self) is not self:
                return
        if turn.result() is None:  # its turn had come: that goes on
            self.leave()

    def leave(self) -> None:
        """Give a place up."""
        if self._waiters or self._debt:
            self._hand_over()
            return
        self.free.append(None)
        if self._waiters and self.try_enter():  # somebody began to wait at this very moment
            self._hand_over()

    def _hand_over(self) -> None:
        """Give a place that was given up to who waits longest."""
        with self._lock:
            if self._debt:
                self._debt -= 1
                return
            if not self._waiters:
                self.free.append(None)
                return
            turn, _ = self._waiters.popitem(last=False)
        turn.set_result(None)

    def refuse_waiters(self, error: Exception) -> None:
        """Have all who wait raise `error`."""
        with self._lock:
            waiters = list(self._waiters)
            self._waiters.clear()
        for turn in waiters:
            turn.set_result(error)

    def resize(self, limit: int) -> None:
        """Have `limit` places from now on."""
        with self._lock:
            more = limit - self.limit
            self.limit = limit
            spared = max(0, min(more, self._debt))
            self._debt -= spared
            more -= spared
            while more < 0 and self.try_enter():
                more += 1
            self._debt += max(0, -more)
        for _ in range(more):
            self.leave()
