"""What several threads and loops wait for together: one value, one flight, one batch.

`SharedFuture` holds one value; any number of waiters on any loop wait for it with `Runtime.wait`. It knows nothing of
loops: a waiter leaves a *waker*, a function safe to call from any thread, and the runtime's own knows how to reach it.

`SingleFlight` and `Combiner` elect a *leader* among the callers, who does the work in its own call, for there may be
no thread besides. What both must survive is the loss of the leader (its deadline, a cancellation, Ctrl-C):

* `SingleFlight`: the flight is marked abandoned, all followers wake, one becomes leader with its own factory.
* `Combiner`: what the leader had taken goes back to the head of the queue and the oldest waiter is made leader.

A leader that is *done* hands over too: no caller works longer for others than until its own item is served. A value
that is there wins over a deadline. Locks are held for a few instructions and never while foreign code runs.

Bounds: a combiner's batch (`max_batch`); its queue is as long as there are callers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Final, Generic, TypeVar, cast

from pytikv.rt.interface import Runtime

__all__ = ["Combiner", "SharedFuture", "SingleFlight"]

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")

_PENDING: Final = 0
_RESULT: Final = 1
_ERROR: Final = 2


class SharedFuture(Generic[T]):
    """One value or error, set once, by any thread; waited for by any number of loops through `Runtime.wait`."""

    __slots__ = ("_lock", "_state", "_value", "_wakers")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = _PENDING
        self._value: Any = None
        self._wakers: list[Callable[[], None]] = []

    def done(self) -> bool:
        """Tell whether a value or an error is there."""
        return self._state != _PENDING

    def result(self) -> T:
        """Return the value or raise the error; RuntimeError when neither is there yet."""
        if self._state == _RESULT:
            return cast("T", self._value)
        if self._state == _ERROR:
            raise self._value
        raise RuntimeError("the shared future is not done")

    def set_result(self, result: T) -> bool:
        """Set the value and wake all waiters. False, and no effect, when something was set before."""
        return self._set(_RESULT, result)

    def set_exception(self, error: BaseException) -> bool:
        """Set an error, which every waiter raises. False, and no effect, when something was set before."""
        return self._set(_ERROR, error)

    def add_waker(self, waker: Callable[[], None]) -> bool:
        """Call `waker` once when done, from the thread that sets; False, and no call, when it is done already."""
        with self._lock:
            if self._state:
                return False
            self._wakers.append(waker)
            return True

    def remove_waker(self, waker: Callable[[], None]) -> None:
        """Forget `waker`; it may be called all the same when the value is being set right now."""
        with self._lock:
            if waker in self._wakers:
                self._wakers.remove(waker)

    def _set(self, state: int, value: Any) -> bool:
        with self._lock:
            if self._state:
                return False
            self._value = value
            self._state = state  # after the value: readers look at the state without the lock
            wakers, self._wakers = self._wakers, []
        for waker in wakers:
            waker()
        return True


class _Abandoned:
    """What followers find when their leader was lost."""


_ABANDONED: Final = _Abandoned()


class SingleFlight:
    """At most one load a key at a time; whoever comes while it runs gets its answer."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._lock = threading.Lock()
        self._flights: dict[Hashable, SharedFuture[Any]] = {}

    async def run(self, key: Hashable, factory: Callable[[], Coroutine[Any, Any, T]], deadline: float) -> T:
        """Return what `factory` makes of `key`, or what a flight already under way does.

        The leader's own deadline, cancellation or Ctrl-C makes a follower run its own factory; any other error of the
        flight is everybody's. Raises TimeoutError at `deadline` (a value of `rt.now()`).
        """
        while True:
            with self._lock:
                flight = self._flights.get(key)
                leads = flight is None
                if flight is None:
                    flight = self._flights[key] = SharedFuture()
            if leads:
                return await self._lead(key, flight, factory, deadline)
            value = await self._rt.wait(flight, deadline)
            if value is not _ABANDONED:
                return cast("T", value)

    async def _lead(
        self, key: Hashable, flight: SharedFuture[Any], factory: Callable[[], Coroutine[Any, Any, T]], deadline: float
    ) -> T:
        outcome: Any = _ABANDONED
        failure: Exception | None = None
        try:
            outcome = await self._rt.with_deadline(factory(), deadline)
            return cast("T", outcome)
        except TimeoutError as error:
            # Ours alone when our time is over; a connection that timed out earlier is everybody's failure.
            failure = None if self._rt.now() >= deadline else error
            raise
        except Exception as error:
            failure = error
            raise
        finally:
            with self._lock:
                del self._flights[key]
            if failure is not None:
                flight.set_exception(failure)
            else:
                flight.set_result(outcome)


class _Lead:
    """What a waiter finds when it is to lead."""


