"""Loading many rows into a table: from iterables, and from CSV and JSON lines files.

    report = load(db, flights, "flights.csv.zip", null="NA", checkpoint="flights.state")
    report.is_complete, report.rows, report.errors

Rows are taken in *waves* of `max_bytes` of what they write, entries included. The rows of a wave are sorted, divided
among `concurrency` transactions, and written at once; the next wave begins when all have an answer. So memory is
bounded by one wave, and of several rows with one key the last one stays. Rows that are new cost no reading: they are
inserted, and the store itself sees that they and their unique values are not there yet (`batch`). There is no faster
way into an empty table than that, and no less safe one: every row goes through a transaction, and the table may be in
use meanwhile. In an embedded store each of these transactions is one prewrite, which commits it.

*Acknowledged* is the number of rows of the source, from the first, that are all written or reported. With `checkpoint`
it is kept in a file after each wave: the same call goes on from there after a crash, and what it writes again is the
same. The file goes when the load is complete.

*Errors.* A row that does not fit its class, and one that the table refuses (UniqueViolation), is reported with its line
(in an iterable: its number, from 1) and passed over, up to `max_errors` of them; one more ends the load. So does an
error of the store. The report is returned, not raised: `is_complete` tells. Ctrl-C passes through, with the checkpoint
as of the last wave.

*Pre-split.* `split=n` reads the source once before, takes a sample of what its rows write, and splits the regions of
the table at as many borders, rows and each index in n parts, so that from the first wave on all stores have work.
Nothing is split in an embedded store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import random
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, overload

from pytikv.client.arguments import check_count
from pytikv.client.txn.blocking import TransactionClient
from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.errors import InvalidArgument, KeyExists, TikvError, WrongType
from pytikv.model.batch import AsyncBatchWriter
from pytikv.model.table import Table
from pytikv.model.text_rows import TextRows
from pytikv.transfer.checkpoint import Checkpoint
from pytikv.transfer.readers import BadRow, guess_format, open_source, read_lists, read_objects

__all__ = ["LoadReport", "Refused", "load"]

R = TypeVar("R")

_WAVE_BYTES: Final = 512 << 10  # larger ones keep the garbage collector busy with objects that all live
_CONCURRENCY: Final = 8
_SAMPLE: Final = 4096
_MAX_SPLIT: Final = 1024
_MORE, _ALL, _STOP = object(), object(), object()

Source = Iterable[Any] | str | Path
_REFUSALS: Final = (InvalidArgument, KeyExists)


class Refused(NamedTuple):
    """A row that was not written, and why. `line`: where it ends in its file; in an iterable its number, from 1."""

    line: int
    reason: str


@dataclasses.dataclass(slots=True)
class LoadReport:
    """What a load did. Grows while it goes on.

    rows: written. skipped: passed over, as an earlier run had done them. acknowledged: how many rows of the source,
    from the first, are done with. errors: the rows that were refused, in order. error: what ended the load early, of
    the store. done_bytes, size_bytes: how much of a file was read, and its size (None: not known).
    """

    rows: int = 0
    skipped: int = 0
    acknowledged: int = 0
    errors: list[Refused] = dataclasses.field(default_factory=list)
    error: TikvError | None = None
    is_complete: bool = False
    seconds: float = 0.0
    done_bytes: int = 0
    size_bytes: int | None = None

    @property
    def rows_per_second(self) -> float:
        """Rows written a second."""
        return self.rows / self.seconds if self.seconds else 0.0


OnLoad = Callable[[LoadReport], None]


@overload
def load(
    db: TransactionClient,
    table: Table[R],
    rows: Iterable[R] | Iterable[Mapping[str, Any]] | str | Path,
    *,
    format: str | None = None,
    delimiter: str = ",",
    columns: tuple[str, ...] | None = None,
    null: str = "",
    max_errors: int = 0,
    checkpoint: str | Path | None = None,
    split: int = 0,
    max_bytes: int = _WAVE_BYTES,
    concurrency: int = _CONCURRENCY,
    on_progress: OnLoad | None = None,
) -> LoadReport: ...
@overload
def load(
    db: AsyncTransactionClient,
    table: Table[R],
    rows: Iterable[R] | Iterable[Mapping[str, Any]] | str | Path,
    *,
    format: str | None = None,
    delimiter: str = ",",
    columns: tuple[str, ...] | None = None,
    null: str = "",
    max_errors: int = 0,
    checkpoint: str | Path | None = None,
    split: int = 0,
    max_bytes: int = _WAVE_BYTES,
    concurrency: int = _CONCURRENCY,
    on_progress: OnLoad | None = None,
) -> Coroutine[Any, Any, LoadReport]: ...
def load(
    db: Any,
    table: Table[Any],
    rows: Source,
    *,
    format: str | None = None,
    delimiter: str = ",",
    columns: tuple[str, ...] | None = None,
    null: str = "",
    max_errors: int = 0,
    checkpoint: str | Path | None = None,
    split: int = 0,
    max_bytes: int = _WAVE_BYTES,
    concurrency: int = _CONCURRENCY,
    on_progress: OnLoad | None = None,
) -> Any:
    """Write rows into a table, in the place of those with the same keys. See the module for what is guaranteed.

    rows: records, or mappings by field name, or the name of a file (`.csv`, `.jsonl`, also `.gz` or `.zip`; `-` is
    standard input). format: ``csv`` or ``jsonl``; None: by the file's name. delimiter, columns: of CSV; columns None:
    the first line names them. null: the text that stands for None in CSV. max_errors: refused rows to pass over.
    checkpoint: a file for the progress. split: parts to split rows and indexes into before; 0: none; the rows must be
    there to be read twice. max_bytes: of one wave. concurrency: transactions at once, 1 to 1024.

    Raises InvalidArgument where the columns of the file do not fit the class, OSError for a file that cannot be read.
    """
    check_count("max_errors", max_errors, low=0)
    check_count("split", split, low=0, high=_MAX_SPLIT)
    source = _source(table, rows, format=format, delimiter=delimiter, columns=columns, null=null)
    if split and isinstance(rows, Iterator):
        raise InvalidArgument("split reads the rows twice: give it a list or a file, not an iterator")
    options = {"max_bytes": max_bytes, "concurrency": concurrency}
    state = None if checkpoint is None else Checkpoint(Path(checkpoint), f"{source.name} into table {table.name!r}")
    loader = _Loader(db, table, source, max_errors, state, split, options, on_progress)
    return loader.run_blocking(db) if isinstance(db, TransactionClient) else loader.run()


# --- sources ----------------------------------------------------------------------------------------------------------

Numbered = tuple[int, Any]
"""A line and its record."""


class _Opened(NamedTuple):
    rows: Iterator[Numbered | BadRow]
    size_bytes: int | None
    position: Callable[[], int]


class _RowSource(NamedTuple):
    name: str
    open: Callable[[], contextlib.AbstractContextManager[_Opened]]


def _source(
    table: Table[Any],
    rows: Source,
    *,
    format: str | None,
    delimiter: str,
    columns: tuple[str, ...] | None,
    null: str,
) -> _RowSource:
    if not isinstance(rows, (str, Path)):
        if not isinstance(rows, Iterable):
            raise WrongType(f"rows are an iterable or the name of a file, not {type(rows).__name__}")
        return _RowSource("an iterable", lambda: contextlib.nullcontext(_iterated(table, rows)))
    name = str(rows)
    chosen = format or guess_format(name)
    if chosen not in ("csv", "jsonl"):
        raise InvalidArgument(f"format is csv or jsonl, not {chosen!r}")
    texts = TextRows(table.rows.records, null=null)

    @contextlib.contextmanager
    def opened() -> Iterator[_Opened]:
        source = open_source(name)
        try:
            if chosen == "csv":
                found, lists = read_lists(source.text, delimiter=delimiter, columns=columns)
                read: Iterator[Numbered | BadRow] = _converted(lists, texts.columns(found))
            else:
                read = _converted(read_objects(source.text), texts.from_json)
            yield _Opened(read, source.size_bytes, source.position)
        finally:
            source.close()

    return _RowSource(os.path.abspath(name) if name != "-" else name, opened)


def _iterated(table: Table[Any], rows: Iterable[Any]) -> _Opened:
    texts: list[TextRows[Any]] = []

    def converted(row: Any) -> Any:
        if not isinstance(row, Mapping):
            return row
        if not texts:
            texts.append(TextRows(table.rows.records))
        return texts[0].from_mapping(row)

    return _Opened(_converted(enumerate(rows, 1), converted), None, lambda: 0)


def _converted(rows: Iterable[Any], convert: Callable[[Any], Any]) -> Iterator[Numbered | BadRow]:
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        line, content = row
        try:
            yield line, convert(content)
        except InvalidArgument as error:
            yield BadRow(line, str(error))


# --- the load ---------------------------------------------------------------------------------------------------------


class _Loader:
    """One load: a wave is filled, and written, and so on. What is read is read between the calls of the client, so that
    a source may use the client itself."""

    def __init__(
        self,
        db: TransactionClient | AsyncTransactionClient,
        table: Table[Any],
        source: _RowSource,
        max_errors: int,
        state: Checkpoint | None,
        split: int,
        options: Mapping[str, int],
        on_progress: OnLoad | None,
    ) -> None:
        if not isinstance(db, (TransactionClient, AsyncTransactionClient)):
            raise WrongType(f"the first argument is a transaction client, not {type(db).__name__}")
        self._db = db._core if isinstance(db, TransactionClient) else db
        self._table = table
        self._source = source
        self._max_errors = max_errors
        self._state = state
        self._split = split
        self._on_progress = on_progress
        self._wave_bytes = check_count("max_bytes", options["max_bytes"])
        # Waves are cut here, so that each row's line is known when its error comes.
        self._writer = AsyncBatchWriter(
            self._db, max_items=None, max_bytes=1 << 62, concurrency=options["concurrency"], expect_new=True
        )
        self._lines: dict[Any, int] = {}
        self._passed = 0
        self._is_well = True
        self._began_s = self._db._backend.rt.now()
        self.report = LoadReport()

    def run_blocking(self, db: TransactionClient) -> LoadReport:
        """Load by a blocking client, in the calling thread."""
        done, borders = self._begin()
        if borders:
            db._rt.run(self._db.split(borders, scatter=True))
        with self._source.open() as opened:
            self._pass(opened, done)
            more = self._fill(opened)
            while db._rt.run(self._write(opened)) and more is _MORE:
                more = self._fill(opened)
        return self._end(more)

    async def run(self) -> LoadReport:
        """Load by an asynchronous client."""
        done, borders = self._begin()
        if borders:
            await self._db.split(borders, scatter=True)
        with self._source.open() as opened:
            self._pass(opened, done)
            more = self._fill(opened)
            while await self._write(opened) and more is _MORE:
                more = self._fill(opened)
        return self._end(more)

    def _begin(self) -> tuple[int, list[bytes]]:
        """Return how many rows an earlier run has done, and where regions are to be split."""
        done = 0 if self._state is None else self._state.load()
        if not self._split or done:
            return done, []
        with self._source.open() as opened:
            return done, _borders(self._table, _sample(opened.rows), self._split)

    def _pass(self, opened: _Opened, done: int) -> None:
        report = self.report
        report.size_bytes = opened.size_bytes
        self._passed = sum(1 for _ in itertools.islice(opened.rows, done))
        report.skipped = report.acknowledged = self._passed

    def _end(self, more: object) -> LoadReport:
        report = self.report
        report.is_complete = more is _ALL and self._is_well
        report.seconds = self._db._backend.rt.now() - self._began_s
        if self._state is not None:
            if report.is_complete:
                self._state.remove()
            else:
                self._state.save(report.acknowledged, now=True)
        return report

    def _fill(self, opened: _Opened) -> object:
        """Take rows until the wave is full. Returns whether there are more, or that was all, or the load ends here."""
        for row in opened.rows:
            if not self._take(row):
                return _STOP
            if self._writer.waiting_bytes >= self._wave_bytes:
                return _MORE
        return _ALL

    def _take(self, row: Numbered | BadRow) -> bool:
        """Add a row to the wave. False: that was one bad row too many, and it is not counted as passed."""
        line, record = row
        if not isinstance(row, BadRow):
            try:
                self._lines[self._writer.add(self._table, record)] = line
            except InvalidArgument as error:
                row = BadRow(line, str(error))
        if isinstance(row, BadRow) and not self._note(row.line, row.reason):
            return False
        self._passed += 1
        return True

    def _note(self, line: int, reason: str) -> bool:
        """Report a row. False: that is one too many."""
        self.report.errors.append(Refused(line, reason))
        return len(self.report.errors) <= self._max_errors

    async def _write(self, opened: _Opened) -> bool:
        """Write the wave. False: the load ends here."""
        report, result = self.report, await self._writer.flush()
        report.rows, report.seconds = result.written, self._db._backend.rt.now() - self._began_s
        report.done_bytes = opened.position()
        goes_on = True
        for item, error in sorted(result.errors.items(), key=lambda pair: self._lines[pair[0]]):
            if error.retryable or not isinstance(error, _REFUSALS):
                report.error = report.error or error
            else:
                goes_on = self._note(self._lines[item], str(error)) and goes_on
        report.errors.sort()
        result.errors.clear()
        result.unprocessed.clear()
        self._lines.clear()
        if report.error is not None or not goes_on:
            self._is_well = False
            return False
        report.acknowledged = self._passed
        if self._state is not None:
            self._state.save(report.acknowledged, now=True)
        if self._on_progress is not None:
            self._on_progress(report)
        return True


# --- pre-split --------------------------------------------------------------------------------------------------------


def _sample(rows: Iterator[Numbered | BadRow]) -> list[Any]:
    """Return some of the records, each with the same chance."""
    dice = random.Random(0)
    sample: list[Any] = []
    for number, row in enumerate(row for row in rows if not isinstance(row, BadRow)):
        if len(sample) < _SAMPLE:
            sample.append(row[1])
        elif (at := dice.randrange(number + 1)) < _SAMPLE:
            sample[at] = row[1]
    return sample


def _borders(table: Table[Any], sample: list[Any], parts: int) -> list[bytes]:
    """Return the borders that divide the rows of a sample, and the entries of each index, into equal parts."""
    by_head: dict[bytes, list[bytes]] = {low: [] for low, _ in table.rows.layout.everything()}
    heads = sorted(by_head, reverse=True)
    for record in sample:
        with contextlib.suppress(InvalidArgument):  # it will be reported when it is loaded
            row = table.rows.new_row(record)
            for key in table.rows.differ.put(None, row.record, row.encoded_key, row.key, row.entries).puts:
                by_head[next(head for head in heads if key >= head)].append(key)
    borders = set(by_head)
    for keys in by_head.values():
        keys.sort()
        borders.update(keys[len(keys) * part // parts] for part in range(1, parts) if keys)
    return sorted(borders)
