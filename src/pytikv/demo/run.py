"""The demonstration itself: load, then get, batch get, scan and put with their latencies, then read everything back,
and at last seats sold on some of the flights, by transactions (`demo.seats`).

Whatever is read is compared with the source, pair by pair; a difference is counted and its key kept. The rows live
under `pytikv-demo/` and stay in the store; keys that the put stage wrote are deleted again. Each stage ends after its
number of operations or `STAGE_SECONDS`, whichever is first: a slow store makes the run less exact, not endless.
"""

from __future__ import annotations

import bisect
import dataclasses
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Protocol

from pytikv.demo import dataset
from pytikv.demo.latency import Latencies
from pytikv.demo.seats import Sale, SaleReport, sell
from pytikv.transfer.loader import Loader, LoadOptions, LoadReport
from pytikv.transfer.readers import Row

if TYPE_CHECKING:
    from pytikv import RawClient, TransactionClient

__all__ = ["BATCH_KEYS", "STAGE_SECONDS", "Demo", "DemoReport", "Listener", "Plan"]

BATCH_KEYS = 100
STAGE_SECONDS = 6.0
_PUT_PREFIX = dataset.PREFIX + b"put/"
_DAY_PREFIX_BYTES = len(dataset.FLIGHT_PREFIX + b"UA/2013-07-04/")


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How much to do. `rows` limits each table (None: all); the other numbers are operations."""

    rows: int | None = None
    gets: int = 10_000
    batch_gets: int = 300
    scans: int = 300
    puts: int = 2_000
    buyers: int = 64
    flights_on_sale: int = 8
    seats: int = 40
    jobs: int = 4
    seed: int = 2013


class Listener(Protocol):
    """Who is told how far the demonstration is."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage begins; `total` steps are to come where that is known."""

    def step(self, done: int) -> None:
        """So many steps of the stage are done."""


