"""All rows of a table at one snapshot, into a file or a directory of files, JSON lines or CSV.

    report = export(db, users, "users.jsonl.gz")

The table's parts (`regions`) are read side by side, each into a file of its own in a working directory beside the
target, `.NAME.export`, with a page in memory each. A file's parts are then joined in order, and the target appears when
it is whole; a directory's become its files, `00000.jsonl` and on. Rows come by key (within a shard).

What ends an export leaves the working directory: the same call reads the parts that are missing, at the same timestamp,
and joins all. When garbage collection has passed that timestamp meanwhile (SnapshotTooOld), delete the directory to
begin anew. It goes when the export is done.

Standard output (``-``) is written row by row, and nothing is left to go on from.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import gzip
import io
import json
import shutil
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast, overload

from pytikv.client.arguments import check_count
from pytikv.client.by_region import run_bounded
from pytikv.client.txn.blocking import TransactionClient
from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.errors import InvalidArgument
from pytikv.model.drive import in_client
from pytikv.model.regions import TablePart, part_pages, table_parts
from pytikv.model.table import Table
from pytikv.model.text_rows import TextRows
from pytikv.transfer.dumper import replace_atomically
from pytikv.transfer.readers import guess_format

__all__ = ["ExportReport", "export"]

R = TypeVar("R")

_CONCURRENCY: Final = 4
_MANIFEST: Final = "manifest.json"


@dataclasses.dataclass(slots=True)
class ExportReport:
    """What an export did. Grows while it goes on.

    rows: in the target. ts: the timestamp they are of. parts, done_parts: how many there are, and are finished, those
    of an earlier run included. files: where the rows are; empty for standard output.
    """

    ts: int
    parts: int
    done_parts: int = 0
    rows: int = 0
    files: list[Path] = dataclasses.field(default_factory=list)


OnExport = Callable[[ExportReport], None]


@overload
def export(
    db: TransactionClient,
    table: Table[Any],
    target: str | Path,
    *,
    format: str | None = None,
    delimiter: str = ",",
    null: str = "",
    ts: int | None = None,
    concurrency: int = _CONCURRENCY,
    on_progress: OnExport | None = None,
) -> ExportReport: ...
@overload
def export(
    db: AsyncTransactionClient,
    table: Table[Any],
    target: str | Path,
    *,
    format: str | None = None,
    delimiter: str = ",",
    null: str = "",
    ts: int | None = None,
    concurrency: int = _CONCURRENCY,
    on_progress: OnExport | None = None,
) -> Coroutine[Any, Any, ExportReport]: ...
def export(
    db: Any,
    table: Table[Any],
    target: str | Path,
    *,
    format: str | None = None,
    delimiter: str = ",",
    null: str = "",
    ts: int | None = None,
    concurrency: int = _CONCURRENCY,
    on_progress: OnExport | None = None,
) -> Any:
    """Write all rows of a table as of one timestamp.

    target: a file (gzip where it ends in `.gz`), `-` for standard output, or a directory that is there already (then
    give `format`): several files. format: ``csv`` or ``jsonl``; None: by the target's name. null: the text for None in
    CSV. ts: as of when; None: the present. concurrency: parts read at once, 1 to 64.

    Raises OSError, SnapshotTooOld; InvalidArgument for a target that an unfinished export of something else holds.
    """
    check_count("concurrency", concurrency, low=1, high=64)
    name = str(target)
    chosen = format or ("jsonl" if name == "-" else guess_format(name))
    if chosen not in ("csv", "jsonl"):
        raise InvalidArgument(f"format is csv or jsonl, not {chosen!r}")
    form = _Form(TextRows(table.rows.records, null=null), chosen, delimiter)
    if name == "-":
        return in_client(db, _to_stdout, table, form, ts, on_progress)
    return in_client(db, _to_files, table, form, Path(target), Path(target).is_dir(), ts, concurrency, on_progress)


class _Form:
    """How rows become lines."""

    def __init__(self, texts: TextRows[Any], format: str, delimiter: str) -> None:
        self.format = format
        self._texts = texts
        self._writer = functools.partial(csv.writer, delimiter=delimiter, lineterminator="\n")

    def head(self) -> bytes:
        """Return what a file begins with."""
        return b"" if self.format == "jsonl" else self._lists([list(self._texts.fields)])

    def lines(self, rows: list[Any]) -> bytes:
        """Return the lines of rows."""
        if self.format == "jsonl":
            return b"".join([self._texts.to_json(row) + b"\n" for row in rows])
        return self._lists([self._texts.to_texts(row) for row in rows])

    def _lists(self, rows: list[list[str]]) -> bytes:
        text = io.StringIO()
        self._writer(text).writerows(rows)
        return text.getvalue().encode("utf-8", "surrogateescape")


async def _to_stdout(
    db: AsyncTransactionClient, table: Table[Any], form: _Form, ts: int | None, on_progress: OnExport | None
) -> ExportReport:
    parts = await table_parts(db, table, ts)
    report = ExportReport(parts[0].ts, len(parts))
    out = sys.stdout.buffer
    sys.stdout.flush()
    out.write(form.head())
    for part in parts:
        pages = part_pages(db, table, part)
        while rows := await pages.next_page():
            out.write(form.lines(rows))
            report.rows += len(rows)
            if on_progress is not None:
                on_progress(report)
        report.done_parts += 1
    out.flush()
    return report


# --- files ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class _Work:
    """An export's working directory: its manifest, and a file for each part, whole once it is there."""

    path: Path
    parts: list[TablePart]
    form: _Form
    is_packed: bool

    def file(self, number: int) -> Path:
        """Return the file of a part."""
        return self.path / f"{number:05}.{self.form.format}{'.gz' if self.is_packed else ''}"


