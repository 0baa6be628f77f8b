"""`bench`: point gets and puts against any store, from threads or from asyncio, with their latencies.

It measures the store together with this client, from this process. The keys lie under `pytikv-bench/` and are deleted
at the end. The figures of the project's own benchmarks come from `benchmarks/`, which also measures other clients.
"""

from __future__ import annotations

import dataclasses
import enum
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from pytikv.cli import output
from pytikv.cli.options import DEFAULT_URL, JsonOption, UrlOption, add_command
from pytikv.cli.session import raw_client
from pytikv.demo.latency import Latencies

if TYPE_CHECKING:
    from pytikv import AsyncRawClient, RawClient

__all__ = ["register"]

_PREFIX = b"pytikv-bench/"


class Work(enum.StrEnum):
    """What to measure."""

    GET = "get"
    PUT = "put"


@dataclasses.dataclass(frozen=True)
class Load:
    """What to do."""

    url: str
    kinds: tuple[Work, ...]
    operations: int
    concurrency: int
    names: list[bytes]
    value: bytes
    seed: int

    def keys(self) -> Iterator[bytes]:
        """Return the keys of the operations, the same for every kind."""
        return iter(random.Random(self.seed).choices(self.names, k=self.operations))


Found = dict[Work, Latencies]


def bench(
    operations: Annotated[int, typer.Option("-n", "--operations", min=1, help="Operations of each kind.")] = 20_000,
    concurrency: Annotated[int, typer.Option("-c", "--concurrency", min=1, max=1024, help="How many at once.")] = 1,
    use_asyncio: Annotated[bool, typer.Option("--asyncio", help="Tasks of one loop in place of threads.")] = False,
    keys: Annotated[int, typer.Option(min=1, help="Different keys.")] = 10_000,
    value_bytes: Annotated[int, typer.Option(min=0, help="Size of a value.")] = 100,
    work: Annotated[list[Work] | None, typer.Option(help="What to measure; none: everything.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of keys.")] = 1,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Measure point gets and puts."""
    load = Load(
        url=url,
        kinds=tuple(work or Work),
        operations=operations,
        concurrency=concurrency,
        names=[_PREFIX + b"%08d" % number for number in range(keys)],
        value=random.Random(seed).randbytes(value_bytes),
        seed=seed,
    )
    found = _from_asyncio(load) if use_asyncio else _with_threads(load)
    _print(found, concurrency, use_asyncio=use_asyncio, as_json=as_json)


def _print(found: Found, concurrency: int, *, use_asyncio: bool, as_json: bool) -> None:
    how = "asyncio" if use_asyncio else "threads"
    if as_json:
        figures = {kind.value: latencies.summary() for kind, latencies in found.items()}
        output.print_json({"concurrency": concurrency, "runtime": how, "results": figures})
        return
    rows = [
        [kind.value, f"{len(one):,}", f"{one.per_second:,.0f}"]
        + [f"{one.percentile_us(percent):,.0f}" for percent in (50, 95, 99, 100)]
        for kind, one in found.items()
    ]
    columns = ["operation", "count", "a second", "P50 us", "P95 us", "P99 us", "max us"]
    output.table(columns, rows, title=f"{concurrency} at once ({how})", right=1, always=True)


def _with_threads(load: Load) -> Found:
    found: Found = {}
    with raw_client(load.url) as client:
        try:
            client.batch_put(dict.fromkeys(load.names, load.value))
            for kind in load.kinds:
                found[kind] = _from_threads(client, load, kind)
        finally:
            client.delete_prefix(_PREFIX)
    return found


def _from_threads(client: RawClient, load: Load, work: Work) -> Latencies:
    parts = [Latencies() for _ in range(load.concurrency)]
    failures: list[BaseException] = []
    next_key = _locked(load.keys())

    def run(latencies: Latencies) -> None:
        try:
            while (key := next_key()) is not None:
                if work is Work.GET:
                    latencies.measure(client.get, key)
                else:
                    latencies.measure(client.put, key, load.value)
        except BaseException as error:
            failures.append(error)

    started = time.perf_counter()
    threads = [threading.Thread(target=run, args=(part,), daemon=True) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return _joined(parts, time.perf_counter() - started)


def _locked(keys: Iterator[bytes]) -> Callable[[], bytes | None]:
    lock = threading.Lock()

    def take() -> bytes | None:
        with lock:
            return next(keys, None)

    return take


def _from_asyncio(load: Load) -> Found:
    import asyncio

    return asyncio.run(_with_asyncio(load))


async def _with_asyncio(load: Load) -> Found:
    import asyncio

    import pytikv

    found: Found = {}
    async with await pytikv.AsyncRawClient.connect(load.url) as client:
        try:
            await client.batch_put(dict.fromkeys(load.names, load.value))
            for kind in load.kinds:
                parts = [Latencies() for _ in range(load.concurrency)]
                keys = load.keys()
                started = time.perf_counter()
                await asyncio.gather(*(_task(client, kind, keys, load.value, part) for part in parts))
                found[kind] = _joined(parts, time.perf_counter() - started)
        finally:
            await client.delete_prefix(_PREFIX)
    return found


async def _task(client: AsyncRawClient, work: Work, keys: Iterator[bytes], value: bytes, latencies: Latencies) -> None:
    for key in keys:  # one iterator for all tasks: each takes the next key
        start = time.perf_counter_ns()
        if work is Work.GET:
            await client.get(key)
        else:
            await client.put(key, value)
        latencies.add(time.perf_counter_ns() - start)


def _joined(parts: list[Latencies], elapsed: float) -> Latencies:
    joined = Latencies()
    for part in parts:
        joined.extend(part)
    joined.elapsed_seconds = elapsed
    return joined


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    examples = ["pytikv bench -n 50000 -c 16", "pytikv bench --asyncio -c 64 --url tikv://127.0.0.1:2379"]
    add_command(app, bench, *examples, panel="Start here")
