"""`monitoring`: the files to watch TiKV and its programs with, and what the dashboards and alerts are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytikv.cli import output
from pytikv.cli.failures import Failure
from pytikv.cli.options import JsonOption, add_command

if TYPE_CHECKING:
    from pytikv.monitoring.board import Board
    from pytikv.monitoring.kit import Kit

__all__ = ["register"]


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; made when it is not there.")],
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Where a program serves its metrics; several times. None: :9464."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Watch the servers of this cluster too: PD is asked for its stores."),
    ] = None,
    store: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT", help="Status address of a store to watch; several times.")
    ] = None,
    pd: Annotated[list[str] | None, typer.Option(metavar="HOST:PORT", help="A PD to watch; several times.")] = None,
    scrape_interval: Annotated[str, typer.Option(help="How often Prometheus reads the metrics.")] = "15s",
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there and differ.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write prometheus.yml, rules, dashboards, Grafana's provisioning and a compose file into DIR.

    Nothing that differs is replaced without --force; DIR/README.md says what to do next.
    """
    from pytikv.monitoring.kit import DEFAULT_CLIENT, Kit, files, write

    stores, pds = _servers(url) if url else ((), ())
    kit = Kit(
        tuple(target or (DEFAULT_CLIENT,)),
        (*stores, *(store or ())),
        (*pds, *(pd or ())),
        scrape_interval=scrape_interval,
    )
    made = files(kit)
    try:
        written = write(directory, made, force=force)
    except FileExistsError as error:
        raise Failure(str(error), advice="choose another directory, or give --force") from None
    if as_json:
        output.print_json({"directory": str(directory), "written": [str(path) for path in written]})
        return
    for path in written:
        output.line(str(path))
    _say_next(directory, len(made) - len(written), kit)


def _say_next(directory: Path, unchanged: int, kit: Kit) -> None:
    if unchanged:
        output.note(f"{unchanged} files were there already, with the same text")
    output.note(f"watched: {', '.join((*kit.clients, *kit.stores, *kit.pds))}")
    output.note(f"next: cd {directory} && docker compose up -d, then http://127.0.0.1:3000; README.md says more")


def _servers(url: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the status addresses of the stores, and PD's addresses, of a cluster."""
    from pytikv.cli.topology import find_stores
    from pytikv.url import parse_target

    target = parse_target(url)
    if target.scheme == "embedded":
        raise Failure("an embedded store has no servers to watch", advice="leave --url away")
    stores = tuple(found.status_address for found in find_stores(url) if found.status_address)
    return stores, tuple(target.endpoints)


def show(as_json: JsonOption = False) -> None:
    """List the panels of the dashboards with the metrics they read, and the alerts."""
    from pytikv.monitoring.client_board import CLIENT_BOARD
    from pytikv.monitoring.rules import ALERTS
    from pytikv.monitoring.server_board import SERVER_BOARD

    boards = (CLIENT_BOARD, SERVER_BOARD)
    panels = [record for board in boards for record in _panels(board)]
    alerts = [
        {"alert": alert.name, "severity": alert.severity, "for": alert.hold, "expr": alert.expr, "advice": alert.advice}
        for alert in ALERTS
    ]
    if as_json:
        for record in [*panels, *alerts]:
            output.print_json(record)
        return
    rows = [[record["dashboard"], record["panel"], " ".join(record["metrics"])] for record in panels]
    output.table(["dashboard", "panel", "metrics"], rows)
    output.table(["alert", "severity", "for"], [[alert["alert"], alert["severity"], alert["for"]] for alert in alerts])


def _panels(board: Board) -> list[dict[str, Any]]:
    from pytikv.monitoring.board import metric_names

    return [
        {
            "dashboard": board.uid,
            "row": row.title,
            "panel": panel.title,
            "description": panel.description,
            "metrics": sorted({name for query in panel.queries for name in metric_names(query.expr)}),
            "queries": [query.expr for query in panel.queries],
        }
        for row in board.rows
        for panel in row.panels
    ]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(no_args_is_help=True, help="Watch TiKV: dashboards, alerts, and the files to start with.")
    panel = "Operate"
    examples = [
        "pytikv monitoring init watch",
        "pytikv monitoring init watch --target app1:9464 --target app2:9464 --url tikv://127.0.0.1:2379",
    ]
    add_command(group, init, *examples, panel=panel)
    add_command(group, show, "pytikv monitoring show", "pytikv monitoring show --json", panel=panel)
    app.add_typer(group, name="monitoring", rich_help_panel=panel)
