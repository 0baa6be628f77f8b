"""`bench`: YCSB's workloads, a bank like TPC-B's, bare gets and puts; reports, and two of them compared.

It measures the store together with this client, from this process. The keys lie under `pytikv-bench/` and are deleted
at the end. The figures of the project's own benchmarks come from `benchmarks/`, which also measures other clients.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytikv.cli import output
from pytikv.cli.bench_points import Seed, Work, bench, point_command
from pytikv.cli.failures import INTERRUPTED, Failure
from pytikv.cli.options import DEFAULT_URL, JsonOption, UrlOption, add_command, add_group

if TYPE_CHECKING:
    from pytikv.bench.compare import Delta
    from pytikv.bench.report import Interval, Report
    from pytikv.bench.running import Load
    from pytikv.bench.workloads import Workload

__all__ = ["register"]


class Api(enum.StrEnum):
    """The API to measure."""

    RAW = "raw"
    TXN = "txn"


class Letter(enum.StrEnum):
    """YCSB's workloads."""

    A = "a"
    B = "b"
    C = "c"
    D = "d"
    E = "e"
    F = "f"


class TableKind(enum.StrEnum):
    """Workloads over tables."""

    POINT = "point"
    UNIQUE = "unique"
    RANGE = "range"
    INSERT = "insert"
    BOOKING = "booking"


class Distribution(enum.StrEnum):
    """How records are chosen."""

    ZIPFIAN = "zipfian"
    UNIFORM = "uniform"
    LATEST = "latest"
    HOTSPOT = "hotspot"


ApiOption = Annotated[Api, typer.Option(help="The API to measure.")]
Threads = Annotated[int | None, typer.Option("--threads", "-c", min=1, max=1024, help="Threads; 1 by default.")]
Tasks = Annotated[
    int | None, typer.Option("--asyncio", min=1, max=65_536, help="Tasks of one loop, in place of threads.")
]
Duration = Annotated[float | None, typer.Option(min=0.001, help="Seconds to measure; 10 where nothing ends the run.")]
Most = Annotated[int | None, typer.Option("--operations", "-n", min=1, help="End after so many operations.")]
Warmup = Annotated[float, typer.Option(min=0.0, help="Seconds before that, not measured.")]
Rate = Annotated[float | None, typer.Option(min=0.001, help="Operations a second to aim at (open loop).")]
Every = Annotated[float, typer.Option("--interval", min=0.05, help="Seconds of an interval of the report.")]
Pessimistic = Annotated[bool, typer.Option("--pessimistic", help="Transactions lock before they read.")]
ReportFiles = Annotated[
    list[Path] | None, typer.Option("--report", help="Write the report there: .json, .csv or .html; may be repeated.")
]


_PERCENTILES = ("p50", "p95", "p99", "p99.9", "max")


# --- workloads --------------------------------------------------------------------------------------------------------


