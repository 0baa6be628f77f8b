"""`get`, `put`, `delete`, `scan`: single keys and ranges. Keys and values are written escaped (`transfer.escape`)."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from pytikv.cli import output
from pytikv.cli.failures import FAILED, USAGE, Failure
from pytikv.cli.options import DEFAULT_URL, JsonOption, RawOption, UrlOption, add_command
from pytikv.cli.session import raw_client
from pytikv.transfer.escape import escape, unescape

__all__ = ["register"]

_KEY_HELP = r"Key, escaped: \xNN for a byte, \\ for a backslash."
_DEFAULT_LIMIT = 100
_DELETE_BATCH = 512


def get(
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help=_KEY_HELP, show_default=False)],
    raw: RawOption = False,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Print the value of a key, or of several. Exit code 1 when one is not there."""
    wanted = [unescape(key) for key in keys]
    with raw_client(url) as client:
        found = client.batch_get(wanted) if len(wanted) > 1 else _single(wanted[0], client.get(wanted[0]))
    missing = [key for key in wanted if key not in found]
    for key in wanted if as_json else found:
        _show_value(key, found.get(key), raw=raw, as_json=as_json, alone=len(wanted) == 1)
    if missing and not as_json:
        output.note("\n".join(f"not found: {escape(key)}" for key in missing))
    if missing:
        raise typer.Exit(FAILED)


def _single(key: bytes, value: bytes | None) -> dict[bytes, bytes]:
    return {} if value is None else {key: value}


def _show_value(key: bytes, value: bytes | None, *, raw: bool, as_json: bool, alone: bool) -> None:
    if as_json:
        output.print_json(output.pair_record(key, value))
    elif value is not None and raw and alone:
        output.write_raw(value)
    elif value is not None:
        text = output.value_text(value, raw=raw)
        output.line(text if alone else f"{escape(key)}\t{text}")


def put(
    key: Annotated[str, typer.Argument(help=_KEY_HELP, show_default=False)],
    value: Annotated[
        str | None, typer.Argument(help="Value, escaped; - reads standard input.", show_default=False)
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Take the value from a file, as it is.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Take the value as it is, not as escaped text.")] = False,
    ttl: Annotated[int | None, typer.Option(help="Seconds to live; none: for ever.", show_default=False)] = None,
    if_absent: Annotated[
        bool, typer.Option("--if-absent", help="Only when the key is not there, else exit 1.")
    ] = False,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Write a key."""
    name, data = unescape(key), _value(value, file, raw=raw)
    with raw_client(url) as client:
        previous = None
        if if_absent:
            previous = client.put_if_absent(name, data, ttl=ttl)
        else:
            client.put(name, data, ttl=ttl)
    if as_json:
        output.print_json({"key": escape(name), "written": previous is None})
    if previous is not None:
        if as_json:
            raise typer.Exit(FAILED)
        raise Failure(f"{escape(name)} exists", advice="leave out --if-absent to overwrite it")


def _value(value: str | None, file: Path | None, *, raw: bool) -> bytes:
    if (value is None) == (file is None):
        raise Failure("say what to write: VALUE, - for standard input, or --file", code=USAGE)
    if file is not None:
        return file.read_bytes()
    assert value is not None
    if value == "-":
        return sys.stdin.buffer.read()
    return value.encode("utf-8", "surrogateescape") if raw else unescape(value)


def delete(
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY...]", help=_KEY_HELP, show_default=False)] = None,
    prefix: Annotated[str | None, typer.Option(help="Delete all keys that begin so (escaped).")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting a prefix.")] = False,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Delete keys, or everything with a prefix. A key that is not there is no error."""
    if bool(keys) == (prefix is not None):
        raise Failure("say what to delete: keys, or --prefix", code=USAGE)
    wanted = [unescape(key) for key in keys or []]
    if prefix is not None and not yes:
        _confirm(prefix, url)
    with raw_client(url) as client:
        if prefix:
            client.delete_prefix(unescape(prefix))
        elif prefix is not None:
            client.delete_range(None, None)
        for start in range(0, len(wanted), _DELETE_BATCH):
            client.batch_delete(wanted[start : start + _DELETE_BATCH])
    if as_json:
        output.print_json({"prefix": prefix} if prefix is not None else {"keys": [escape(key) for key in wanted]})


def _confirm(prefix: str, url: str) -> None:
    if not sys.stdin.isatty():
        raise Failure("deleting a prefix needs --yes where nobody can be asked", code=USAGE)
    from pytikv.url import redacted

    what = f"all keys that begin with {prefix}" if prefix else "ALL keys"
    typer.confirm(f"Delete {what} from {redacted(url)}?", abort=True, err=True)


def scan(
    prefix: Annotated[str, typer.Argument(help="Keys that begin so (escaped); none: all.", show_default=False)] = "",
    start: Annotated[str | None, typer.Option(help="First key (escaped), instead of PREFIX.")] = None,
    end: Annotated[str | None, typer.Option(help="Key to stop before (escaped).")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Most pairs to print; 0: all.")] = _DEFAULT_LIMIT,
    reverse: Annotated[bool, typer.Option("--reverse", help="From the last key to the first.")] = False,
    keys_only: Annotated[bool, typer.Option("--keys-only", help="Keys without values.")] = False,
    raw: RawOption = False,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Print the pairs of a prefix or of a range [start, end) in the order of their keys."""
    if prefix and (start is not None or end is not None):
        raise Failure("give a PREFIX, or --start and --end", code=USAGE)
    ask = limit + 1 if limit else None  # one more than shown tells whether there is more
    with raw_client(url) as client:
        if prefix:
            pairs = client.scan_prefix(unescape(prefix), limit=ask, reverse=reverse, keys_only=keys_only)
        else:
            bounds = unescape(start or ""), unescape(end or "")
            pairs = client.scan(*bounds, limit=ask, reverse=reverse, keys_only=keys_only)
        for key, value in islice(pairs, limit or None):
            _show_pair(key, value, raw=raw, keys_only=keys_only, as_json=as_json)
        more = limit and next(iter(pairs), None) is not None
    if more:
        output.note(f"stopped after {limit} pairs; --limit 0 shows all")


def _show_pair(key: bytes, value: bytes, *, raw: bool, keys_only: bool, as_json: bool) -> None:
    if as_json:
        output.print_json({"key": escape(key)} if keys_only else output.pair_record(key, value))
    elif keys_only:
        output.line(escape(key))
    else:
        output.line(f"{escape(key)}\t{output.value_text(value, raw=raw)}")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    panel = "Data"
    add_command(app, get, "pytikv get user_1", r"pytikv get 'bin\x00key' --raw", panel=panel)
    add_command(app, put, "pytikv put user_1 Ada --ttl 60", "pytikv put picture --file me.png", panel=panel)
    add_command(app, delete, "pytikv delete user_1 user_2", "pytikv delete --prefix user_ --yes", panel=panel)
    add_command(app, scan, "pytikv scan user_ --limit 10", "pytikv scan --start a --end b --json", panel=panel)
