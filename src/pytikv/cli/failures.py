"""How a command fails: one line on standard error with advice, and an exit code.

0 done; 1 not found, or the store refused or failed; 2 the command line or the configuration is wrong; 3 no way to the
data (connection, deadline, overload, region); 4 the write may or may not have taken effect; 130 interrupted; 141 the
reader of the output went away. With `--json` the line is a JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from pytikv import errors

__all__ = ["CONNECTION", "FAILED", "INTERRUPTED", "UNDETERMINED", "USAGE", "CommandGroup", "Failure", "fail"]

FAILED = 1
USAGE = 2
CONNECTION = 3
UNDETERMINED = 4
INTERRUPTED = 130
_PIPE_CLOSED = 141

_JSON = "pytikv.json"

_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (errors.InvalidArgument, USAGE),
    (errors.ConfigError, USAGE),
    (errors.ConnectionFailed, CONNECTION),
    (errors.DeadlineExceeded, CONNECTION),
    (errors.Overloaded, CONNECTION),
    (errors.RegionUnavailable, CONNECTION),
)

_ADVICE: tuple[tuple[type[BaseException], str], ...] = (
    (errors.ConnectionFailed, "start a server with `pytikv serve`, or name another one with --url or PYTIKV_URL"),
    (errors.DeadlineExceeded, "try again, or give it more time with ?timeout=SECONDS in the URL"),
    (errors.RegionUnavailable, "try again; `pytikv stores` shows which stores are up"),
    (errors.Overloaded, "try again later, or with fewer jobs"),
)


class Failure(Exception):
    """A command's own failure: the text for people, advice, the exit code."""

    def __init__(self, message: str, *, advice: str = "", code: int = FAILED) -> None:
        super().__init__(message)
        self.advice = advice
        self.code = code


def fail(error: BaseException, *, as_json: bool) -> int:
    """Print the one line about `error` and return the exit code."""
    message = " ".join(str(error).split()) or type(error).__name__
    advice = _advice(error)
    if as_json:
        line = json.dumps({"error": _describe(error, message, advice)})
    else:
        line = f"error: {message.rstrip('.')}" + (f"; {advice}" if advice else "")
    sys.stderr.write(line + "\n")
    return _code(error)


def _describe(error: BaseException, message: str, advice: str) -> dict[str, Any]:
    record: dict[str, Any] = {"code": getattr(error, "code", type(error).__name__), "message": message}
    if isinstance(error, Failure):
        record["code"] = "Failed"
    if isinstance(error, errors.TikvError):
        record |= {"outcome": error.outcome.value, "retryable": error.retryable}
    if advice:
        record["advice"] = advice
    return record


def _advice(error: BaseException) -> str:
    if isinstance(error, Failure):
        return error.advice
    if isinstance(error, errors.TikvError) and error.outcome is errors.Outcome.UNDETERMINED:
        return "the write may or may not have taken effect: read before acting"
    return next((advice for kind, advice in _ADVICE if isinstance(error, kind)), "")


def _code(error: BaseException) -> int:
    if isinstance(error, Failure):
        return error.code
    if isinstance(error, errors.TikvError) and error.outcome is errors.Outcome.UNDETERMINED:
        return UNDETERMINED
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


class CommandGroup(TyperGroup):
    """The group of commands; errors that people are meant to see end here, without a traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note whether JSON is asked for: an error may come before the command has parsed its options."""
        ctx.meta[_JSON] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn what it raises into a line and an exit code."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader went away, as with `| head`: say nothing, and let the flush at exit go nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(_PIPE_CLOSED) from None
        except (Failure, errors.TikvError, OSError) as error:
            raise typer.Exit(fail(error, as_json=ctx.meta[_JSON])) from None
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            raise typer.Exit(INTERRUPTED) from None
