"""The `pytikv` command: each module parses one family of commands, calls the library and renders what comes back.

This package needs the extra ``cli`` (typer, rich); `main` says so in one line where it is missing. Modules of the
library are imported inside the commands, so that `pytikv --help` is quick. Exit codes are those of `failures`.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

_EXTRA = {"typer", "rich", "click", "shellingham", "annotated_doc"}


def main() -> None:
    """Run the command."""
    try:
        from pytikv.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(f'error: the command line needs {error.name}: pip install "pytikv[cli]"\n')
        raise SystemExit(2) from None
    app(prog_name="pytikv")
