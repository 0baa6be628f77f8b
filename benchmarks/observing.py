"""What it costs a call to be looked at: metrics, traces, logs and profiles, each switched on alone.

The call is a raw get on a backend that answers at once and reports one RPC, as a get over the network does; what is
measured is the CPU time of the call beyond the same call with nothing on. Ways are taken in turn, the least of the
rounds counts: it is the figure with the fewest interruptions by others.

    python benchmarks/run.py --only observing
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

from report import Line

from pytikv.client.observed import ObservedRaw
from pytikv.observe import telemetry
from pytikv.observe.telemetry import Telemetry, current_record

_CALLS: Final = 20_000
_ROUNDS: Final = 15
_REQUEST: Final = b"\x0a\x02\x08\x07\x12\x01k"
_ANSWER: Final = b"\x1a\x01v"


class _Null:
    """A raw backend that answers at once."""

    async def get(self, key: bytes) -> bytes:
        record = current_record()
        if record is not None:
            began = time.monotonic()
            record.step("rpc", "RawGet", began, time.monotonic(), "ok", "127.0.0.1:20160", (_REQUEST, _ANSWER))
        return _ANSWER


@contextlib.contextmanager
def _sink(make: Callable[[], telemetry.Sink]) -> Iterator[None]:
    sink = make()
    telemetry.install(sink)
    try:
        yield
    finally:
        telemetry.remove(sink)


def _metrics() -> AbstractContextManager[Any]:
    from prometheus_client import CollectorRegistry

    from pytikv.observe import metrics

    registry = CollectorRegistry()

    @contextlib.contextmanager
    def installed() -> Iterator[None]:
        metrics.install(registry)
        try:
            yield
        finally:
            metrics.uninstall(registry)

    return installed()


def _no_op_tracer() -> AbstractContextManager[Any]:
    from pytikv.observe import tracing

    return tracing.enable()


def _recording_tracer() -> AbstractContextManager[Any]:
    from opentelemetry.sdk.trace import TracerProvider

    from pytikv.observe import tracing

    return tracing.enable(TracerProvider(shutdown_on_exit=False))


def _slow_log() -> AbstractContextManager[Any]:
    from pytikv.observe.slow_log import SlowLog

    return _sink(SlowLog)


def _profile() -> AbstractContextManager[Any]:
    from pytikv.observe.profile import profile

    return profile()


_WAYS: Final[dict[str, tuple[Callable[[], AbstractContextManager[Any]], float | None]]] = {
    "metrics": (_metrics, 3.0),
    "tracing, no-op tracer": (_no_op_tracer, 1.0),
    "tracing, spans that record": (_recording_tracer, None),
    "slow-call log": (_slow_log, None),
    "profile": (_profile, None),
}


def measure() -> list[Line]:
    """Return one line a way of looking: microseconds more a call."""
    logging.getLogger("pytikv").setLevel(logging.CRITICAL)
    least: dict[str, float] = {}
    for _ in range(_ROUNDS):
        _take(least, "off", _seconds(_Null()))
        for name, (switch_on, _) in _WAYS.items():
            observed = ObservedRaw(_Null(), Telemetry(time.monotonic, time.time, "tikv://127.0.0.1:2379"))  # type: ignore[arg-type]
            with switch_on():
                _take(least, name, _seconds(observed))
    off = least.pop("off")
    return [
        Line(
            f"observing: {name}, more a call",
            unit="us",
            value=round((seconds - off) * 1e6, 2),
            goal=_WAYS[name][1],
            detail=f"{seconds * 1e6:.2f} against {off * 1e6:.2f}",
        )
        for name, seconds in least.items()
    ]


def _take(least: dict[str, float], name: str, seconds: float) -> None:
    least[name] = min(seconds, least.get(name, seconds))


def _seconds(backend: Any) -> float:
    """Return the CPU seconds of one get."""
    calls = _CALLS if isinstance(backend, _Null) else _CALLS // 4
    began = time.thread_time()
    for _ in range(calls):
        _drive(backend.get(b"k"))
    return (time.thread_time() - began) / calls


def _drive(coroutine: Coroutine[Any, Any, Any]) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")
