"""Writing a stream of rows into a store: batches, several at once, and a truthful account of what was acknowledged.

Rows are numbered from 1 in the order of the input, bad ones too. The loader fills batches and hands them to a few
worker threads; at most `2 * jobs` batches are on their way. Rows of one key are written in the order of the input: a
batch that shares a key with one still on its way waits for it. `acknowledged` is the number of the row up to which
*every* row was written or reported as bad: what comes before never needs to be sent again, and `--skip acknowledged`
resumes. A row beyond it may have been written too; writing it again changes nothing.

What ends a load early: a bad row (policy ``stop``), more bad rows than `max_bad`, an error of the store, or Ctrl-C. In
each case no further batch is sent, those on their way are waited for, and the account is returned, not raised. A second
Ctrl-C stops waiting.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from pytikv.errors import BatchError, InvalidArgument, TikvError
from pytikv.transfer.readers import BadRow, Row

__all__ = ["LoadOptions", "LoadReport", "Loader"]

BadRows = list[BadRow]
PutBatch = Callable[[Mapping[bytes, bytes]], None]


@dataclasses.dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load.

    `batch_rows` and `batch_bytes` bound one batch, `jobs` is the number of worker threads. `skip` rows are passed over.
    `stop_on_bad_row` ends the load at the first bad row, else up to `max_bad` of them are reported and passed over.
    """

    batch_rows: int = 1000
    batch_bytes: int = 1 << 20
    jobs: int = 4
    skip: int = 0
    stop_on_bad_row: bool = True
    max_bad: int = 1000


@dataclasses.dataclass(slots=True)
class LoadReport:
    """What a load did. `rows` were written (`keys` of them distinct within their batch), `skipped` passed over."""

    rows: int = 0
    payload_bytes: int = 0
    skipped: int = 0
    acknowledged: int = 0
    bad: BadRows = dataclasses.field(default_factory=BadRows)
    seconds: float = 0.0
    interrupted: bool = False
    too_many_bad: bool = False
    error: TikvError | None = None

    @property
    def complete(self) -> bool:
        """Whether every row of the input was written or, with bad rows let pass, reported."""
        return not self.interrupted and not self.too_many_bad and self.error is None

    @property
    def rows_per_second(self) -> float:
        """Rows written a second."""
        return self.rows / self.seconds if self.seconds else 0.0


@dataclasses.dataclass(slots=True)
class _Batch:
    """Rows on their way, `last` the number of the last row that it accounts for."""

    pairs: dict[bytes, bytes]
    lines: dict[bytes, int]
    rows: int
    payload_bytes: int
    last: int
    future: Future[BadRows] | None = None


