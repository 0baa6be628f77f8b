"""What breaker and limits cost a request: the lane and its guard, over a channel that answers at once.

Measured in processor time of the thread, with and without in turn, the least of several rounds each; the lane's own
cost is part of it, as it stands there only because somebody wants to guard or to look.

    python benchmarks/run.py --only guards
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Final

from report import Line

_REQUESTS: Final = 20_000
_ROUNDS: Final = 25
_GOAL_US: Final = 1.0
_ANSWER: Final = b"\x12\x05value"


class _Channel:
    async def batch(self, slot: int, request: bytes, deadline: float) -> bytes:
        return _ANSWER


class _Pool:
    """A pool whose channel answers at once, or one whose channels are lanes before it."""

    now = staticmethod(time.monotonic)

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    async def channel(self, address: str, deadline: float) -> Any:
        return self._channel


class _Runtime:
    """As much of a runtime as a guard needs that waits for nothing."""

    rng = random.Random(1)
    now = staticmethod(time.monotonic)


def measure() -> list[Line]:
    """Return one line a set of guards: microseconds more a request."""
    import pytikv

    breaker, bulkhead, limit = pytikv.BreakerPolicy(), pytikv.BulkheadPolicy(), pytikv.LimitPolicy()
    cases: dict[str, dict[str, Any]] = {
        "breaker": {"breaker": breaker},
        "breaker and bulkhead": {"breaker": breaker, "bulkhead": bulkhead},
        "breaker, bulkhead and adaptive limit": {"breaker": breaker, "bulkhead": bulkhead, "limit": limit},
    }
    return [_line(name, guards) for name, guards in cases.items()]


def _line(name: str, guards: dict[str, Any]) -> Line:
    from pytikv.client.lanes import Lane
    from pytikv.client.resilience.guard import Guard

    plain: Any = _Pool(_Channel())
    runtime: Any = _Runtime()
    guarded = _Pool(Lane(plain, "127.0.0.1:20160", Guard(runtime, "127.0.0.1:20160", **guards), ()))
    rounds = [(_seconds(plain), _seconds(guarded)) for _ in range(_ROUNDS)]
    off, on = (min(one) for one in zip(*rounds, strict=True))
    detail = f"{on * 1e6:.2f} against {off * 1e6:.2f}"
    return Line(f"{name}: a request, more", unit="us", value=round((on - off) * 1e6, 2), goal=_GOAL_US, detail=detail)


def _seconds(pool: _Pool) -> float:
    began = time.thread_time()
    for _ in range(_REQUESTS):
        _drive(lambda: _request(pool))
    return (time.thread_time() - began) / _REQUESTS


async def _request(pool: _Pool) -> bytes:
    channel = await pool.channel("127.0.0.1:20160", 1e9)
    answer: bytes = await channel.batch(13, b"request", 1e9)
    return answer


def _drive(make: Callable[[], Any]) -> None:
    try:
        make().send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")
