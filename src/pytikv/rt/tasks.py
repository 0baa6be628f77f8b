"""Futures, tasks, timers and fan-out of a loop of our own: what `rt.caller` and the simulation have in common.

A `Loop` keeps a queue of callables that are ready and a heap of timers; a subclass decides how to wait when nothing is
ready. A `LoopTask` drives one coroutine, which waits by yielding a `LoopFuture`; one task waits for at most one future,
so its deadline is one field, not an object.

Rules, all of them tested for every runtime:

* *A value wins.* Cancellation and deadlines strike only where a coroutine would have to wait: a task whose future is
  done goes on with the value, and meets a cancellation at its next wait. A task that never waits again completes.
* `cancel` before the first step means that the coroutine's body never runs.
* `gather` runs each coroutine in a copy of the context, starts them in order, and returns when all have ended: the
  first failure (in time) cancels the others and is raised once they are through.
* `with_deadline` cancels the task that it runs in and turns its own cancellation into TimeoutError; one that came from
  outside meanwhile goes on as `Cancelled`.

Everything here belongs to one loop and is touched from its thread only. Bounds: cancelled timers are swept out of the
heap when they are more than half of it.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, Generic, TypeVar

__all__ = ["Cancelled", "InvalidState", "Loop", "LoopFuture", "LoopTask", "LoopTimer", "gather", "with_deadline"]

T = TypeVar("T")

logger: Final = logging.getLogger("pytikv")

_PENDING: Final = 0
_RESULT: Final = 1
_ERROR: Final = 2

_SWEEP_FROM: Final = 64
_CLOSE_TRIES: Final = 100


class Cancelled(BaseException):
    """Raised inside a coroutine that is being cancelled; to be let through, never swallowed."""


class InvalidState(RuntimeError):
    """A future was completed twice, or read before it was done."""


class LoopFuture(Generic[T]):
    """A value to come. At most one task awaits it; `deadline` is when that task stops waiting (see `Runtime.wait`)."""

    __slots__ = ("_state", "_value", "_waiter", "deadline")

    def __init__(self) -> None:
        self._state = _PENDING
        self._value: Any = None
        self._waiter: LoopTask[Any] | None = None
        self.deadline: float | None = None

    def done(self) -> bool:
        """Tell whether a value or an error is there."""
        return self._state != _PENDING

    def cancelled(self) -> bool:
        """Tell whether the future ended in cancellation."""
        return self._state == _ERROR and isinstance(self._value, Cancelled)

    def set_result(self, result: T, /) -> None:
        """Complete with a value. Raises InvalidState when already done."""
        if self._state:
            raise InvalidState("the future is done already")
        self._state = _RESULT
        self._value = result
        if self._waiter is not None:
            self._waiter.wake()

    def set_exception(self, exception: BaseException, /) -> None:
        """Complete with an error. Raises InvalidState when already done."""
        if self._state:
            raise InvalidState("the future is done already")
        self._state = _ERROR
        self._value = exception
        if self._waiter is not None:
            self._waiter.wake()

    def result(self) -> T:
        """Return the value or raise the error. Raises InvalidState when not done."""
        if self._state == _RESULT:
            value: T = self._value
            return value
        if self._state == _ERROR:
            raise self._value
        raise InvalidState("the future is not done")

    def __await__(self) -> Generator[Any, Any, T]:
        if not self._state:
            yield self
        if self._state == _RESULT:
            value: T = self._value
            return value
        return self.result()


class LoopTimer:
    """A callback to come."""

    __slots__ = ("_loop", "callback", "due")

    def __init__(self, loop: Loop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self.due = False
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never call the callback; without effect when it was called."""
        if self.callback is not None:
            self.callback = None
            if not self.due:
                self._loop.timer_cancelled()

    def fire(self) -> None:
        """Call back now, unless cancelled between falling due and here."""
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()


