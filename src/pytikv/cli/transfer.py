"""`import` and `export`: rows between files and the store."""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytikv.cli import output
from pytikv.cli.failures import FAILED, INTERRUPTED, USAGE, Failure, fail
from pytikv.cli.options import DEFAULT_URL, JsonOption, UrlOption, add_command
from pytikv.cli.session import raw_client
from pytikv.transfer.checkpoint import Checkpoint
from pytikv.transfer.dumper import dump
from pytikv.transfer.escape import unescape
from pytikv.transfer.loader import Loader, LoadOptions, LoadReport
from pytikv.transfer.readers import RowSource, Source, guess_format, open_source, read_rows

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["register"]

_BAD_SHOWN = 10
_SCAN_BATCH = 1024


class Format(enum.StrEnum):
    """File formats."""

    CSV = "csv"
    JSONL = "jsonl"


class Encoding(enum.StrEnum):
    """How bytes stand in a file."""

    TEXT = "text"
    ESCAPED = "escaped"
    HEX = "hex"
    BASE64 = "base64"


class OnBad(enum.StrEnum):
    """What to do about a row that cannot be used."""

    STOP = "stop"
    SKIP = "skip"


FormatOption = Annotated[
    Format | None, typer.Option("--format", help="Format of the file; none: from its name.", show_default=False)
]
DelimiterOption = Annotated[str, typer.Option(help="What separates the fields of a CSV file; \\t for a tab.")]


