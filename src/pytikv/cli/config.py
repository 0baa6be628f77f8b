"""`config`: the options of a client as they are for a URL, gathered from its query, the environment and the file."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytikv.cli import output
from pytikv.cli.options import DEFAULT_URL, JsonOption, UrlOption, add_command

if TYPE_CHECKING:
    from pytikv.settings.explain import Explained

__all__ = ["register"]


class Action(enum.StrEnum):
    """What to do with the options."""

    SHOW = "show"


def config(
    action: Annotated[
        Action | None, typer.Argument(help="show: explain each option: its source, meaning, what is allowed.")
    ] = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Show every option of a client: its value for this URL, and whether that is the default.

    Options come from the URL's query, then from PYTIKV_<OPTION> in the environment, then from the TOML file that
    ?config= or PYTIKV_CONFIG names. `show` tells for each which of them it was.
    """
    from pytikv.client.base import gathered_config
    from pytikv.settings.explain import explained

    target, gathered = gathered_config(url, {})
    options = explained(gathered.config, gathered.sources)
    if as_json:
        shown: dict[str, Any] = {one.name: one.value if action is None else _record(one) for one in options}
        output.print_json({"target": str(target), "options": shown})
    elif action is None:
        rows = [[one.name, _text(one.value), "" if one.is_default else "set"] for one in options]
        output.table(["option", "value", ""], rows, title=str(target))
    else:
        rows = [[one.name, _text(one.value), _source(one), one.allowed, one.meaning] for one in options]
        output.table(["option", "value", "source", "allowed", "meaning"], rows, title=str(target))


def _record(one: Explained) -> dict[str, Any]:
    record = dataclasses.asdict(one)
    del record["name"]
    return record


def _source(one: Explained) -> str:
    """Return where the value comes from; of a table, field by field where they differ."""
    if len(set(one.fields.values())) < 2:
        return one.source
    return ", ".join(f"{field}: {source}" for field, source in one.fields.items())


def _text(value: Any) -> str:
    return "none" if value is None or value in ("", [], {}) else str(value)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    examples = ["pytikv config --url 'tikv://pd1:2379?timeout=2'", "PYTIKV_CONFIG=pytikv.toml pytikv config show"]
    add_command(app, config, *examples, panel="Cluster")
