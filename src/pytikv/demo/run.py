"""The demonstration itself: tables loaded and indexed, questions asked with their latencies, everything read back, and
at last seats sold on some of the flights, by each strategy at each level of contention (`demo.contention`).

Whatever is read is compared with the source, record by record; a difference is counted and named. That the indexes
have neither more nor less than the rows is seen by counting in them. The rows stay in the store, under `pytikv-demo/`,
to be looked at; flights that the questions insert are deleted again.
"""

from __future__ import annotations

import dataclasses
import datetime
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pytikv.demo import contention, dataset, loading
from pytikv.demo.examples import Example, examples
from pytikv.demo.queries import Answers, Questions, Source
from pytikv.demo.seats import SaleReport
from pytikv.demo.tables import TABLES, Flight, airports, flights
from pytikv.model import Table

if TYPE_CHECKING:
    from pytikv import TransactionClient

__all__ = ["FIRST_DAY", "Demo", "DemoReport", "Listener", "Plan"]

R = TypeVar("R")
FIRST_DAY = datetime.date(2013, 1, 1)
_STEP = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How much to do. `rows` limits each table, `days` the flights to the first of the year (None: all).

    `questions`: how often the cheap ones are asked, but no more often than there are flights. `buyers`: of seats; 0: no
    sale. `seats`: on offer in each sale, about. `jobs`: transactions at once while loading.
    """

    rows: int | None = None
    days: int | None = 90
    questions: int = 4_000
    buyers: int = 32
    seats: int = contention.SEATS
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
    load_seconds: float = 0.0
    examples: list[Example] = dataclasses.field(default_factory=list)
    answers: Answers = dataclasses.field(default_factory=Answers)
    flights_by_carrier: Counter[str] = dataclasses.field(default_factory=Counter)
    scan_rows_per_second: float = 0.0
    sales: list[SaleReport] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether everything read is what was written, and the books of the sales are right."""
        return not self.answers.mismatches and all(sale.ok for sale in self.sales)

    @property
    def load_rows_per_second(self) -> float:
        """Rows a second, of both tables together, with their index entries."""
        return sum(self.rows.values()) / self.load_seconds if self.load_seconds else 0.0


class Demo:
    """One run against the blocking client of one store."""

    def __init__(self, db: TransactionClient, plan: Plan, listener: Listener) -> None:
        self._db = db
        self._plan = plan
        self._listener = listener
        self._random = random.Random(plan.seed)
        self.report = DemoReport()

    def run(self) -> DemoReport:
        """Do it all. Errors of the store are raised; differences are in the report."""
        started = time.perf_counter()
        self._clear()
        source = Source(self._load(dataset.AIRPORTS), self._load(dataset.FLIGHTS))
        if self._plan.questions:
            self.report.examples += examples(self._db.snapshot(), source)
            listener = self._listener
            asked = Questions(
                self._db, source, self.report.answers, self._random, stage=listener.stage, step=listener.step
            )
            asked.ask(min(self._plan.questions, len(source.flights)))
        self._read_everything(source)
        self._count_in_indexes(source)
        self._sell_seats(source)
        self.report.seconds = time.perf_counter() - started
        return self.report

    # --- loading ------------------------------------------------------------------------------------------------------

    def _clear(self) -> None:
        """What an earlier run has left is not in the source, which may be smaller this time."""
        self._listener.stage("clear the tables", None)
        for table in TABLES:
            loading.clear(self._db, table, self._listener.step)

    def _load(self, data: dataset.DataSet[R]) -> list[R]:
        """Load a table; return its records."""
        self._listener.stage(f"read {data.name}", None)
        records = list(islice(filter(self._is_wanted, dataset.read(data)), self._plan.rows))
        self._listener.stage(f"load {data.name}", len(records))
        started = time.perf_counter()
        self.report.rows[data.name] = loading.load(
            self._db, data.table, records, jobs=self._plan.jobs, step=self._listener.step
        )
        self.report.load_seconds += time.perf_counter() - started
        return records

    def _is_wanted(self, record: Any) -> bool:
        days = self._plan.days
        return days is None or not isinstance(record, Flight) or (record.day - FIRST_DAY).days < days

    # --- comparing ----------------------------------------------------------------------------------------------------

    def _read_everything(self, source: Source) -> None:
        started = time.perf_counter()
        snapshot = self._db.snapshot()
        self._compare("airports", airports, airports.query(snapshot), source.airports)
        self._compare("flights", flights, flights.query(snapshot), source.flights)
        rows = len(source.airports) + len(source.flights)
        self.report.scan_rows_per_second = rows / (time.perf_counter() - started)

    def _compare(self, name: str, table: Table[R], found: Iterable[R], expected: list[R]) -> None:
        """Compare all rows of a table with the source: each, in order."""
        self._listener.stage(f"read {name} back", len(expected))
        answers = self.report.answers
        rows = iter(found)
        for number, record in enumerate(expected):
            if number % _STEP == 0:
                self._listener.step(number)
            row = next(rows, None)
            answers.compared += 1
            if row == record:
                continue
            answers.mismatches.append(f"{name}: {row}, not {record}")
            if row is None or table.rows.encoded_of(row) != table.rows.encoded_of(record):
                return  # a row too few or too many: from here on nothing fits
        answers.mismatches += [f"{name}: {row} is not in the source" for row in rows]

    def _count_in_indexes(self, source: Source) -> None:
        """Count by index what the source has: an entry too few or too many shows."""
        expected = Counter(flight.carrier for flight in source.flights)
        snapshot = self._db.snapshot()
        self._listener.stage("count by index", len(expected))
        for number, carrier in enumerate(expected):
            found = flights.count(snapshot, carrier=carrier)
            self.report.flights_by_carrier[carrier] = found
            self.report.answers.compare(f"flights of {carrier} in the index", found, expected[carrier])
            self._listener.step(number)
        found = airports.count(snapshot, index="country")
        self.report.answers.compare("airports in the index by country", found, len(source.airports))
        found = airports.count(snapshot, index="iata")
        self.report.answers.compare("airports in the index by iata", found, len(source.airports))

    # --- transactions -------------------------------------------------------------------------------------------------

    def _sell_seats(self, source: Source) -> None:
        """Sell seats on the last flights of the data, by every strategy at every level of contention."""
        buyers = self._plan.buyers
        names = [f"{flight.carrier}{flight.number} {flight.day} {flight.origin}" for flight in source.flights[-buyers:]]
        if not names or not buyers:
            return
        sales = self._plan_sales(names)
        self._listener.stage("sell seats", len(contention.levels(buyers, len(names))) * len(contention.STRATEGIES))
        for number, sale in enumerate(sales, 1):
            self.report.sales.append(sale)
            self._listener.step(number)

    def _plan_sales(self, names: list[str]) -> Iterator[SaleReport]:
        return contention.compare(self._db, names, self._plan.buyers, self._plan.seats)