class LoopTask(Generic[T]):
    """A coroutine being driven by a loop. `scope` is whatever the loop's owner ties to it; children inherit it."""

    __slots__ = (
        "_awaited",
        "_cancel_due",
        "_context",
        "_coroutine",
        "_loop",
        "_throw",
        "_timer",
        "begun",
        "cancels",
        "error",
        "expires",
        "finished",
        "name",
        "on_done",
        "run",
        "scope",
        "value",
    )

    def __init__(
        self,
        loop: Loop,
        coroutine: Coroutine[Any, Any, T] | None,
        *,
        name: str,
        context: Context | None,
        scope: Any = None,
    ) -> None:
        self._loop = loop
        self.scope = scope
        self.name = name
        self._context = context
        self.run: Callable[[], None] = _nothing
        self.reset()
        if coroutine is not None:
            self.take(coroutine)

    def take(self, coroutine: Coroutine[Any, Any, T]) -> None:
        """Drive `coroutine`; the task is new, or `reset`."""
        self._coroutine = coroutine

    def reset(self) -> None:
        """Become as new: a loop reuses its root task, since making one costs more than a short call."""
        self.run = self._step if self._context is None else partial(self._context.run, self._step)
        self._awaited: LoopFuture[Any] | None = None
        self._throw: BaseException | None = None
        self._timer: LoopTimer | None = None
        self._cancel_due = False
        self.begun = False
        self.expires: float | None = None
        self.cancels = 0
        self.finished = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.on_done: Callable[[LoopTask[T]], None] | None = None

    def done(self) -> bool:
        """Tell whether the coroutine has ended."""
        return self.finished

    def result(self) -> T:
        """Return the coroutine's value or raise its error."""
        if self.error is not None:
            raise self.error
        value: T = self.value
        return value

    def cancel(self) -> bool:
        """Raise `Cancelled` in the coroutine where it waits, or at its next wait. False when it has ended."""
        if self.finished:
            return False
        self.cancels += 1
        if self._awaited is not None:
            self._interrupt(Cancelled())
        elif not self.begun:
            self._throw = Cancelled()
        else:
            self._cancel_due = True
        return True

    def uncancel(self) -> int:
        """Take one `cancel` back (as `with_deadline` does with its own); returns how many are left."""
        self.cancels -= 1
        if not self.cancels:
            self._cancel_due = False
        return self.cancels

    def wake(self) -> None:
        """The awaited future is done: go on in the loop's next steps."""
        self._awaited = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop.ready.append(self.run)

    def expire(self) -> None:
        """The deadline of the present wait has passed: raise TimeoutError there, unless the value came first."""
        self._timer = None
        if self._awaited is not None:
            self._interrupt(TimeoutError())

    def started(self, awaited: Any) -> None:
        """Take over after the owner made the first step itself (see `rt.caller`) and got `awaited`."""
        self.begun = True
        self._suspend(awaited)

    def close(self) -> None:
        """Give up for good: the coroutine sees GeneratorExit, and nothing of it runs afterwards."""
        if not self.finished:
            if self._awaited is not None:
                self._awaited._waiter = None
            for _ in range(_CLOSE_TRIES):
                try:
                    self._coroutine.close()
                    break
                except Exception:
                    # It waits in its clean-up, which refuses GeneratorExit (the next try meets the wait after that), or
                    # failed in it, and the next try finds it ended.
                    logger.debug("%s did not end at once", self.name, exc_info=True)
            self._finish(None, Cancelled())

    def _interrupt(self, error: BaseException) -> None:
        assert self._awaited is not None
        self._awaited._waiter = None
        self._throw = error
        self.wake()

    def _step(self) -> None:
        if self.finished:
            return
        self.begun = True
        error, self._throw = self._throw, None
        self._loop.current = self
        try:
            awaited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration as stop:
            self._finish(stop.value, None)
        except (KeyboardInterrupt, SystemExit) as stop_all:
            self._finish(None, stop_all)
            raise
        except BaseException as failure:
            self._finish(None, failure)
        else:
            self._suspend(awaited)
        finally:
            self._loop.current = None

    def _suspend(self, awaited: Any) -> None:
        if type(awaited) is not LoopFuture:
            self._throw = RuntimeError(f"awaited {type(awaited).__name__}, which is nothing of this runtime")
            self._loop.ready.append(self.run)
            return
        if awaited._state:  # completed between the yield and here: only by a coroutine that yields by hand
            self._loop.ready.append(self.run)
            return
        if self._cancel_due:
            self._cancel_due = False
            self._throw = Cancelled()
            self._loop.ready.append(self.run)
            return
        awaited._waiter = self
        self._awaited = awaited
        self.expires = deadline = awaited.deadline
        if deadline is not None:
            awaited.deadline = None
            if self._loop.root is not self:
                self._timer = self._loop.call_at(deadline, self.expire)

    def _finish(self, value: T | None, error: BaseException | None) -> None:
        self.finished = True
        self.value = value
        self.error = error
        self._awaited = None
        self.run = _nothing  # else the task and its bound method are a cycle for the collector
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop.task_ended(self)
        if self.on_done is not None:
            self.on_done(self)


def _nothing() -> None:
    """What a finished task does when its turn comes."""


