"""`demo`: a real data set into tables and back, with its questions, their latencies, and seats sold to many at once."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from pytikv.cli import output
from pytikv.cli.chart import bars
from pytikv.cli.failures import FAILED
from pytikv.cli.options import JsonOption, add_command
from pytikv.cli.session import raw_client, transaction_client

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from pytikv.demo.run import DemoReport, Plan
    from pytikv.demo.seats import SaleReport
    from pytikv.demo.traffic import TrafficReport

__all__ = ["register"]

_MISMATCHES_SHOWN = 5
_BAR_WIDTH = 24
_STYLES = {"optimistic": "cyan", "pessimistic": "yellow", "adaptive": "green"}
_TITLES = {
    "get": "flights.get",
    "by_iata": "airports.by(iata)",
    "get_many": "flights.get_many, 100",
    "by_country": "airports.query(country)",
    "page": "flights.page, 25 rows",
    "covered": "  from the index alone",
    "count": "flights.count",
    "insert": "insert, a transaction",
}


def demo(
    path: Annotated[str | None, typer.Argument(help="Directory of the embedded store; none: a temporary one.")] = None,
    url: Annotated[
        str | None,
        typer.Option(envvar="PYTIKV_URL", help="Use this store instead: tikv://HOST:PORT, embedded:///PATH."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=365, help="Days of flights to load, from January the first.")] = 90,
    everything: Annotated[bool, typer.Option("--all", help="Load the flights of the whole year.")] = False,
    rows: Annotated[int | None, typer.Option(min=1, help="Rows to load of each table at most; none: all.")] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Transactions on their way at once while loading.")] = 4,
    buyers: Annotated[int, typer.Option(min=0, max=256, help="Buyers of seats at once; 0: no sale.")] = 32,
    seats: Annotated[int, typer.Option(min=1, help="Seats on offer in each sale, about.")] = 640,
    svg: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Draw throughput by contention there, as SVG.")
    ] = None,
    serve_metrics: Annotated[
        str | None, typer.Option(metavar="[HOST:]PORT", help="Serve the clients' metrics for Prometheus there.")
    ] = None,
    keep: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Go on with traffic for so long afterwards; Ctrl-C ends it.")
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Load airports and flights into tables, query them, compare everything, then sell seats to many buyers at once.

    The tables are those of pytikv.demo.tables. They stay where they are, in place of what an earlier run left. Seats
    are sold by optimistic, pessimistic and adaptive transactions, from a flight for each buyer to one that all want;
    the books are checked.
    """
    import tempfile

    from pytikv.demo.run import Plan

    if svg is not None:
        from pytikv.bench import charts

        charts.require()
    plan = Plan(rows=rows, days=None if everything else days, jobs=jobs, buyers=buyers, seats=seats)
    target = f"embedded://{quote(path)}" if path is not None else url or ""
    with _metrics(serve_metrics), tempfile.TemporaryDirectory(prefix="pytikv-demo-") as directory:
        report, traffic = _run(target or f"embedded://{directory}/store", plan, keep)
    if svg is not None and report.sales:
        svg.write_text(_drawing(report.sales), encoding="utf-8")
    if as_json:
        output.print_json(_record(report, target) | ({"traffic": traffic.summary()} if traffic else {}))
    else:
        _print(report, traffic, plan, target)
        if svg is not None and report.sales:
            output.note(f"throughput by contention drawn: {svg}")
    if not report.ok:
        raise typer.Exit(FAILED)


def _metrics(address: str | None) -> contextlib.AbstractContextManager[object]:
    """Serve the metrics of this process's clients, for the length of the block."""
    if address is None:
        return contextlib.nullcontext()
    from pytikv.errors import InvalidArgument
    from pytikv.observe.metrics import serve

    host, _, port = address.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f"metrics are served at PORT or HOST:PORT, not at {address!r}")
    server = serve(int(port), host.strip("[]") or "127.0.0.1")
    output.note(f"metrics at {server.url}")
    return contextlib.closing(server)


def _run(url: str, plan: Plan, keep_s: float) -> tuple[DemoReport, TrafficReport | None]:
    from pytikv.demo.run import Demo
    from pytikv.demo.traffic import Traffic

    with transaction_client(url, timeout=60.0) as db, output.progress(known=True) as bar:
        shown = _Bar(bar)
        report = Demo(db, plan, shown).run()
        if not keep_s or not report.ok:
            return report, None
        shown.stage(f"traffic for {keep_s:,.0f} s", None)
        with raw_client(url) as client:
            traffic = Traffic(client, db, url=url)
            with contextlib.suppress(KeyboardInterrupt):
                traffic.run(keep_s)
        return report, traffic.report


