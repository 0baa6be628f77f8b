"""The options that all commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["DEFAULT_URL", "JsonOption", "RawOption", "UrlOption", "command_help"]

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


def command_help(*examples: str) -> str:
    """Return the end of a command's help: its examples."""
    return "\n\n".join(["[bold]Examples[/bold]", *(example.replace("[", r"\[") for example in examples)])
