"""The options that all commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated

import typer

__all__ = ["DEFAULT_URL", "JsonOption", "RawOption", "UrlOption", "add_command"]

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
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    epilog = "\n\n".join(["[bold]Examples[/bold]", *(example.replace("[", r"\[") for example in examples)])
    app.command(name, help=text.replace("[", r"\["), epilog=epilog, rich_help_panel=panel)(function)