class _Bar:
    """Shows the stages as progress bars."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def stage(self, name: str, total: int | None) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=total, detail="")

    def step(self, done: int) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done, detail=f"{done:,}")


# --- rendering --------------------------------------------------------------------------------------------------------


def _record(report: DemoReport, target: str) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "target": target or "embedded:// in a temporary directory",
        "rows": report.rows,
        "load_seconds": round(report.load_seconds, 3),
        "load_rows_per_second": round(report.load_rows_per_second),
        "examples": [example.record() for example in report.examples],
        "operations": {name: latencies.summary() for name, latencies in report.answers.operations.items()},
        "scan_rows_per_second": round(report.scan_rows_per_second),
        "flights_by_carrier": dict(report.flights_by_carrier.most_common()),
        "compared": report.answers.compared,
        "mismatches": len(report.answers.mismatches),
        "sales": [sale.summary() for sale in report.sales],
        "seconds": round(report.seconds, 3),
    }


def _print(report: DemoReport, traffic: TrafficReport | None, plan: Plan, target: str) -> None:
    _print_examples(report)
    _print_latencies(report)
    _print_carriers(report)
    _print_sales(report)
    for mismatch in report.answers.mismatches[:_MISMATCHES_SHOWN]:
        output.note(f"MISMATCH at {mismatch}")
    for sale in report.sales:
        for problem in sale.problems[:_MISMATCHES_SHOWN]:
            output.note(f"WRONG BOOKS ({sale.strategy}): {problem}")
    if traffic is not None:
        errors = ", ".join(f"{count:,} {code}" for code, count in traffic.errors.most_common()) or "none"
        output.line(f"traffic: {traffic.calls.total():,} calls in {traffic.seconds:,.1f} s; errors: {errors}")
    output.line(_summary(report, target or "embedded:// in a temporary directory"))
    if report.ok:
        _print_what_next(plan, target)


def _print_examples(report: DemoReport) -> None:
    for question, answer, seconds in report.examples:
        output.styled(question, "cyan")
        output.line(f"    {seconds * 1000:5.1f} ms  {answer}")
    output.line("")


def _print_latencies(report: DemoReport) -> None:
    columns = ["query", "count", "a second", "P50 us", "P95 us", "P99 us"]
    rows = [
        [_TITLES[name], f"{len(found):,}", f"{found.per_second:,.0f}"]
        + [f"{found.percentile_us(percent):,.0f}" for percent in (50, 95, 99)]
        for name, found in report.answers.operations.items()
    ]
    output.table(columns, rows, title="Queries, one thread", right=1, always=True)


def _print_carriers(report: DemoReport) -> None:
    from pytikv.demo.dataset import carrier_names

    names = carrier_names()
    output.line("")
    output.styled("Flights from New York in 2013, by carrier, counted in the index", "bold")
    rows = [
        (f"{names.get(code, code)} {code}", float(count), f"{count:,}")
        for code, count in report.flights_by_carrier.most_common()
    ]
    for text in bars(rows, width=_BAR_WIDTH):
        output.line(text)
    output.line("")


def _print_sales(report: DemoReport) -> None:
    """Draw bookings a second, level by level; beside them what the buyers did to each other: tries made again."""
    if not report.sales:
        return
    output.styled(f"Seats booked a second by {report.sales[0].buyers} buyers at once", "bold")
    output.line("  optimistic: begin again when another was faster; pessimistic: wait in line;")
    output.line("  adaptive: whichever costs less for the flight at present")
    rows = [
        (sale.strategy, sale.latencies.per_second, f"{sale.latencies.per_second:,.0f}, {sale.retries:,} again")
        for sale in report.sales
    ]
    level = 0
    for sale, text in zip(report.sales, bars(rows, width=_BAR_WIDTH), strict=True):
        if sale.buyers_a_flight != level:
            level = sale.buyers_a_flight
            output.line(_level(level))
        output.styled(f"    {text}", _STYLES[sale.strategy])
    sold, seats = sum(sale.sold for sale in report.sales), sum(sale.seats for sale in report.sales)
    audits = sum(sale.audits for sale in report.sales)
    verdict = "no seat sold twice, no money lost" if all(sale.ok for sale in report.sales) else "THE BOOKS ARE WRONG"
    gave_up = sum(sale.gave_up for sale in report.sales)
    output.line(f"{sold:,} of {seats:,} seats sold, {gave_up} bookings given up; {audits} audits of the books:")
    output.styled(f"{verdict}\n", "bold")


def _level(buyers_a_flight: int) -> str:
    if buyers_a_flight == 1:
        return "  a flight for each buyer"
    return f"  {buyers_a_flight} buyers want the same flight"


def _drawing(sales: list[SaleReport]) -> str:
    from pytikv.bench import charts
    from pytikv.demo.contention import throughputs

    names, series = throughputs(sales)
    return charts.lines_by_name(names, series, unit="bookings a second", x_title="buyers who want the same flight")


def _print_what_next(plan: Plan, target: str) -> None:
    if plan.days is not None and plan.rows is None:
        output.note(f"loaded were the first {plan.days} days of flights; the whole year: pytikv demo --all")
    if not target:
        output.note("this store is gone now; to keep one and look around in it: pytikv demo PATH")
        return
    output.note("the tables stay there; look around:")
    output.note("  export PYTIKV_TABLES=pytikv.demo.tables")
    output.note(f"  export PYTIKV_URL={shlex.quote(target)}")
    output.note("  pytikv table query flight carrier=UA day=2013-01-01 --limit 5")


def _summary(report: DemoReport, target: str) -> str:
    rows = " and ".join(f"{count:,} {name}" for name, count in report.rows.items())
    return (
        f"demo {'ok' if report.ok else 'FAILED'}: {rows} loaded into {target} at"
        f" {report.load_rows_per_second:,.0f} rows a second, {report.answers.compared:,} values compared with their"
        f" source, {len(report.answers.mismatches):,} mismatches, {sum(sale.sold for sale in report.sales):,} seats"
        f" sold, {report.seconds:.1f} s"
    )


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    examples = [
        "pytikv demo",
        "pytikv demo /tmp/store --all",
        "pytikv demo --svg contention.svg",
        "pytikv demo --url tikv://127.0.0.1:2379 --serve-metrics 9464 --keep 600",
    ]
    add_command(app, demo, *examples, panel="Start here")
