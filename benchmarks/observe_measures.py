"""What metrics cost where they are used: a get of an embedded store, a get's way to a store, one of several processes.

`observing` measures each way of looking against a backend that does nothing. Here the parts are the real ones: the
embedded client; the lane that stands before the pool while somebody listens, over a channel that answers at once; and
prometheus_client's files, which several processes count into. And what a scrape of 1,000 series takes.

    python benchmarks/run.py --only metrics
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import harness
from report import Line

_GETS: Final = 20_000
_ROUNDS: Final = 9
_GOAL_US: Final = 3.0
_SERIES: Final = 1_000


def measure() -> list[Line]:
    """Return one line a case: microseconds more a get, and the milliseconds of a scrape."""
    from prometheus_client import CollectorRegistry

    from pytikv.observe import metrics

    registry = CollectorRegistry()
    lines = []
    for name, make in (("an embedded get", _embedded), ("a get's way to a store", _wire)):
        off, on = _off_and_on(make(), lambda: metrics.install(registry), lambda: metrics.uninstall(registry))
        lines.append(_line(f"metrics: {name}, more", off, on, _GOAL_US))
    lines.append(_several_processes())
    lines.append(_scrape())
    return lines


def _line(name: str, off: float, on: float, goal: float | None) -> Line:
    return Line(
        name, unit="us", value=round((on - off) * 1e6, 2), goal=goal, detail=f"{on * 1e6:.2f} against {off * 1e6:.2f}"
    )


def _off_and_on(
    case: Callable[[bool], float], install: Callable[[], Any], remove: Callable[[], Any]
) -> tuple[Any, Any]:
    """Return the least seconds of a get without and with metrics, measured in turn."""
    off: list[float] = []
    on: list[float] = []
    for _ in range(_ROUNDS):
        off.append(case(False))
        install()
        try:
            on.append(case(True))
        finally:
            remove()
    return min(off), min(on)


def _seconds(get: Callable[[], object]) -> float:
    began = time.thread_time()
    for _ in range(_GETS):
        get()
    return (time.thread_time() - began) / _GETS


def _embedded() -> Callable[[bool], float]:
    import pytikv

    def case(_: bool) -> float:
        with pytikv.RawClient.connect("embedded://:memory:") as client:
            client.put(b"k", b"v")
            return _seconds(lambda: client.get(b"k"))

    return case


class _Channel:
    async def batch(self, slot: int, request: bytes, deadline: float) -> bytes:
        return b""


class _Pool:
    """A pool whose channel answers at once."""

    now = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._channel = _Channel()

    async def channel(self, address: str, deadline: float) -> _Channel:
        return self._channel


class _LanePool(_Pool):
    def __init__(self) -> None:
        from pytikv.client.lanes import Lane

        super().__init__()
        self._lane: Any = Lane(_Pool(), "127.0.0.1:20160", None, ())  # type: ignore[arg-type]

    async def channel(self, address: str, deadline: float) -> Any:
        return self._lane


class _Get:
    """A raw backend that does of a get what reaches the pool."""

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool

    async def get(self, key: bytes) -> bytes:
        channel = await self._pool.channel("127.0.0.1:20160", 1e9)
        return await channel.batch(13, key, 1e9)


def _wire() -> Callable[[bool], float]:
    from pytikv.client.observed import ObservedRaw
    from pytikv.observe.telemetry import Telemetry

    plain = _Get(_Pool())
    laned: Any = _Get(_LanePool())
    observed = ObservedRaw(laned, Telemetry(time.monotonic, time.time))

    def case(is_on: bool) -> float:
        return _seconds(lambda: _drive((observed if is_on else plain).get(b"k")))

    return case


def _drive(coroutine: Any) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


_SHARED: Final = """
import sys
sys.path.insert(0, sys.argv[1])
import observe_measures as here
from pytikv.observe import metrics
print(*here._off_and_on(here._embedded(), metrics.install, metrics.uninstall))
"""


def _several_processes() -> Line:
    """Measure the embedded get once more, in a process that counts into files. There is no goal for it."""
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [sys.executable, "-c", _SHARED, str(Path(__file__).parent)],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": directory, "PYTHONPATH": str(harness.ROOT / "src")},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    if done.returncode:
        return Line("metrics: an embedded get, several processes, more", skipped=done.stderr[-300:])
    off, on = map(float, done.stdout.split())
    return _line("metrics: an embedded get, several processes, more", off, on, None)


def _scrape() -> Line:
    """Measure the exposition of many series, each with its 17 buckets."""
    from prometheus_client import CollectorRegistry, generate_latest

    from pytikv.observe import metrics
    from pytikv.observe.telemetry import CallRecord, Telemetry

    registry = CollectorRegistry()
    sink = metrics.install(registry)
    try:
        telemetry = Telemetry(time.monotonic, time.time)
        for number in range(_SERIES):
            record = CallRecord(telemetry, f"method_{number}", 0.0, None, None)
            sink.on_begin(record)
            record.ended = 0.001
            sink.on_end(record)
        began = time.thread_time()
        size = len(generate_latest(registry))
        took = time.thread_time() - began
    finally:
        metrics.uninstall(registry)
    return Line(
        f"metrics: a scrape of {_SERIES} series", unit="ms", value=round(took * 1e3, 1), detail=f"{size:,} bytes"
    )