def import_(
    file: Annotated[str, typer.Argument(help="File (.csv, .jsonl, also .gz or .zip); - reads standard input.")],
    key: Annotated[str, typer.Option(help="Column of the key, or a template: 'flight/{carrier}/{flight:04}'.")] = "key",
    value: Annotated[str, typer.Option(help="Column of the value, or a template.")] = "value",
    value_json: Annotated[bool, typer.Option("--value-json", help="Value: the whole row as a JSON object.")] = False,
    format_: FormatOption = None,
    encoding: Annotated[
        Encoding | None,
        typer.Option(help="How keys and values are written; none: escaped for what export wrote, else text."),
    ] = None,
    columns: Annotated[str | None, typer.Option(help="Names of the columns of a CSV file without a header.")] = None,
    delimiter: DelimiterOption = ",",
    on_bad: Annotated[OnBad, typer.Option(help="At a bad row: stop, or report it and go on.")] = OnBad.STOP,
    max_bad: Annotated[int, typer.Option(min=0, help="Bad rows to let pass with --on-bad skip.")] = 1000,
    skip: Annotated[int, typer.Option(min=0, help="Rows to pass over: where an interrupted import resumes.")] = 0,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep progress in FILE; the same command resumes from it.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Batches on their way at once.")] = 4,
    batch_rows: Annotated[int, typer.Option(min=1, max=100_000, help="Rows in a batch.")] = 1000,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Write the rows of a CSV or JSON lines file into the store.

    Ctrl-C keeps what was acknowledged and says where to resume.
    """
    source = RowSource(
        format=format_ or guess_format(file),
        key=key,
        value=value,
        whole_row=value_json,
        encoding=encoding,
        delimiter=_delimiter(delimiter),
        columns=tuple(columns.split(",")) if columns else None,
    )
    checkpoint = Checkpoint(resume, os.path.abspath(file)) if resume else None
    if checkpoint is not None and skip == 0:
        skip = checkpoint.load()
    options = LoadOptions(
        batch_rows=batch_rows, jobs=jobs, skip=skip, stop_on_bad_row=on_bad is OnBad.STOP, max_bad=max_bad
    )
    report = _load(file, source, options, url, checkpoint)
    _finish(report, checkpoint, as_json=as_json)


def _delimiter(text: str) -> str:
    text = "\t" if text == "\\t" else text
    if len(text) != 1:
        raise Failure("--delimiter takes one character", code=USAGE)
    return text


def _load(file: str, source: RowSource, options: LoadOptions, url: str, checkpoint: Checkpoint | None) -> LoadReport:
    opened = open_source(file)
    try:
        rows = read_rows(opened.text, source)
        with raw_client(url) as client, output.progress(known=bool(opened.size_bytes)) as bar:
            task = bar.add_task(f"import {Path(file).name}", total=opened.size_bytes, detail="")

            def progress(report: LoadReport) -> None:
                _show_progress(bar, task, opened, report)
                if checkpoint is not None:
                    checkpoint.save(report.acknowledged)

            return Loader(client.batch_put, options, progress=progress).run(rows)
    finally:
        opened.close()


def _show_progress(bar: Progress, task: TaskID, opened: Source, report: LoadReport) -> None:
    bar.update(task, completed=opened.position(), detail=f"{report.rows:,} rows")


def _finish(report: LoadReport, checkpoint: Checkpoint | None, *, as_json: bool) -> None:
    """Print the account and leave with the right exit code."""
    if checkpoint is not None:
        if report.complete:
            checkpoint.remove()
        else:
            checkpoint.save(report.acknowledged, now=True)
    if as_json:
        output.print_json(_record(report))
    else:
        _describe(report, resumable=checkpoint is not None)
    if report.error is not None:
        raise typer.Exit(fail(report.error, as_json=as_json))
    if not report.complete:
        raise typer.Exit(INTERRUPTED if report.interrupted else FAILED)


def _record(report: LoadReport) -> dict[str, Any]:
    return {
        "rows": report.rows,
        "payload_bytes": report.payload_bytes,
        "skipped": report.skipped,
        "bad": [{"line": row.line, "reason": row.reason} for row in report.bad],
        "acknowledged": report.acknowledged,
        "complete": report.complete,
        "interrupted": report.interrupted,
        "seconds": round(report.seconds, 3),
        "rows_per_second": round(report.rows_per_second),
    }


def _describe(report: LoadReport, *, resumable: bool) -> None:
    for row in report.bad[:_BAD_SHOWN]:
        output.note(f"line {row.line}: {row.reason}")
    if len(report.bad) > _BAD_SHOWN:
        output.note(f"... and {len(report.bad) - _BAD_SHOWN} more bad rows")
    parts = [f"{report.rows:,} rows in {report.seconds:.1f} s ({report.rows_per_second:,.0f} a second)"]
    if report.bad:
        parts.append(f"{len(report.bad):,} bad rows")
    if report.skipped:
        parts.append(f"{report.skipped:,} passed over")
    output.line(", ".join(parts))
    if not report.complete:
        why = "interrupted" if report.interrupted else "stopped"
        how = "run the same command again" if resumable else f"run it again with --skip {report.acknowledged}"
        output.note(f"{why}: rows up to {report.acknowledged:,} are safely written; to resume, {how}")


def export(
    file: Annotated[str, typer.Argument(help="File (.csv, .jsonl, also .gz); - writes standard output.")],
    prefix: Annotated[str, typer.Option(help="Keys that begin so (escaped).")] = "",
    start: Annotated[str, typer.Option(help="First key (escaped).", show_default=False)] = "",
    end: Annotated[str, typer.Option(help="Key to stop before (escaped).", show_default=False)] = "",
    limit: Annotated[int, typer.Option(min=0, help="Most pairs to write; 0: all.")] = 0,
    format_: FormatOption = None,
    encoding: Annotated[Encoding, typer.Option(help="How keys and values are written.")] = Encoding.ESCAPED,
    delimiter: DelimiterOption = ",",
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Write the pairs of the store into a file, which appears when it is whole."""
    if prefix and (start or end):
        raise Failure("give a --prefix, or --start and --end", code=USAGE)
    form = format_ or (Format.CSV if file == "-" else guess_format(file))
    with raw_client(url) as client, output.progress(known=False) as bar:
        task = bar.add_task(f"export {Path(file).name}", total=None, detail="")
        pairs = (
            client.scan_prefix(unescape(prefix), limit=limit or None, batch_size=_SCAN_BATCH)
            if prefix
            else client.scan(unescape(start), unescape(end), limit=limit or None, batch_size=_SCAN_BATCH)
        )
        count = dump(
            pairs,
            file,
            format=form,
            encoding=encoding,
            delimiter=_delimiter(delimiter),
            progress=lambda count: bar.update(task, detail=f"{count:,} pairs"),
        )
    if as_json and file != "-":
        output.print_json({"pairs": count, "file": file})
    else:
        output.note(f"{count:,} pairs written to {'standard output' if file == '-' else file}")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    panel = "Files"
    examples = [
        "pytikv import airports.csv --key 'airport/{icao}' --value-json",
        "pytikv import flights.csv.zip --key 'flight/{carrier}/{flight:04}' --value-json --resume state",
        "zcat dump.jsonl.gz | pytikv import - --format jsonl --url embedded:///var/lib/app",
    ]
    add_command(app, import_, *examples, panel=panel, name="import")
    examples = ["pytikv export airports.jsonl --prefix airport/", "pytikv export all.csv.gz"]
    add_command(app, export, *examples, panel=panel)
