"""The options that all commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

__all__ = ["DEFAULT_URL", "JsonOption", "RawOption", "UrlOption", "add_command", "add_group"]

DEFAULT_URL = "tikv://127.0.0.1:2379"

UrlOption = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="PYTIKV_URL",
        help="Where the data is: tikv://HOST:PORT[,...], embedded:///PATH; options such as ?timeout=5 may follow.",
        show_default=True,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
RawOption = Annotated[bool, typer.Option("--raw", help="Values as they are, not escaped.")]


def add_command(
    app: typer.Typer, function: Callable[..., None], *examples: str, panel: str, name: str | None = None
) -> None:
    """Add a command to `app`: its help is the function's docstring, and ends in examples."""
    app.command(name, help=_help(function), epilog=_epilog(examples), rich_help_panel=panel)(function)


def add_group(
    app: typer.Typer, group: typer.Typer, function: Callable[..., None], *examples: str, panel: str, name: str
) -> None:
    """Add a group of commands to `app`; `function` is what it does by itself."""
    options = {"help": _help(function), "epilog": _epilog(examples), "invoke_without_command": True}
    group.callback(**options, rich_help_panel=panel)(function)  # type: ignore[arg-type]  # each is of its type
    app.add_typer(group, name=name, rich_help_panel=panel)


def _help(function: Callable[..., None]) -> str:
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs).replace("[", r"\[")


def _epilog(examples: Sequence[str]) -> str:
    return "\n\n".join(["[bold]Examples[/bold]", *(example.replace("[", r"\[") for example in examples)])
