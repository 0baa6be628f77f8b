"""Running a workload: workers on threads or as tasks of one loop, a collector beside them, and keys gone at the end.

Both ways the workers run beside the calling thread, which collects their samples at every interval, tells the listener,
and is where Ctrl-C arrives: the workers then finish the operation that they are in, and the report says that the run
was cut short. The keys are deleted at the end whatever happened; a second Ctrl-C leaves them.

A worker is a generator like the operations (`bench.stores`), so it is written once: it takes a ticket, waits for the
intended time, does the operation, and appends a sample to a deque, which threads share without a lock. An error of the
store is a sample; any other ends the run and is raised.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import pytikv
from pytikv.bench.crews import Clock, Crew, open_crew
from pytikv.bench.pacing import Pace, Pacer
from pytikv.bench.report import Interval, Recorder, Report, Sample
from pytikv.bench.stores import NOT_FOUND, Codes, Missing, Steps
from pytikv.bench.workloads import Check, Worker, Workload
from pytikv.errors import ConfigError, TikvError
from pytikv.url import parse_target

__all__ = ["APIS", "Load", "new_prefix", "run"]

APIS: Final = ("raw", "txn")
_CHUNK: Final = 200
_FAIR_TURN: Final = 64
_BASE: Final = b"pytikv-bench/"

Listener = Callable[[Interval], None]
Row = tuple[str, float, float, float, bool, str | None, Codes]  # the fields of a Sample


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """How a workload is run: `workers` threads, or tasks of one loop, over an API, at a pace."""

    pace: Pace
    workers: int = 1
    use_asyncio: bool = False
    api: str = "raw"
    pessimistic: bool = False
    interval_s: float = 1.0

    def __post_init__(self) -> None:
        if self.api not in APIS:
            raise ConfigError(f"api {self.api!r} is unknown: it must be one of {', '.join(APIS)}")
        if self.workers < 1 or self.interval_s <= 0:
            raise ConfigError("a run needs at least 1 worker, and an interval above 0")

    def described(self) -> dict[str, Any]:
        """Return it as a report says it."""
        how = {"runtime": "asyncio" if self.use_asyncio else "threads", "workers": self.workers}
        return {**how, "pessimistic": self.pessimistic, "interval_s": self.interval_s, **dataclasses.asdict(self.pace)}


class Sink(Protocol):
    """What collects the samples of a run: `report.Recorder`, or something simpler."""

    def take(self, samples: list[Sample]) -> None:
        """Count samples."""

    def close_interval(self, now_s: float, at_least_s: float) -> Interval | None:
        """End a stretch of the run, unless it is shorter than `at_least_s`."""


def new_prefix() -> bytes:
    """Return a prefix for the keys of one run, unlike that of any other run at the same time."""
    return b"%s%s/" % (_BASE, os.urandom(4).hex().encode())


def run(url: str, workload: Workload, prefix: bytes, load: Load, on_interval: Listener | None = None) -> Report:
    """Load the workload's records below `prefix`, run it, and delete them. `on_interval` is told of each interval.

    Raises ConfigError, and what connecting and loading raise. Ctrl-C during the run ends it early (`interrupted`).
    """
    recorder = Recorder(workload.operations, measured_from_s=load.pace.warmup_s, has_rate=load.pace.rate is not None)
    began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    done = collect(url, workload, prefix, load, recorder, on_interval)
    return Report(
        workload=workload.name,
        api=load.api,
        target=str(parse_target(url)),
        load=load.described(),
        options=dict(workload.options),
        machine=_machine(),
        began=began,
        seconds=round(done.seconds, 3),
        operations=recorder.operations(done.seconds),
        intervals=recorder.intervals,
        missed=done.pacer.missed(recorder.measured) if not done.interrupted else 0,
        interrupted=done.interrupted,
        check=None if done.check is None else dataclasses.asdict(done.check),
    )


@dataclasses.dataclass(slots=True)
class Done:
    """How a run ended. `seconds`: of the measured part."""

    pacer: Pacer
    seconds: float = 0.0
    interrupted: bool = False
    check: Check | None = None


def collect(
    url: str, workload: Workload, prefix: bytes, load: Load, sink: Sink, on_interval: Listener | None = None
) -> Done:
    """Do as `run`, with a sink of one's own and no report."""
    done = Done(Pacer(load.pace))
    with open_crew(url, load.api, use_asyncio=load.use_asyncio, pessimistic=load.pessimistic) as crew:
        try:
            crew.do(crew.store.load(workload.pairs()))
            _measure(crew, workload, load, sink, done, on_interval)
            done.check = crew.do(workload.check(crew.store))
        finally:
            crew.do(crew.store.clear(prefix))
    return done


def _measure(crew: Crew, workload: Workload, load: Load, sink: Sink, done: Done, on_interval: Listener | None) -> None:
    samples: deque[Row] = deque()
    clock = Clock()
    works = [
        _work(workload.worker(number, crew.store), done.pacer, clock, crew.sleep, samples)
        for number in range(load.workers)
    ]
    try:
        crew.start(works, clock)
        while not crew.wait(load.interval_s):
            _tell(sink, samples, clock.elapsed_s(), load.interval_s, on_interval)
    except KeyboardInterrupt:
        done.interrupted = True
    finally:
        clock.stop()
        crew.join()
    ended_s = clock.ended_s
    _tell(sink, samples, ended_s, load.interval_s, on_interval)
    done.seconds = max(0.0, ended_s - load.pace.warmup_s)


def _tell(sink: Sink, samples: deque[Row], now_s: float, interval_s: float, on_interval: Listener | None) -> None:
    """Count what came; between small chunks the interpreter is left to the workers, whom it would else stall."""
    left = len(samples)
    while left:
        chunk = [Sample(*samples.popleft()) for _ in range(min(left, _CHUNK))]
        sink.take(chunk)
        left -= len(chunk)
        time.sleep(0)
    interval = sink.close_interval(now_s, interval_s / 2)
    if interval is not None and on_interval is not None:
        on_interval(interval)


def _work(
    worker: Worker, pacer: Pacer, clock: Clock, sleep: Callable[[Clock, float], Any], samples: deque[Row]
) -> Steps[None]:
    """Do operations until the run is over.

    Samples are plain tuples here, which the garbage collector forgets: else it would look at all of them, and stall the
    workers, again and again.
    """
    stopped, elapsed_s, take = clock.is_stopped, clock.elapsed_s, pacer.take
    done = 0
    while not stopped() and (ticket := take(elapsed_s())) is not None:
        if done % _FAIR_TURN == 0:  # a task on an embedded store never waits: it would keep the loop to itself
            yield sleep(clock, 0.0)
        done += 1
        name, steps = worker.next()
        intended_s = ticket.intended_s
        if intended_s is not None and (early_s := intended_s - elapsed_s()) > 0:
            yield sleep(clock, early_s)
            if stopped():
                steps.close()
                break
        code: str | None = None
        retries: Codes = ()
        began_s = elapsed_s()
        try:
            retries = yield from steps
        except Missing:
            code = NOT_FOUND
        except TikvError as error:
            code = error.code
        ended_s = elapsed_s()
        due_s = began_s if intended_s is None else intended_s
        samples.append((name, began_s, due_s, ended_s, ticket.is_measured, code, retries))
    clock.end()


def _machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "pytikv": pytikv.__version__,
    }
