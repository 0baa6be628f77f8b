"""One flush for all threads that wait for one.

The first thread that comes *leads*: it takes everyone who waits by then, flushes once for all of them, wakes them, and
names the first of those who came meanwhile as the next leader. So no thread waits for more than two flushes, and at
most one flush runs.

A lock alone does not do: the thread that releases it takes it again before those it has served wake up to find their
write durable, and flushes for itself only (measured: 2 writes a flush where this class has 17; decision 0005).

States of a group: idle (no leader) -> led -> led by an heir -> ... -> idle. Invariant: while there are waiters there is
a leader, and `durable` only grows. After a failed flush every waiter, present and future, gets the failure.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["GroupCommit"]


class _Waiter:
    """A thread asleep on its own lock until it is served or is to lead."""

    __slots__ = ("lock", "must_lead")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.must_lead = False


class GroupCommit:
    """Joins concurrent waits for durability. `flush` makes durable all that was written before it was called."""

    def __init__(self, flush: Callable[[], None], written: Callable[[], int]) -> None:
        """`written()` is the ticket of the last change; it is read right before each `flush()`."""
        self._flush = flush
        self._written = written
        self._mutex = threading.Lock()
        self._waiting: list[_Waiter] = []
        self._is_led = False
        self._failure: Exception | None = None
        self.durable = 0
        self.flushes = 0

    def wait(self, ticket: int) -> None:
        """Block until the change with `ticket` is durable. Raises what the failed flush raised, then and ever after."""
        if self.durable >= ticket:
            return
        with self._mutex:
            if self._failure is not None:
                raise self._failure
            if self.durable >= ticket:
                return
            me = None
            if self._is_led:
                me = _Waiter()
                self._waiting.append(me)
            self._is_led = True
        if me is not None:
            me.lock.acquire()
            if not me.must_lead:
                if self._failure is not None:
                    raise self._failure
                return
        self._lead()

    def _lead(self) -> None:
        with self._mutex:
            served, self._waiting = self._waiting, []
        target = self._written()
        failure: Exception | None = None
        try:
            self._flush()
        except Exception as error:
            failure = error
        with self._mutex:
            self._failure = self._failure or failure
            if failure is None:
                self.durable = max(self.durable, target)
                self.flushes += 1
            heir = self._waiting.pop(0) if self._waiting and self._failure is None else None
            if heir is None:
                served += self._waiting  # only after a failure: nobody will flush for them
                self._waiting = []
                self._is_led = False
        if heir is not None:
            heir.must_lead = True
            heir.lock.release()
        for waiter in served:
            waiter.lock.release()
        if failure is not None:
            raise failure