_LEAD: Final = _Lead()


class _Entry(Generic[Item, Result]):
    """One submitted item. `turn` is done when its result is there or its owner is to lead; who leads at once has none.

    `taken`: in a leader's batch; `leads`: named leader; `gone`: nobody waits for it. All three under the lock.
    """

    __slots__ = ("gone", "item", "leads", "taken", "turn")

    turn: SharedFuture[Result | _Lead]

    def __init__(self, item: Item) -> None:
        self.item = item
        self.taken = False
        self.leads = False
        self.gone = False


class Combiner(Generic[Item, Result]):
    """Joins what callers submit at the same time into one `flush`, run by one of them."""

    def __init__(
        self,
        rt: Runtime,
        flush: Callable[[list[Item]], Awaitable[list[Result]] | Coroutine[Any, Any, list[Result]]],
        *,
        max_batch: int = 1024,
        keeps_time: bool = False,
    ) -> None:
        """Make a combiner.

        Args:
            rt: the runtime of the callers.
            flush: does the work for all items given, answers in order. It is cut off at the leader's deadline and
                then repeated by another for the same items: it must bear that. Its other errors go to all of the batch.
            max_batch: how many items one flush takes at most.
            keeps_time: `flush` ends by itself before the deadline of its first item, the leader's: no timer is set.
        """
        self._rt = rt
        self._flush = flush
        self._max_batch = max_batch
        self._keeps_time = keeps_time
        self._lock = threading.Lock()
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._led = False

    async def submit(self, item: Item, deadline: float) -> Result:
        """Return the result for `item`. Raises what `flush` raised, or TimeoutError at `deadline`."""
        entry: _Entry[Item, Result] = _Entry(item)
        turn: SharedFuture[Result | _Lead] | None = None
        with self._lock:
            if self._led:
                self._waiting.append(entry)
                entry.turn = turn = SharedFuture()
            else:  # nobody waits: there is nothing else to take
                self._led = entry.taken = True
        if turn is None:
            return await self._lead(entry, [entry], deadline)
        try:
            value = await self._rt.wait(turn, deadline)
        except BaseException:
            self._withdraw(entry)
            raise
        if value is not _LEAD:
            return cast("Result", value)
        return await self._lead(entry, [], deadline)

    def _withdraw(self, entry: _Entry[Item, Result]) -> None:
        """Leave the queue; when the lead had just come to us, pass it on."""
        with self._lock:
            entry.gone = True
            if not entry.taken:
                self._waiting.remove(entry)
            leads = entry.leads
        if leads:
            self._pass_on()

    async def _lead(self, own: _Entry[Item, Result], batch: list[_Entry[Item, Result]], deadline: float) -> Result:
        """Flush, for `batch` or what waits by now."""
        try:
            batch = batch or self._take(own)
            items = [entry.item for entry in batch]
            if self._keeps_time:
                results = await self._flush(items)
            else:
                results = await self._rt.with_deadline(self._run_flush(items), deadline)
            if len(results) != len(batch):
                raise RuntimeError(f"flush answered {len(results)} of {len(batch)} items")
        except Exception as error:
            if isinstance(error, TimeoutError) and self._rt.now() >= deadline:
                self._give_back(own, batch)
            else:
                for entry in batch:
                    if entry is not own:
                        entry.turn.set_exception(error)
            self._pass_on()
            raise
        except BaseException:
            self._give_back(own, batch)
            self._pass_on()
            raise
        answer: Any = None
        for entry, result in zip(batch, results, strict=True):
            if entry is own:
                answer = result
            else:
                entry.turn.set_result(result)
        self._pass_on()
        mine: Result = answer
        return mine

    async def _run_flush(self, items: list[Item]) -> list[Result]:
        return await self._flush(items)

    def _take(self, own: _Entry[Item, Result]) -> list[_Entry[Item, Result]]:
        """Take the leader's own item first, then the oldest of the others."""
        with self._lock:
            self._waiting.remove(own)
            batch = [own]
            while self._waiting and len(batch) < self._max_batch:
                batch.append(self._waiting.popleft())
            for entry in batch:
                entry.taken = True
            return batch

    def _give_back(self, own: _Entry[Item, Result], batch: list[_Entry[Item, Result]]) -> None:
        with self._lock:
            if not batch:
                if own in self._waiting:
                    self._waiting.remove(own)
                return
            for entry in reversed(batch):
                entry.taken = False
                if entry is not own and not entry.gone:
                    self._waiting.appendleft(entry)

    def _pass_on(self) -> None:
        """Make the oldest waiter leader, or nobody."""
        with self._lock:
            if not self._waiting:
                self._led = False
                return
            heir = self._waiting[0]
            heir.leads = True
        heir.turn.set_result(_LEAD)