def ycsb(
    letter: Annotated[Letter, typer.Argument(help="a and f write half, b and d a little, c not; e scans.")],
    api: ApiOption = Api.RAW,
    threads: Threads = None,
    tasks: Tasks = None,
    duration: Duration = None,
    operations: Most = None,
    warmup: Warmup = 1.0,
    rate: Rate = None,
    records: Annotated[int, typer.Option(min=1, help="Records to begin with.")] = 10_000,
    fields: Annotated[int, typer.Option(min=0, help="Fields of a record.")] = 10,
    field_bytes: Annotated[int, typer.Option(min=0, help="Bytes of a field.")] = 100,
    scan_length: Annotated[int, typer.Option(min=1, help="Records of the longest scan.")] = 100,
    distribution: Annotated[Distribution | None, typer.Option(help="In place of the workload's own.")] = None,
    pessimistic: Pessimistic = False,
    interval: Every = 1.0,
    seed: Seed = 1,
    report: ReportFiles = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Run one of YCSB's core workloads, a to f.

    With --rate operations begin at their intended times, late ones too, and latency is shown both from the beginning
    of the operation (service) and from the intended time (response).
    """
    from pytikv.bench.running import new_prefix
    from pytikv.bench.workloads import ycsb as make

    prefix = new_prefix()
    workload = make(
        letter.value,
        prefix,
        records=records,
        fields=fields,
        field_bytes=field_bytes,
        scan_length=scan_length,
        distribution=None if distribution is None else distribution.value,
        seed=seed,
    )
    load = _load(api, threads, tasks, duration, operations, warmup, rate, pessimistic, interval)
    _run(url, workload, prefix, load, report or [], as_json=as_json)


def tpcb(
    api: ApiOption = Api.TXN,
    threads: Threads = None,
    tasks: Tasks = None,
    duration: Duration = None,
    operations: Most = None,
    warmup: Warmup = 1.0,
    rate: Rate = None,
    scale: Annotated[int, typer.Option(min=1, help="Branches of the bank.")] = 1,
    accounts: Annotated[int, typer.Option(min=1, help="Accounts of a branch.")] = 10_000,
    pessimistic: Pessimistic = False,
    interval: Every = 1.0,
    seed: Seed = 1,
    report: ReportFiles = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Move money in a bank like TPC-B's, then see that the books balance.

    Every transfer changes an account, a teller and a branch, so that with one branch all of them conflict. Ends with
    code 1 where the books do not balance.
    """
    from pytikv.bench.running import new_prefix
    from pytikv.bench.tpcb import TpcB

    prefix = new_prefix()
    workload = TpcB(prefix, scale=scale, accounts_a_branch=accounts, seed=seed)
    load = _load(api, threads, tasks, duration, operations, warmup, rate, pessimistic, interval)
    _run(url, workload, prefix, load, report or [], as_json=as_json)


def table(
    kind: Annotated[TableKind, typer.Argument(help="By key, unique index, range; inserts; bookings, which conflict.")],
    threads: Threads = None,
    tasks: Tasks = None,
    duration: Duration = None,
    operations: Most = None,
    warmup: Warmup = 1.0,
    rate: Rate = None,
    records: Annotated[int, typer.Option(min=1, help="Rows to begin with.")] = 10_000,
    note_bytes: Annotated[int, typer.Option(min=0, help="Bytes of a row's largest field.")] = 100,
    distribution: Annotated[Distribution, typer.Option(help="How rows are chosen.")] = Distribution.ZIPFIAN,
    pessimistic: Pessimistic = False,
    interval: Every = 1.0,
    seed: Seed = 1,
    report: ReportFiles = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Work with tables of typed records: rows with a unique index and another one, or bookings of seats.

    After bookings, seats that are gone and tickets that are there are compared; ends with code 1 where they differ.
    """
    from pytikv.bench.running import new_prefix
    from pytikv.bench.tables import TableWorkload

    prefix = new_prefix()
    workload = TableWorkload(
        kind.value,
        prefix,
        records=records,
        note_bytes=note_bytes,
        distribution=distribution.value,
        seed=seed,
    )
    load = _load(Api.TXN, threads, tasks, duration, operations, warmup, rate, pessimistic, interval)
    _run(url, workload, prefix, load, report or [], as_json=as_json)


def _load(
    api: Api,
    threads: int | None,
    tasks: int | None,
    duration_s: float | None,
    operations: int | None,
    warmup_s: float,
    rate: float | None,
    pessimistic: bool,
    interval_s: float,
) -> Load:
    from pytikv.bench.pacing import Pace
    from pytikv.bench.running import Load

    if threads is not None and tasks is not None:
        raise typer.BadParameter("leave out one of --threads and --asyncio", param_hint="--asyncio")
    if duration_s is None and operations is None:
        duration_s = 10.0
    return Load(
        Pace(duration_s=duration_s, operations=operations, warmup_s=warmup_s, rate=rate),
        workers=tasks or threads or 1,
        use_asyncio=tasks is not None,
        api=api.value,
        pessimistic=pessimistic,
        interval_s=interval_s,
    )


def _run(url: str, workload: Workload, prefix: bytes, load: Load, files: list[Path], *, as_json: bool) -> None:
    from pytikv.bench.report import to_json
    from pytikv.bench.running import run

    writers = [(path, _writer(path)) for path in files]  # refuses what cannot be written before the run
    pace = load.pace
    with output.progress(known=pace.duration_s is not None) as bar:
        task = bar.add_task(workload.name, total=pace.duration_s, detail="loading")

        def show(interval: Interval) -> None:
            bar.update(task, completed=interval.end_s, detail=_live(interval))

        report = run(url, workload, prefix, load, show)
    for path, write in writers:
        path.write_text(write(report), encoding="utf-8")
    if as_json:
        output.line(to_json(report))
    else:
        _print(report)
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)
    if report.check is not None and not report.check["is_sound"]:
        raise Failure(report.check["text"])


def _writer(path: Path) -> Callable[[Report], str]:
    from pytikv.bench import charts, page, report

    if path.suffix == ".html":
        charts.require()
    writers = {".json": report.to_json, ".csv": report.to_csv, ".html": page.to_html}
    if path.suffix not in writers:
        raise typer.BadParameter(f"{path} must end in one of {', '.join(writers)}", param_hint="--report")
    if not path.parent.is_dir():
        raise typer.BadParameter(f"{path}: there is no directory {path.parent}", param_hint="--report")
    return writers[path.suffix]


def _live(interval: Interval) -> str:
    p99_us = max(interval.p99_us.values(), default=0.0)
    return f"{sum(interval.per_second.values()):,.0f}/s  P99 {p99_us / 1000:,.2f} ms  {interval.errors} errors"


def _print(report: Report) -> None:
    rows = []
    for name, one in report.operations.items():
        for kind, figures in (("", one.service), (" response", one.response)):
            if not kind or figures:
                shown = [f"{figures.get(f'{figure}_us', 0) / 1000:,.3f}" for figure in _PERCENTILES]
                rows.append([name + kind, f"{one.count:,}", f"{one.per_second:,.0f}", *shown])
    columns = ["operation", "count", "a second", *(name.replace("p", "P") for name in _PERCENTILES)]
    how = f"{report.load['workers']} {'tasks' if report.load['runtime'] == 'asyncio' else 'threads'}"
    title = f"{report.workload}, {report.api} API, {how}, {report.seconds:,.1f} s; latencies in ms"
    output.table(columns, rows, title=title, right=1, always=True)
    for name, one in report.operations.items():
        for what, codes in (("failed", one.errors), ("tried again", one.retries)):
            if codes:
                output.line(f"{name} {what}: " + ", ".join(f"{code} {count:,}" for code, count in codes.items()))
    if report.missed:
        output.line(f"{report.missed:,} operations were due and were not begun: the rate is more than there was")
    if report.check is not None and report.check["is_sound"]:
        output.line(str(report.check["text"]))


# --- comparing --------------------------------------------------------------------------------------------------------


def compare(
    before: Annotated[Path, typer.Argument(help="Report in JSON.", exists=True, dir_okay=False)],
    after: Annotated[Path, typer.Argument(help="Report in JSON.", exists=True, dir_okay=False)],
    fail_over: Annotated[
        str | None, typer.Option(help="End with code 1 where a figure is significantly worse by more, such as 10%.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two reports, operation by operation.

    A change is marked where it is significant: where the middle halves of the two runs' intervals do not overlap.
    """
    from pytikv.bench.compare import compared, differences, regressions
    from pytikv.bench.report import from_json

    limit = None if fail_over is None else _share(fail_over)
    one, other = (from_json(path.read_text(encoding="utf-8"), str(path)) for path in (before, after))
    deltas, unlike = compared(one, other), differences(one, other)
    if as_json:
        records = [{**dataclasses.asdict(delta), "change": delta.change} for delta in deltas]
        output.print_json({"differences": unlike, "deltas": records})
    else:
        rows = [
            [
                *(delta.operation, delta.figure, f"{delta.before:,.1f}", f"{delta.after:,.1f}"),
                *(
                    "" if delta.change is None else f"{delta.change:+.1%}",
                    "significant" if delta.is_significant else "",
                ),
            ]
            for delta in deltas
        ]
        output.table(["operation", "figure", "before", "after", "change", ""], rows, right=2, always=True)
        for text in unlike:
            output.note(f"not alike: {text}")
    worse = regressions(deltas, limit) if limit is not None else []
    if worse:
        text = ", ".join(f"{delta.operation} {delta.figure} {delta.change:+.1%}" for delta in worse)
        raise Failure(f"worse by more than {fail_over}: {text}")


def _cells(delta: Delta) -> list[str]:
    change = "" if delta.change is None else f"{delta.change:+.1%}"
    return [delta.operation, delta.figure, f"{delta.before:,.1f}", f"{delta.after:,.1f}", change]


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if share < 0:
        raise typer.BadParameter("write it as 10% or 0.1", param_hint="--fail-over")
    return share


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group: Any = typer.Typer()
    examples = [
        "pytikv bench -n 50000 -c 16",
        "pytikv bench ycsb a --api txn --threads 8 --duration 30 --report a.html --report a.json",
        "pytikv bench tpcb --rate 500 --asyncio 16",
        "pytikv bench compare before.json after.json --fail-over 10%",
    ]
    panel = "Measure"
    for kind in Work:
        add_command(group, point_command(kind), f"pytikv bench {kind.value} -c 16", panel=panel, name=kind.value)
    add_command(group, ycsb, "pytikv bench ycsb e --rate 200 --duration 30 --report e.html", panel=panel)
    add_command(group, tpcb, "pytikv bench tpcb --scale 4 --threads 16 --pessimistic", panel=panel)
    add_command(group, table, "pytikv bench table booking --threads 16 --pessimistic", panel=panel)
    add_command(group, compare, "pytikv bench compare a.json b.json --fail-over 10%", panel=panel)
    add_group(app, group, bench, *examples, name="bench", panel="Start here")