@dataclasses.dataclass(slots=True)
class DemoReport:
    """What was done and seen."""

    rows: dict[str, int] = dataclasses.field(default_factory=dict)
    load: LoadReport = dataclasses.field(default_factory=LoadReport)
    operations: dict[str, Latencies] = dataclasses.field(default_factory=dict)
    compared: int = 0
    mismatches: list[bytes] = dataclasses.field(default_factory=list)
    flights_by_carrier: Counter[str] = dataclasses.field(default_factory=Counter)
    scan_rows_per_second: float = 0.0
    sales: list[SaleReport] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether everything was written, everything read is what was written, and the books of the sales are right."""
        return not self.mismatches and self.load.complete and all(sale.ok for sale in self.sales)


class Demo:
    """One run against the blocking clients of one store."""

    def __init__(self, client: RawClient, db: TransactionClient, plan: Plan, listener: Listener) -> None:
        self._client = client
        self._db = db
        self._plan = plan
        self._listener = listener
        self._random = random.Random(plan.seed)
        self._source: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self.report = DemoReport()

    def run(self) -> DemoReport:
        """Do it all. Errors of the store are raised; differences are in the report."""
        started = time.perf_counter()
        # What an earlier version or an interrupted run left behind is not in the source.
        self._client.delete_prefix(dataset.PREFIX)
        self._load()
        if self.report.load.complete:
            self._keys = sorted(self._source)
            self._point_gets()
            self._batch_gets()
            self._scans()
            self._puts()
            self._read_everything()
            self._sell_seats()
        self.report.seconds = time.perf_counter() - started
        return self.report

    # --- loading ------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        tables = (dataset.AIRPORTS, dataset.FLIGHTS)
        self._listener.stage("load", sum(min(data.about_rows, self._plan.rows or data.about_rows) for data in tables))
        rows = chain.from_iterable(self._rows(data) for data in tables)
        loader = Loader(
            self._client.batch_put,
            LoadOptions(jobs=self._plan.jobs),
            progress=lambda report: self._listener.step(report.rows),
        )
        self.report.load = loader.run(rows)
        if self.report.load.error is not None:
            raise self.report.load.error
        if self.report.load.interrupted:
            raise KeyboardInterrupt

    def _rows(self, data: dataset.DataSet) -> Iterator[Row]:
        before = len(self._source)
        for row in islice(dataset.read(data), self._plan.rows):
            self._source[row.key] = row.value
            yield row
        self.report.rows[data.name] = len(self._source) - before

    # --- measured stages ----------------------------------------------------------------------------------------------

    def _timed(self, name: str, total: int) -> Iterator[tuple[int, Latencies]]:
        """Yield the numbers of a stage's operations until they or the time are used up."""
        self._listener.stage(name, total)
        latencies = self.report.operations[name] = Latencies()
        end = time.perf_counter() + STAGE_SECONDS
        for number in range(total):
            yield number, latencies
            if number % 64 == 0:
                self._listener.step(number)
                if time.perf_counter() > end:
                    break

    def _point_gets(self) -> None:
        for _, latencies in self._timed("get", self._plan.gets):
            key = self._random.choice(self._keys)
            self._compare(key, latencies.measure(self._client.get, key))

    def _batch_gets(self) -> None:
        size = min(BATCH_KEYS, len(self._keys))
        for _, latencies in self._timed("batch_get", self._plan.batch_gets):
            keys = self._random.sample(self._keys, size)
            found = latencies.measure(self._client.batch_get, keys)
            for key in keys:
                self._compare(key, found.get(key))

    def _scans(self) -> None:
        for _, latencies in self._timed("scan_prefix", self._plan.scans):
            prefix = self._random.choice(self._keys)[:_DAY_PREFIX_BYTES]
            found = latencies.measure(self._scan, prefix)
            self._compare_range(found, self._expected(prefix))

    def _scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        return list(self._client.scan_prefix(prefix))

    def _expected(self, prefix: bytes) -> list[bytes]:
        start = bisect.bisect_left(self._keys, prefix)
        end = bisect.bisect_left(self._keys, prefix + b"\xff", start)  # all keys of the data are ASCII
        return self._keys[start:end]

    def _puts(self) -> None:
        written: dict[bytes, bytes] = {}
        for number, latencies in self._timed("put", self._plan.puts):
            key, value = _PUT_PREFIX + b"%08d" % number, self._random.randbytes(100)
            latencies.measure(self._client.put, key, value)
            written[key] = value
        found = dict(self._client.scan_prefix(_PUT_PREFIX))
        self.report.compared += len(written)
        self.report.mismatches += [key for key in written.keys() | found.keys() if written.get(key) != found.get(key)]
        self._client.delete_prefix(_PUT_PREFIX)

    # --- comparing ----------------------------------------------------------------------------------------------------

    def _compare(self, key: bytes, value: bytes | None) -> None:
        self.report.compared += 1
        if value != self._source.get(key):
            self.report.mismatches.append(key)

    def _compare_range(self, found: Iterable[tuple[bytes, bytes]], expected: list[bytes]) -> None:
        """Compare a scan with what lies between its bounds: every key, in order, with its value."""
        pairs = iter(found)
        for key in expected:
            seen, value = next(pairs, (b"", b""))
            if seen != key:
                self.report.mismatches.append(key)
                return
            self._compare(seen, value)
        self.report.mismatches += [key for key, _ in pairs]

    def _read_everything(self) -> None:
        self._listener.stage("read everything back", len(self._keys))
        started = time.perf_counter()
        self._compare_range(self._watched(self._client.scan_prefix(dataset.PREFIX, batch_size=1024)), self._keys)
        self.report.scan_rows_per_second = len(self._keys) / (time.perf_counter() - started)

    def _watched(self, pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        carriers = self.report.flights_by_carrier
        step: Callable[[int], None] = self._listener.step
        for number, pair in enumerate(pairs):
            if pair[0].startswith(dataset.FLIGHT_PREFIX):
                carriers[dataset.carrier_of(pair[0])] += 1
            if number % 1024 == 0:
                step(number)
            yield pair

    # --- transactions -------------------------------------------------------------------------------------------------

    def _sell_seats(self) -> None:
        """Sell seats on some flights of the busiest carrier, once each way."""
        flights = [
            key.removeprefix(dataset.FLIGHT_PREFIX) for key in self._keys if key.startswith(dataset.FLIGHT_PREFIX)
        ]
        flights = flights[-self._plan.flights_on_sale :]
        if not flights or not self._plan.buyers:
            return
        for pessimistic in (False, True):
            sale = Sale(flights, pessimistic, self._plan.buyers, self._plan.seats, seed=self._plan.seed)
            self._listener.stage(f"sell seats, {sale.strategy}", None)
            self.report.sales.append(sell(self._db, sale))
