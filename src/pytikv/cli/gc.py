"""`gc`: old versions of transactional data are let go of, once or every so often."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from pytikv.cli import output
from pytikv.cli.options import DEFAULT_URL, JsonOption, UrlOption, add_command
from pytikv.cli.session import transaction_client
from pytikv.errors import TikvError

if TYPE_CHECKING:
    from pytikv import GcReport, Progress, TransactionClient

__all__ = ["register"]


def gc(
    life_time: Annotated[
        float, typer.Option(min=0, help="Seconds that old versions stay readable; longer than the longest transaction.")
    ] = 600.0,
    every: Annotated[
        float | None, typer.Option(min=1, help="Go on, with this many seconds in between.", show_default=False)
    ] = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Collect garbage: remove versions that were replaced longer ago than the life time.

    Settles the locks of older transactions, then publishes the safe point; the stores remove the versions by
    themselves. Snapshots from before it cannot be read any more. With --every it runs until it is interrupted, and a
    failure is reported and tried again.
    """
    with transaction_client(url) as client:
        while True:
            try:
                _show(_collect(client, life_time), as_json=as_json)
            except TikvError as error:
                if every is None:
                    raise
                output.note(f"failed, to be tried again: {error}")
            if every is None:
                return
            time.sleep(every)


def _collect(client: TransactionClient, life_time: float) -> GcReport:
    with output.progress(known=False) as bar:
        task = bar.add_task("settling locks", total=None, detail="")

        def tell(progress: Progress) -> None:
            bar.update(task, detail=f"{progress.regions:,} regions, {progress.items:,} locks")

        return client.gc(life_time, on_progress=tell)


def _show(report: GcReport, *, as_json: bool) -> None:
    if as_json:
        output.print_json(
            {
                "safe_point": report.safe_point,
                "target": report.target,
                "blocker": report.blocker,
                "regions": report.regions,
                "resolved_locks": report.resolved_locks,
            }
        )
        return
    when = output.time_text(report.safe_point)
    output.line(
        f"safe point {report.safe_point} ({when} UTC), {report.resolved_locks:,} locks settled in "
        f"{report.regions:,} regions"
    )
    if report.blocker:
        output.note(f"held back by {report.blocker}: {report.target} was wanted")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    examples = ["pytikv gc --life-time 600", "pytikv gc --every 300 --url tikv://pd1:2379,pd2:2379 --json"]
    add_command(app, gc, *examples, panel="Transactions")