class Loop:
    """Ready callables and timers; subclasses know the time and how to wait.

    `root` is a task whose `expires` the subclass watches by itself, sparing it a timer a wait.
    """

    def __init__(self) -> None:
        self.ready: deque[Callable[[], None]] = deque()
        self.timers: list[tuple[float, int, LoopTimer]] = []
        self.current: LoopTask[Any] | None = None
        self.root: LoopTask[Any] | None = None
        self._sequence = 0
        self._cancelled_timers = 0

    def now(self) -> float:
        """Monotonic seconds."""
        raise NotImplementedError

    def call_at(self, when: float, callback: Callable[[], None]) -> LoopTimer:
        """Call back at `when`, in order of time, then of registration."""
        timer = LoopTimer(self, callback)
        self._sequence += 1
        heapq.heappush(self.timers, (when, self._sequence, timer))
        return timer

    def task(self, coroutine: Coroutine[Any, Any, T], *, name: str, context: Context | None = None) -> LoopTask[T]:
        """Start driving a coroutine, in a copy of the present context unless one is given."""
        parent = self.current
        task = LoopTask(
            self,
            coroutine,
            name=name,
            context=copy_context() if context is None else context,
            scope=None if parent is None else parent.scope,
        )
        self.ready.append(task.run)
        return task

    def task_ended(self, task: LoopTask[Any]) -> None:
        """Hook: a task has ended."""

    def timer_cancelled(self) -> None:
        """Count a cancelled timer, and sweep when they are the greater part of the heap."""
        self._cancelled_timers += 1
        if self._cancelled_timers > _SWEEP_FROM and self._cancelled_timers * 2 > len(self.timers):
            self.timers = [entry for entry in self.timers if entry[2].callback is not None]
            heapq.heapify(self.timers)
            self._cancelled_timers = 0

    def next_timer(self) -> float | None:
        """Return when the next timer is due; None when there is none."""
        timers = self.timers
        while timers and timers[0][2].callback is None:
            heapq.heappop(timers)
            self._cancelled_timers -= 1
        return timers[0][0] if timers else None

    def fire_timers(self, now: float) -> None:
        """Queue the callbacks of all timers that are due."""
        timers = self.timers
        while timers and timers[0][0] <= now:
            timer = heapq.heappop(timers)[2]
            if timer.callback is None:
                self._cancelled_timers -= 1
            else:
                timer.due = True
                self.ready.append(timer.fire)

    def run_ready(self) -> None:
        """Run what is ready, and what becomes so meanwhile. A callback that raises is logged, not let through."""
        ready = self.ready
        while ready:
            try:
                ready.popleft()()
            except Exception:
                logger.exception("a callback raised")


class _Fan:
    """One `gather`: counts its tasks down and keeps the first failure."""

    __slots__ = ("failure", "future", "left")

    def __init__(self, count: int) -> None:
        self.left = count
        self.failure: BaseException | None = None
        self.future: LoopFuture[None] = LoopFuture()

    def task_done(self, task: LoopTask[Any]) -> None:
        self.left -= 1
        if task.error is not None and self.failure is None:
            self.failure = task.error
        if (not self.left or self.failure is not None) and not self.future.done():
            self.future.set_result(None)


async def gather(loop: Loop, coroutines: tuple[Coroutine[Any, Any, T], ...]) -> list[T]:
    """`Runtime.gather` on a loop of ours."""
    fan = _Fan(len(coroutines))
    tasks = [loop.task(coroutine, name="gather") for coroutine in coroutines]
    for task in tasks:
        task.on_done = fan.task_done
    outer: BaseException | None = None
    stopped = False
    try:
        while fan.left:
            hit = False
            try:
                await fan.future
            except GeneratorExit:
                for task in tasks:
                    task.close()
                raise
            except BaseException as error:
                outer, hit = outer or error, True
            if fan.left:
                fan.future = LoopFuture()
                if hit or not stopped:  # each cancellation of ours is passed on; a first failure cancels once
                    stopped = True
                    for task in tasks:
                        task.cancel()
        if outer is not None:
            raise outer
        if fan.failure is not None:
            raise fan.failure
        return [task.result() for task in tasks]
    finally:
        del fan, tasks, outer  # an error holds this frame: without its way back there is no cycle


async def with_deadline(loop: Loop, coroutine: Coroutine[Any, Any, T], deadline: float) -> T:
    """`Runtime.with_deadline` on a loop of ours."""
    task = loop.current
    assert task is not None, "with_deadline runs inside a task of the same runtime"
    fired = False

    def expire() -> None:
        nonlocal fired
        fired = task.cancel()

    timer = loop.call_at(deadline, expire)
    try:
        return await coroutine
    except Cancelled:
        if fired and task.uncancel() == 0:
            fired = False
            raise TimeoutError from None
        fired = False
        raise
    finally:
        timer.cancel()
        if fired:
            task.uncancel()
