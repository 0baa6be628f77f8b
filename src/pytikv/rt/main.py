"""Running a program on the asyncio runtime until it ends, or is told to by a signal.

The first SIGINT or SIGTERM asks the program to stop; a second one cancels it, for when stopping takes too long. uvloop
is used where it is installed.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from pytikv.rt.aio import AioRuntime

__all__ = ["StopRequest", "run_main"]

_log = logging.getLogger("pytikv")


class StopRequest(Protocol):
    """Set once the program is asked to stop."""

    def is_set(self) -> bool:
        """Whether it was asked."""
        ...

    async def wait(self) -> object:
        """Wait until it is asked."""


def run_main(main: Callable[[AioRuntime, StopRequest], Coroutine[Any, Any, int]]) -> int:
    """Run `main(rt, stop)` and return its exit code; 130 when a second signal cancelled it."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            return runner.run(_run(main))
        except asyncio.CancelledError:
            return 130


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def _run(main: Callable[[AioRuntime, StopRequest], Coroutine[Any, Any, int]]) -> int:
    loop, task, stop = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
    assert task is not None

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            task.cancel()
        else:
            _log.info("%s: stopping", number.name)
            stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    rt = AioRuntime(loop)
    try:
        return await main(rt, stop)
    finally:
        await rt.close()
