"""`config`: the options of a client as they are for a URL, gathered from its query, the environment and the file."""

from __future__ import annotations

import dataclasses
from typing import Any

import typer

from pytikv.cli import output
from pytikv.cli.options import DEFAULT_URL, JsonOption, UrlOption, add_command

__all__ = ["register"]


def config(url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Show every option of a client: its value for this URL, and whether that is the default.

    Options come from the URL's query, then from PYTIKV_<OPTION> in the environment, then from the TOML file that
    ?config= or PYTIKV_CONFIG names.
    """
    from pytikv.config import ClientConfig, load_config
    from pytikv.url import parse_target

    target = parse_target(url)
    settings = load_config({}, target.query)
    if target.keyspace is not None:
        settings = settings.replace(keyspace=target.keyspace)
    values = {field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(ClientConfig)}
    if as_json:
        output.print_json({"target": str(target), "options": values})
        return
    rows = [
        [field.name, _text(values[field.name]), "" if getattr(settings, field.name) == field.default else "set"]
        for field in dataclasses.fields(ClientConfig)
    ]
    output.table(["option", "value", ""], rows, title=str(target))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _text(value: Any) -> str:
    return "none" if value is None or value in ("", ()) else str(value)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, config, "pytikv config --url 'tikv://pd1:2379?timeout=2'", panel="Cluster")