async def _to_files(
    db: AsyncTransactionClient,
    table: Table[Any],
    form: _Form,
    target: Path,
    is_directory: bool,
    ts: int | None,
    concurrency: int,
    on_progress: OnExport | None,
) -> ExportReport:
    work = await _open_work(db, table, form, target, ts)
    report = ExportReport(work.parts[0].ts, len(work.parts))
    counts: dict[int, int] = _read_manifest(work.path)["rows"]
    report.rows, report.done_parts = sum(counts.values()), len(counts)

    async def one(number: int) -> None:
        rows = await _write_part(db, table, work, number, lambda count: _tell(report, count, on_progress))
        counts[number] = rows
        report.done_parts += 1
        _write_manifest(work.path, table, form, work.parts, counts)

    missing = [number for number in range(len(work.parts)) if number not in counts]
    if missing:
        await run_bounded(db._backend.rt, [functools.partial(one, number) for number in missing], concurrency)
    report.files = _publish(work, target) if is_directory else [_join(work, target)]
    shutil.rmtree(work.path)
    return report


def _tell(report: ExportReport, count: int, on_progress: OnExport | None) -> None:
    report.rows += count
    if on_progress is not None:
        on_progress(report)


async def _open_work(db: AsyncTransactionClient, table: Table[Any], form: _Form, target: Path, ts: int | None) -> _Work:
    """Return the working directory of an export, as an earlier run left it or new."""
    path = target.with_name(f".{target.name}.export")
    is_packed = target.name.lower().endswith(".gz")
    if (path / _MANIFEST).is_file():
        held = _read_manifest(path)
        work = _Work(path, held["parts"], form, is_packed)
        first = work.parts[0]
        same = (first.table, first.fingerprint, held["format"]) == (table.name, table.schema.fingerprint, form.format)
        if not same or (ts is not None and ts != first.ts):
            raise InvalidArgument(f"{path} is an unfinished export of something else: delete it, or finish that")
        return work
    work = _Work(path, await table_parts(db, table, ts), form, is_packed)
    path.mkdir(exist_ok=True)
    _write_manifest(path, table, form, work.parts, {})
    return work


def _write_manifest(path: Path, table: Table[Any], form: _Form, parts: list[TablePart], counts: dict[int, int]) -> None:
    borders = [[part.head.hex(), part.start.hex(), part.end.hex()] for part in parts]
    state = {
        "table": table.name,
        "fingerprint": table.schema.fingerprint,
        "format": form.format,
        "ts": parts[0].ts,
        "parts": borders,
        "rows": counts,
    }
    with replace_atomically(path / _MANIFEST) as out:
        out.write(json.dumps(state).encode())


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        held = json.loads((path / _MANIFEST).read_bytes())
        held["rows"] = {int(number): int(count) for number, count in held["rows"].items()}
        held["parts"] = [
            TablePart(held["table"], held["fingerprint"], held["ts"], *map(bytes.fromhex, borders))
            for borders in held["parts"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(f"{path / _MANIFEST} is no export's: {error}") from None
    return cast("dict[str, Any]", held)


async def _write_part(
    db: AsyncTransactionClient, table: Table[Any], work: _Work, number: int, tell: Callable[[int], None]
) -> int:
    """Read a part into its file; returns how many rows it has."""
    pages = part_pages(db, table, work.parts[number])
    count = 0
    with replace_atomically(work.file(number)) as raw:
        out: BinaryIO = gzip.GzipFile(fileobj=raw, mode="wb") if work.is_packed else raw  # type: ignore[assignment]
        while rows := await pages.next_page():
            out.write(work.form.lines(rows))
            count += len(rows)
            tell(len(rows))
        if work.is_packed:
            out.close()
    return count


def _join(work: _Work, target: Path) -> Path:
    """Make the target of all parts."""
    with replace_atomically(target) as out:
        head = work.form.head()
        out.write(gzip.compress(head) if work.is_packed else head)
        for number in range(len(work.parts)):
            with work.file(number).open("rb") as part:
                shutil.copyfileobj(part, out, 1 << 20)
    return target


def _publish(work: _Work, target: Path) -> list[Path]:
    """Move the parts into a directory, each whole by itself."""
    files = []
    for number in range(len(work.parts)):
        source = work.file(number)
        place = target / source.name
        with replace_atomically(place) as out, source.open("rb") as part:
            out.write(work.form.head())
            shutil.copyfileobj(part, out, 1 << 20)
        files.append(place)
    return files
