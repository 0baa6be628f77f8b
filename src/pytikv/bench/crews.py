"""The workers of a run and their client: threads with a blocking one, or tasks of one loop with an asyncio one.

Either way they run beside the calling thread. What a worker raises stops the others, and `join` raises it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

import pytikv
from pytikv.bench.stores import RawStore, Steps, Store, TxnStore, drive, drive_async

__all__ = ["Clock", "Crew", "open_crew"]

T = TypeVar("T")

_NAP_S: Final = 0.1


class Clock:
    """The time of a run from its beginning, and its end. For many threads."""

    def __init__(self) -> None:
        self.ended_s = 0.0
        """When the last worker was done."""
        self._stopped = threading.Event()
        self.stop = self._stopped.set
        self.is_stopped = self._stopped.is_set
        self.wait = self._stopped.wait
        read, began = time.perf_counter, time.perf_counter()
        self.elapsed_s: Callable[[], float] = lambda: read() - began
        """Returns the seconds since the beginning; a closure, as it is asked for often."""

    def end(self) -> None:
        """Note that a worker is done."""
        self.ended_s = max(self.ended_s, self.elapsed_s())


class Crew(Protocol):
    """The workers of one client."""

    store: Store

    def do(self, steps: Steps[T]) -> T:
        """Run steps in the foreground."""
        ...

    def sleep(self, clock: Clock, seconds: float) -> Any:
        """Return what a worker yields to wait, at most until the clock is stopped."""
        ...

    def start(self, works: Sequence[Steps[None]], clock: Clock) -> None:
        """Begin the work of all workers."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait for the end of all work, at most so long; whether it came."""
        ...

    def join(self) -> None:
        """Wait for the end of all work; raises what a worker raised."""
        ...


class ThreadCrew:
    """Threads that share a blocking client."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._threads: list[threading.Thread] = []
        self._finished = threading.Event()
        self._failures: list[BaseException] = []

    def do(self, steps: Steps[T]) -> T:
        """See `Crew`."""
        return drive(steps)

    def sleep(self, clock: Clock, seconds: float) -> Any:
        """See `Crew`."""
        return clock.wait(seconds)

    def start(self, works: Sequence[Steps[None]], clock: Clock) -> None:
        """See `Crew`."""
        unfinished = len(works)
        lock = threading.Lock()

        def run(work: Steps[None]) -> None:
            nonlocal unfinished
            try:
                drive(work)
            except BaseException as error:
                self._failures.append(error)
                clock.stop()
            finally:
                with lock:
                    unfinished -= 1
                    if not unfinished:
                        self._finished.set()

        for work in works:
            thread = threading.Thread(target=run, args=(work,), name="bench worker")
            thread.start()
            self._threads.append(thread)

    def wait(self, seconds: float) -> bool:
        """See `Crew`."""
        return self._finished.wait(seconds)

    def join(self) -> None:
        """See `Crew`."""
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]


class LoopCrew:
    """Tasks of one loop that share an asyncio client; the loop has a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, store: Store) -> None:
        self.store = store
        self._loop = loop
        self._finished = threading.Event()
        self._work: Any = None

    def do(self, steps: Steps[T]) -> T:
        """See `Crew`."""
        return _in_loop(self._loop, drive_async(steps))

    async def sleep(self, clock: Clock, seconds: float) -> None:
        """See `Crew`."""
        until_s = clock.elapsed_s() + seconds
        for _ in range(int(seconds / _NAP_S)):  # what ends the clock is in another thread
            if clock.is_stopped():
                return
            await asyncio.sleep(_NAP_S)
        await asyncio.sleep(max(0.0, until_s - clock.elapsed_s()))

    def start(self, works: Sequence[Steps[None]], clock: Clock) -> None:
        """See `Crew`."""

        async def run_all() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    for work in works:
                        group.create_task(drive_async(work))
            finally:
                self._finished.set()

        self._work = asyncio.run_coroutine_threadsafe(run_all(), self._loop)

    def wait(self, seconds: float) -> bool:
        """See `Crew`."""
        return self._finished.wait(seconds)

    def join(self) -> None:
        """See `Crew`."""
        try:
            if self._work is not None:
                self._work.result()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None


def _in_loop(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        raise


@contextlib.contextmanager
def open_crew(url: str, api: str, *, use_asyncio: bool, pessimistic: bool) -> Iterator[Crew]:
    """Connect, for the length of the block. Raises what `connect` raises."""
    if not use_asyncio:
        blocking: Any = pytikv.RawClient if api == "raw" else pytikv.TransactionClient
        with blocking.connect(url) as client:
            yield ThreadCrew(_store(api, client, list, pessimistic))
        return
    asynchronous: Any = pytikv.AsyncRawClient if api == "raw" else pytikv.AsyncTransactionClient
    with _loop() as loop:
        client = _in_loop(loop, asynchronous.connect(url))
        try:
            yield LoopCrew(loop, _store(api, client, _listed, pessimistic))
        finally:
            _in_loop(loop, client.close())


def _store(api: str, client: Any, collect: Any, pessimistic: bool) -> Store:
    return RawStore(client, collect) if api == "raw" else TxnStore(client, collect, pessimistic=pessimistic)


async def _listed(pairs: Any) -> list[Any]:
    return [pair async for pair in pairs]


@contextlib.contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="bench loop")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
