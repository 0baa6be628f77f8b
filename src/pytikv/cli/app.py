"""The application: the group of all commands."""

from __future__ import annotations

from typing import Annotated

import typer

from pytikv._version import __version__
from pytikv.cli import bench, config, demo, doctor, gc, monitoring, mvcc, raw, serve, table, topology, transfer, txn
from pytikv.cli.failures import CommandGroup

__all__ = ["app"]

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pytikv {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """TiKV from Python: in the process, from a local server, or a real cluster, by one URL.

    Commands take --url (or PYTIKV_URL). Exit codes: 0 done, 1 not found or failed, 2 wrong usage, 3 no connection,
    4 a write whose outcome is unknown.
    """


for module in (demo, serve, bench, raw, txn, mvcc, gc, table, transfer, topology, doctor, monitoring, config):
    module.register(app)
