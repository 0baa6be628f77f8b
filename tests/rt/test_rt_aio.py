"""What only asyncio's loop can do to the runtime on it."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from pytikv.rt.aio import AioRuntime


def test_a_failure_in_the_turn_of_a_cancellation_is_seen() -> None:
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, about: complaints.append(about))
        rt = AioRuntime()
        gate, waits = loop.create_future(), asyncio.Event()

        async def fails() -> None:
            waits.set()
            await gate
            raise KeyError("late")

        gathering = loop.create_task(rt.gather(fails()))
        await waits.wait()
        gate.set_result(None)
        gathering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathering
        await rt.close()

    asyncio.run(main())
    gc.collect()
    assert complaints == []
