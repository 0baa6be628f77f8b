"""`bench get` and `bench put`, and `bench` by itself: a quick look at point operations, every latency kept."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from pytikv.cli import output
from pytikv.cli.failures import Failure
from pytikv.cli.options import DEFAULT_URL, JsonOption, UrlOption
from pytikv.demo.latency import Latencies

if TYPE_CHECKING:
    from pytikv.bench.report import Sample

__all__ = ["Seed", "Work", "bench", "point_command"]


class Work(enum.StrEnum):
    """A point operation."""

    GET = "get"
    PUT = "put"


Operations = Annotated[int, typer.Option("-n", "--operations", min=1, help="Operations of each kind.")]
Concurrency = Annotated[int, typer.Option("-c", "--concurrency", min=1, max=1024, help="How many at once.")]
Keys = Annotated[int, typer.Option(min=1, help="Different keys.")]
ValueBytes = Annotated[int, typer.Option(min=0, help="Size of a value.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is chosen.")]
UseAsyncio = Annotated[bool, typer.Option("--asyncio", help="Tasks of one loop in place of threads.")]


def _points(load: PointLoad, *, as_json: bool) -> None:
    found = {kind: _measure_points(load, kind) for kind in load.kinds}
    how = "asyncio" if load.use_asyncio else "threads"
    if as_json:
        figures = {kind.value: latencies.summary() for kind, latencies in found.items()}
        output.print_json({"concurrency": load.concurrency, "runtime": how, "results": figures})
        return
    rows = [
        [kind.value, f"{len(one):,}", f"{one.per_second:,.0f}"]
        + [f"{one.percentile_us(percent):,.0f}" for percent in (50, 95, 99, 100)]
        for kind, one in found.items()
    ]
    columns = ["operation", "count", "a second", "P50 us", "P95 us", "P99 us", "max us"]
    output.table(columns, rows, title=f"{load.concurrency} at once ({how})", right=1, always=True)


@dataclasses.dataclass(frozen=True)
class PointLoad:
    """What the quick forms do."""

    url: str
    kinds: tuple[Work, ...]
    operations: int
    concurrency: int
    use_asyncio: bool
    keys: int
    value_bytes: int
    seed: int


class _Sink:
    """Keeps all latencies. Raises Failure at the first error: these forms measure a store that works."""

    def __init__(self) -> None:
        self.latencies = Latencies()

    def take(self, samples: list[Sample]) -> None:
        for sample in samples:
            if sample.code is not None:
                raise Failure(f"a {sample.operation} failed: {sample.code}")
            self.latencies.add(int((sample.ended_s - sample.began_s) * 1e9))

    def close_interval(self, now_s: float, at_least_s: float) -> None:
        return None


def _measure_points(load: PointLoad, kind: Work) -> Latencies:
    from pytikv.bench.pacing import Pace
    from pytikv.bench.running import Load, collect, new_prefix
    from pytikv.bench.workloads import Points

    prefix, sink = new_prefix(), _Sink()
    workload = Points(kind.value, prefix, keys=load.keys, value_bytes=load.value_bytes, seed=load.seed)
    how = Load(Pace(operations=load.operations), workers=load.concurrency, use_asyncio=load.use_asyncio)
    done = collect(load.url, workload, prefix, how, sink)
    if done.interrupted:
        raise KeyboardInterrupt
    sink.latencies.elapsed_seconds = done.seconds
    return sink.latencies


def bench(
    ctx: typer.Context,
    operations: Operations = 20_000,
    concurrency: Concurrency = 1,
    use_asyncio: UseAsyncio = False,
    keys: Keys = 10_000,
    value_bytes: ValueBytes = 100,
    work: Annotated[list[Work] | None, typer.Option(help="What to measure; none: everything.")] = None,
    seed: Seed = 1,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Measure point gets and puts, or what a subcommand says."""
    if ctx.invoked_subcommand is None:
        kinds = tuple(work or Work)
        load = PointLoad(url, kinds, operations, concurrency, use_asyncio, keys, value_bytes, seed)
        _points(load, as_json=as_json)


def point_command(kind: Work) -> Callable[..., None]:
    """Return the command that measures one kind of operation."""

    def command(
        operations: Operations = 20_000,
        concurrency: Concurrency = 1,
        use_asyncio: UseAsyncio = False,
        keys: Keys = 10_000,
        value_bytes: ValueBytes = 100,
        seed: Seed = 1,
        url: UrlOption = DEFAULT_URL,
        as_json: JsonOption = False,
    ) -> None:
        load = PointLoad(url, (kind,), operations, concurrency, use_asyncio, keys, value_bytes, seed)
        _points(load, as_json=as_json)

    command.__doc__ = f"Measure {kind.value}s of keys that are there."
    return command
