"""`demo`: a real data set into a store and back, with a table of latencies and a picture in the terminal."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from pytikv.cli import output
from pytikv.cli.chart import bars
from pytikv.cli.failures import FAILED
from pytikv.cli.options import JsonOption, add_command
from pytikv.cli.session import raw_client, transaction_client
from pytikv.transfer.escape import escape

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from pytikv.demo.latency import Latencies
    from pytikv.demo.run import DemoReport, Plan
    from pytikv.demo.traffic import TrafficReport

__all__ = ["register"]

_MISMATCHES_SHOWN = 5
_TITLES = {
    "get": "get",
    "batch_get": "batch_get (100 keys)",
    "scan_prefix": "scan_prefix (a carrier's day)",
    "put": "put (100 bytes)",
}


def demo(
    path: Annotated[str | None, typer.Argument(help="Directory of the embedded store; none: a temporary one.")] = None,
    url: Annotated[
        str | None,
        typer.Option(envvar="PYTIKV_URL", help="Use this store instead: tikv://HOST:PORT, embedded:///PATH."),
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Rows to load of each table; none: all.")] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Batches on their way at once while loading.")] = 4,
    buyers: Annotated[int, typer.Option(min=0, max=256, help="Buyers of seats at once; 0: no sale.")] = 64,
    serve_metrics: Annotated[
        str | None, typer.Option(metavar="[HOST:]PORT", help="Serve the clients' metrics for Prometheus there.")
    ] = None,
    keep: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Go on with traffic for so long afterwards; Ctrl-C ends it.")
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Load airports and flights, read them back, compare everything, then sell seats to many buyers at once.

    The rows are written under the keys pytikv-demo/... and stay there, in place of what was there before. The sale runs
    in transactions, first optimistic, then pessimistic, and its books are checked.
    """
    import tempfile

    from pytikv.demo.run import Plan

    plan = Plan(rows=rows, jobs=jobs, buyers=buyers)
    target = f"embedded://{quote(path)}" if path is not None else url or ""
    with _metrics(serve_metrics), tempfile.TemporaryDirectory(prefix="pytikv-demo-") as directory:
        report, traffic = _run(target or f"embedded://{directory}/store", plan, keep)
    _print(report, traffic, target or "embedded:// in a temporary directory", as_json=as_json)
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

    with (
        raw_client(url) as client,
        transaction_client(url, timeout=60.0) as db,
        output.progress(known=True) as bar,
    ):
        shown = _Bar(bar)
        report = Demo(client, db, plan, shown).run()
        if not keep_s or not report.ok:
            return report, None
        shown.stage(f"traffic for {keep_s:,.0f} s", None)
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


def _print(report: DemoReport, traffic: TrafficReport | None, target: str, *, as_json: bool) -> None:
    if as_json:
        output.print_json(_record(report, target) | ({"traffic": traffic.summary()} if traffic else {}))
        return
    _print_latencies(report)
    _print_histograms(report.operations)
    _print_carriers(report)
    _print_sales(report)
    for key in report.mismatches[:_MISMATCHES_SHOWN]:
        output.note(f"MISMATCH at {escape(key)}")
    for sale in report.sales:
        for problem in sale.problems[:_MISMATCHES_SHOWN]:
            output.note(f"WRONG BOOKS ({sale.strategy}): {problem}")
    if traffic is not None:
        errors = ", ".join(f"{count:,} {code}" for code, count in traffic.errors.most_common()) or "none"
        output.line(f"traffic: {traffic.calls.total():,} calls in {traffic.seconds:,.1f} s; errors: {errors}")
    output.line(_summary(report, target))


def _record(report: DemoReport, target: str) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "target": target,
        "rows": report.rows,
        "load_seconds": round(report.load.seconds, 3),
        "load_rows_per_second": round(report.load.rows_per_second),
        "operations": {name: latencies.summary() for name, latencies in report.operations.items()},
        "scan_rows_per_second": round(report.scan_rows_per_second),
        "flights_by_carrier": dict(report.flights_by_carrier.most_common()),
        "compared": report.compared,
        "mismatches": len(report.mismatches),
        "sales": {sale.strategy: sale.summary() for sale in report.sales},
        "seconds": round(report.seconds, 3),
    }


def _print_latencies(report: DemoReport) -> None:
    columns = ["operation", "count", "a second", "P50 us", "P95 us", "P99 us"]
    rows = [
        [_TITLES[name], f"{len(found):,}", f"{found.per_second:,.0f}"]
        + [f"{found.percentile_us(percent):,.0f}" for percent in (50, 95, 99)]
        for name, found in report.operations.items()
    ]
    output.table(columns, rows, title="Latencies, one thread", right=1, always=True)


def _print_histograms(operations: dict[str, Latencies]) -> None:
    for name in ("get", "put"):
        found = operations[name].histogram() if name in operations else []
        output.line(f"\n{_TITLES[name]}: how long each took, in microseconds")
        rows = [(f"{_short(low)} - {_short(high)}", float(count), f"{count:,}") for low, high, count in found]
        for text in bars(rows):
            output.line(text)


def _short(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:,.0f}"


def _print_carriers(report: DemoReport) -> None:
    from pytikv.demo.dataset import carrier_names

    names = carrier_names()
    output.line("\nFlights from New York in 2013, by carrier, counted in the store")
    rows = [
        (f"{names.get(code, code)} {code}", float(count), f"{count:,}")
        for code, count in report.flights_by_carrier.most_common()
    ]
    for text in bars(rows):
        output.line(text)
    output.line("")


def _print_sales(report: DemoReport) -> None:
    """Show how the seats were sold; what the buyers did to each other is the point: tries made again."""
    if not report.sales:
        return
    first = report.sales[0]
    columns = ["way", "seats sold", "retries", "a second", "P50 ms", "P95 ms", "P99 ms"]
    rows = [
        [sale.strategy, f"{sale.sold:,}/{sale.seats:,}", f"{sale.retries:,}"]
        + [f"{sale.latencies.per_second:,.0f}"]
        + [f"{sale.latencies.percentile_us(percent) / 1000:,.1f}" for percent in (50, 95, 99)]
        for sale in report.sales
    ]
    output.table(columns, rows, title=f"Seats booked by {first.buyers} buyers at once", right=1, always=True)
    audits = sum(sale.audits for sale in report.sales)
    verdict = "no seat sold twice, no money lost" if all(sale.ok for sale in report.sales) else "THE BOOKS ARE WRONG"
    gave_up = sum(sale.gave_up for sale in report.sales)
    output.line(f"{audits} audits by snapshot, during the sales and after: {verdict}; {gave_up} bookings given up\n")


def _summary(report: DemoReport, target: str) -> str:
    rows = " and ".join(f"{count:,} {name}" for name, count in report.rows.items())
    return (
        f"demo {'ok' if report.ok else 'FAILED'}: {rows} loaded into {target} at"
        f" {report.load.rows_per_second:,.0f} rows a second, {report.compared:,} values compared with their source,"
        f" {len(report.mismatches):,} mismatches, {sum(sale.sold for sale in report.sales):,} seats sold,"
        f" {report.seconds:.1f} s"
    )


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    examples = [
        "pytikv demo",
        "pytikv demo /tmp/store",
        "pytikv demo --url tikv://127.0.0.1:2379 --serve-metrics 9464 --keep 600",
    ]
    add_command(app, demo, *examples, panel="Start here")
