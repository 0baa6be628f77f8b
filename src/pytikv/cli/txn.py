r"""`txn`: a small program of operations, in one transaction.

The operations are words: a verb and what it takes, one after the other, as in ``get a put b 2 delete c``. `-` reads
them from standard input, one or more a line, with quotes as in a shell. Keys and values are written escaped
(`transfer.escape`). Everything is run again when the commit meets a conflict; results are printed when it has
succeeded, so what was printed was read in the transaction that committed.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytikv.cli import output
from pytikv.cli.failures import FAILED, USAGE, Failure
from pytikv.cli.options import DEFAULT_URL, JsonOption, RawOption, UrlOption, add_command
from pytikv.cli.session import transaction_client
from pytikv.transfer.escape import unescape

if TYPE_CHECKING:
    from pytikv import Snapshot, Transaction

__all__ = ["register"]

_SCAN_LIMIT = 100
Record = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class _Verb:
    """One kind of operation: how many words it takes, and what it does."""

    arguments: tuple[str, ...]
    run: Callable[..., list[Record]]
    writes: bool = False


def _get(txn: Transaction | Snapshot, key: bytes) -> list[Record]:
    return [output.pair_record(key, txn.get(key))]


def _scan(txn: Transaction | Snapshot, prefix: bytes) -> list[Record]:
    pairs = txn.scan_prefix(prefix) if prefix else txn.scan()
    return [output.pair_record(key, value) for key, value in islice(pairs, _SCAN_LIMIT)]


def _put(txn: Transaction, key: bytes, value: bytes) -> list[Record]:
    txn.put(key, value)
    return []


def _insert(txn: Transaction, key: bytes, value: bytes) -> list[Record]:
    txn.insert(key, value)
    return []


def _delete(txn: Transaction, key: bytes) -> list[Record]:
    txn.delete(key)
    return []


def _lock(txn: Transaction, key: bytes) -> list[Record]:
    return [output.pair_record(key, txn.get_for_update(key))]


_VERBS = {
    "get": _Verb(("KEY",), _get),
    "scan": _Verb(("PREFIX",), _scan),
    "put": _Verb(("KEY", "VALUE"), _put, writes=True),
    "insert": _Verb(("KEY", "VALUE"), _insert, writes=True),
    "delete": _Verb(("KEY",), _delete, writes=True),
    "lock": _Verb(("KEY",), _lock, writes=True),
}
_Operation = tuple[_Verb, list[bytes]]


def txn(
    operations: Annotated[
        list[str],
        typer.Argument(
            metavar="OPERATION...",
            help="get KEY, scan PREFIX, put KEY VALUE, insert KEY VALUE, delete KEY, lock KEY; - reads standard input.",
            show_default=False,
        ),
    ],
    pessimistic: Annotated[bool, typer.Option("--pessimistic", help="Lock at once what is written.")] = False,
    attempts: Annotated[int, typer.Option(min=1, help="How often to try when others are in the way.")] = 10,
    at: Annotated[
        int | None, typer.Option(help="Read at this timestamp, without a transaction.", show_default=False)
    ] = None,
    raw: RawOption = False,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Read and write in one transaction: all of it or nothing.

    Keys and values are escaped. `insert` fails where the key exists; `lock` reads the value and keeps others from
    changing it until the end; `scan` shows the first 100 pairs of a prefix ('' is everything). Exit code 1 when a key
    that was asked for is not there.
    """
    program = _parse(_words(operations))
    end: dict[str, Any]
    if at is not None and any(verb.writes for verb, _ in program):
        raise Failure("--at reads the past: only get and scan can be used with it", code=USAGE)
    with transaction_client(url) as client:
        if at is not None:
            snapshot = client.snapshot(at)
            records, end = _run(snapshot, program), {"ts": at}
        else:
            done: list[Transaction] = []

            def work(transaction: Transaction) -> list[Record]:
                done[:] = [transaction]
                return _run(transaction, program)

            records = client.run(work, attempts=attempts, pessimistic=pessimistic)
            end = {"start_ts": done[0].start_ts, "commit_ts": done[0].commit_ts}
    _show(records, end, raw=raw, as_json=as_json)
    if any(record["value"] is None for record in records):
        raise typer.Exit(FAILED)


def _words(arguments: list[str]) -> Iterator[str]:
    for word in arguments:
        if word != "-":
            yield word
            continue
        for line in sys.stdin:
            # A shell's quotes, but its backslashes are ours: they are what escapes are written with.
            lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
            lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", "#"
            yield from lexer


def _parse(words: Iterable[str]) -> list[_Operation]:
    program: list[_Operation] = []
    waiting = iter(words)
    for name in waiting:
        verb = _VERBS.get(name)
        if verb is None:
            raise Failure(f"{name!r} is no operation: {', '.join(_VERBS)}", code=USAGE)
        arguments = list(islice(waiting, len(verb.arguments)))
        if len(arguments) < len(verb.arguments):
            raise Failure(f"{name} takes {' and '.join(verb.arguments)}", code=USAGE)
        program.append((verb, [unescape(argument) for argument in arguments]))
    if not program:
        raise Failure(f"no operation is given: {', '.join(_VERBS)}", code=USAGE)
    return program


def _run(reader: Transaction | Snapshot, program: list[_Operation]) -> list[Record]:
    return [record for verb, arguments in program for record in verb.run(reader, *arguments)]


def _show(records: list[Record], end: dict[str, Any], *, raw: bool, as_json: bool) -> None:
    if as_json:
        for record in records:
            output.print_json(record)
        output.print_json(end)
        return
    for record in records:
        if record["value"] is None:
            output.note(f"not found: {record['key']}")
        else:
            value = output.value_text(unescape(record["value"]), raw=True) if raw else record["value"]
            output.line(f"{record['key']}\t{value}")
    if end.get("commit_ts") is not None:
        output.note(f"committed at {end['commit_ts']}")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    examples = [
        "pytikv txn put account_a 70 put account_b 50",
        "pytikv txn --pessimistic lock account_a put account_a 60",
        "pytikv txn get account_a scan account_ --json",
    ]
    add_command(app, txn, *examples, panel="Transactions")