class Loader:
    """One load. `put_batch` writes a batch and is called from several threads; `progress(rows)` from the caller's."""

    def __init__(
        self,
        put_batch: PutBatch,
        options: LoadOptions | None = None,
        *,
        progress: Callable[[LoadReport], None] | None = None,
    ) -> None:
        self._put_batch = put_batch
        self._options = options or LoadOptions()
        self._progress = progress or (lambda report: None)
        self._report = LoadReport()
        self._pending: deque[_Batch] = deque()
        self._stop = _StopSign()
        self._halted = False  # no further batch is sent
        self._gap = False  # a batch failed: nothing behind it is acknowledged

    def run(self, rows: Iterable[Row | BadRow]) -> LoadReport:
        """Write all rows; returns the account, also after Ctrl-C or an error of the store."""
        started = time.perf_counter()
        with self._stop.listening():
            pool = ThreadPoolExecutor(self._options.jobs, thread_name_prefix="pytikv-load")
            try:
                self._send_all(rows, pool)
                self._drain()
            except KeyboardInterrupt:
                self._report.interrupted = True
            finally:
                pool.shutdown(wait=not self._stop.urgent, cancel_futures=True)
            self._settle()
        report = self._report
        report.seconds = time.perf_counter() - started
        report.bad.sort()
        self._progress(report)
        return report

    # --- sending ------------------------------------------------------------------------------------------------------

    def _send_all(self, rows: Iterable[Row | BadRow], pool: ThreadPoolExecutor) -> None:
        batches = self._batches(iter(rows))
        while True:
            try:
                with self._stop.interruptible():
                    batch = next(batches, None)
            except KeyboardInterrupt:
                batch = None
            if batch is None or self._ended():
                self._report.interrupted = self._stop.seen
                return
            self._wait_for_room(batch)
            if self._ended():
                return
            batch.future = pool.submit(self._write, batch)
            self._pending.append(batch)

    def _batches(self, rows: Iterator[Row | BadRow]) -> Iterator[_Batch]:
        options, report = self._options, self._report
        passed = report.skipped = report.acknowledged = sum(1 for _ in itertools.islice(rows, options.skip))
        pairs: dict[bytes, bytes] = {}
        lines: dict[bytes, int] = {}
        count = size = 0
        for row in rows:
            if isinstance(row, BadRow):
                if self._note_bad(row):
                    break  # before it is counted: a resumed load meets it again
                passed += 1
                continue
            line, key, value = row
            pairs[key] = value
            lines[key] = line
            passed += 1
            count += 1
            size += len(key) + len(value)
            if count >= options.batch_rows or size >= options.batch_bytes:
                yield _Batch(pairs, lines, count, size, passed)
                pairs, lines, count, size = {}, {}, 0, 0
        yield _Batch(pairs, lines, count, size, passed)

    def _note_bad(self, row: BadRow) -> bool:
        """Account for a bad row; whether it ends the load."""
        self._report.bad.append(row)
        if self._options.stop_on_bad_row or len(self._report.bad) > self._options.max_bad:
            self._report.too_many_bad = True
        return self._report.too_many_bad

    def _write(self, batch: _Batch) -> BadRows:
        """Write one batch (in a worker); returns the rows that the store refuses for what they are."""
        if not batch.pairs:
            return []
        try:
            self._put_batch(batch.pairs)
        except BatchError as error:
            refused = {key: why for key, why in error.failed.items() if isinstance(why, InvalidArgument)}
            if len(refused) < len(error.failed):
                raise
            return [BadRow(batch.lines[key], str(why)) for key, why in refused.items()]
        except InvalidArgument:
            return self._write_one_by_one(batch)
        return []

    def _write_one_by_one(self, batch: _Batch) -> BadRows:
        """A batch was refused as a whole, nothing of it was sent: find the rows that are to blame."""
        bad: BadRows = []
        for key, value in batch.pairs.items():
            try:
                self._put_batch({key: value})
            except InvalidArgument as error:
                bad.append(BadRow(batch.lines[key], str(error)))
        return bad

    # --- accounting ---------------------------------------------------------------------------------------------------

    def _ended(self) -> bool:
        return self._stop.seen or self._halted

    def _wait_for_room(self, batch: _Batch) -> None:
        """Wait until a worker is free for `batch` and nothing on its way shares a key with it."""
        while not self._ended():
            self._settle()
            rivals = [b for b in self._pending if not b.lines.keys().isdisjoint(batch.pairs)]
            if not rivals and len(self._pending) < 2 * self._options.jobs:
                return
            self._wait_any(rivals or list(self._pending))

    def _drain(self) -> None:
        while self._pending and not self._stop.urgent:
            self._wait_any(list(self._pending))
            self._settle()
        if self._stop.seen:
            self._report.interrupted = True

    def _wait_any(self, batches: list[_Batch]) -> None:
        futures = [b.future for b in batches if b.future is not None and not b.future.done()]
        if len(futures) == len(batches):
            wait(futures, timeout=0.5, return_when=FIRST_COMPLETED)  # a limit, so that a second Ctrl-C is heeded

    def _settle(self) -> None:
        """Account for the batches that are done, from the front: what is behind a gap is not acknowledged."""
        while self._pending:
            future = self._pending[0].future
            if future is None or not future.done() or future.cancelled():
                return
            self._account(self._pending.popleft(), future)
            self._progress(self._report)

    def _account(self, batch: _Batch, future: Future[BadRows]) -> None:
        report = self._report
        error = future.exception()
        if error is not None:
            self._halted = self._gap = True
            if not isinstance(error, TikvError):
                raise error
            report.error = report.error or error
            return
        refused = future.result()
        report.rows += batch.rows - len(refused)
        report.payload_bytes += batch.payload_bytes
        for row in refused:
            self._halted |= self._note_bad(row)
        if not self._gap:
            report.acknowledged = batch.last


class _StopSign:
    """Ctrl-C as a flag while batches are being accounted for, as KeyboardInterrupt while input is being read."""

    def __init__(self) -> None:
        self.seen = False
        self.urgent = False
        self._reading = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to SIGINT and SIGTERM, where this thread may."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within the block the sign is raised as KeyboardInterrupt: the input may never give another byte."""
        if self.seen:
            raise KeyboardInterrupt
        self._reading = True
        try:
            yield
        finally:
            self._reading = False

    def _heard(self, number: int, frame: object) -> None:
        self.urgent = self.seen
        self.seen = True
        if self._reading or self.urgent:
            raise KeyboardInterrupt
