"""The questions of the demonstration, each asked many times of random rows, every answer compared with the source.

Each kind is a *stage*: it ends after its number of operations or `STAGE_SECONDS`, whichever is first, so a slow store
makes the figures less exact, not the run endless. What is counted as one operation is what a caller waits for: one row,
one hundred rows, all rows of a country, one page.
"""

from __future__ import annotations

import dataclasses
import datetime
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from pytikv.demo.latency import Latencies
from pytikv.demo.tables import Airport, Flight, airports, flights

if TYPE_CHECKING:
    from pytikv import Snapshot, TransactionClient

__all__ = [
    "BY_CARRIER",
    "COUNTRY_ROWS",
    "COVERED",
    "GET_MANY_KEYS",
    "PAGE_ROWS",
    "STAGE_SECONDS",
    "Answers",
    "Questions",
    "Source",
]

GET_MANY_KEYS: Final = 100
PAGE_ROWS: Final = 25
STAGE_SECONDS: Final = 3.0
COUNTRY_ROWS: Final = 50
_NEW_CARRIER: Final = "ZZ"
_NEW_DAY: Final = datetime.date(2014, 1, 1)
BY_CARRIER: Final = "carrier_day"
COVERED: Final = ("number", "origin", "dest", "departure_delay")

flight_key = attrgetter("day", "carrier", "number", "origin")
_icao = attrgetter("icao")


@dataclasses.dataclass(slots=True)
class Answers:
    """What was asked and how it went: latencies by question, answers that were not as the source has it."""

    operations: dict[str, Latencies] = dataclasses.field(default_factory=dict)
    compared: int = 0
    mismatches: list[str] = dataclasses.field(default_factory=list)

    def compare(self, what: object, found: object, expected: object) -> None:
        """Take note of a value; `what` says which where it is not as expected."""
        self.compared += 1
        if found != expected:
            self.mismatches.append(str(what))

    def compare_all(self, what: object, found: Sequence[object], expected: Sequence[object]) -> None:
        """Take note of some values, which come in a certain order."""
        self.compared += len(expected)
        if len(found) != len(expected):
            self.mismatches.append(f"{what}: {len(found)} rows, not {len(expected)}")
        self.mismatches += [f"{what}: {one}" for one, wanted in zip(found, expected, strict=False) if one != wanted]


class Source:
    """The records as they were read from the packages, in the order of their tables' keys, and by what is asked for."""

    def __init__(self, airport_rows: Sequence[Airport], flight_rows: Sequence[Flight]) -> None:
        self.airports = sorted(airport_rows, key=_icao)
        self.flights = sorted(flight_rows, key=flight_key)
        self.with_iata = [airport for airport in self.airports if airport.iata is not None]
        self.by_country: dict[str, list[Airport]] = defaultdict(list)
        for airport in self.airports:
            self.by_country[airport.country].append(airport)
        self.by_carrier_and_day: dict[tuple[str, datetime.date], list[Flight]] = defaultdict(list)
        for flight in self.flights:
            self.by_carrier_and_day[flight.carrier, flight.day].append(flight)


class Questions:
    """Asks them all. `stage` and `step` are told how far it is."""

    def __init__(
        self,
        db: TransactionClient,
        source: Source,
        answers: Answers,
        rng: random.Random,
        stage: Callable[[str, int | None], None],
        step: Callable[[int], None],
    ) -> None:
        self._db = db
        self._source = source
        self._answers = answers
        self._rng = rng
        self._stage = stage
        self._step = step

    def ask(self, times: int) -> None:
        """Ask the cheap ones `times` times, the dear ones less often."""
        self._get(times)
        self._by_iata(times)
        self._get_many(times // 20)
        self._by_country(times // 10)
        self._pages(times // 4)
        self._covered(times // 4)
        self._counts(times // 10)
        self._inserts(times // 5)

    def _timed(self, name: str, total: int) -> Iterator[tuple[Latencies, Snapshot]]:
        """Yield until a stage's operations or its time are used up."""
        self._stage(name, total)
        latencies = self._answers.operations[name] = Latencies()
        snapshot = self._db.snapshot(cache=False)  # what is measured is the store
        end = time.perf_counter() + STAGE_SECONDS
        while len(latencies) < total:
            yield latencies, snapshot
            if len(latencies) % 64 == 0 or time.perf_counter() > end:
                self._step(len(latencies))
                if time.perf_counter() > end:
                    break

    # --- airports -----------------------------------------------------------------------------------------------------

    def _get(self, times: int) -> None:
        for latencies, snapshot in self._timed("get", times):
            wanted = self._rng.choice(self._source.flights)
            self._answers.compare(wanted, latencies.measure(flights.get, snapshot, flight_key(wanted)), wanted)

    def _by_iata(self, times: int) -> None:
        for latencies, snapshot in self._timed("by_iata", times if self._source.with_iata else 0):
            wanted = self._rng.choice(self._source.with_iata)
            found = latencies.measure(_by_iata, snapshot, wanted.iata)
            self._answers.compare(wanted, found, wanted)

    def _by_country(self, times: int) -> None:
        countries = list(self._source.by_country)
        for latencies, snapshot in self._timed("by_country", times):
            country = self._rng.choice(countries)
            found = latencies.measure(_by_country, snapshot, country)
            self._answers.compare_all(f"country {country}", found, self._source.by_country[country][:COUNTRY_ROWS])

    # --- flights ------------------------------------------------------------------------------------------------------

    def _get_many(self, times: int) -> None:
        size = min(GET_MANY_KEYS, len(self._source.flights))
        for latencies, snapshot in self._timed("get_many", times):
            wanted = self._rng.sample(self._source.flights, size)
            found = latencies.measure(flights.get_many, snapshot, [flight_key(one) for one in wanted])
            self._answers.compare_all("get_many", found, wanted)

    def _carrier_day(self) -> tuple[str, datetime.date]:
        flight = self._rng.choice(self._source.flights)
        return flight.carrier, flight.day

    def _pages(self, times: int) -> None:
        """Read a carrier's day in pages, each with the cursor of the page before."""
        for latencies, snapshot in self._timed("page", times):
            carrier, day = self._carrier_day()
            found = list(_pages(latencies, snapshot, carrier, day))
            self._answers.compare_all(f"{carrier} on {day}", found, self._source.by_carrier_and_day[carrier, day])

    def _covered(self, times: int) -> None:
        """Read pages of some fields, all of which the index holds: no row is read."""
        for latencies, snapshot in self._timed("covered", times):
            carrier, day = self._carrier_day()
            found = list(_pages(latencies, snapshot, carrier, day, fields=COVERED, index=BY_CARRIER))
            expected = [_fields(flight) for flight in self._source.by_carrier_and_day[carrier, day]]
            self._answers.compare_all(f"{carrier} on {day}, from the index", found, expected)

    def _counts(self, times: int) -> None:
        for latencies, snapshot in self._timed("count", times):
            carrier, day = self._carrier_day()
            found = latencies.measure(_count, snapshot, carrier, day)
            self._answers.compare(f"{carrier} on {day}", found, len(self._source.by_carrier_and_day[carrier, day]))

    def _inserts(self, times: int) -> None:
        """Insert flights of a carrier that there is not, each in a transaction, and delete them again."""
        written: list[Flight] = []
        for latencies, _ in self._timed("insert", times):
            like = self._rng.choice(self._source.flights)
            flight = dataclasses.replace(like, carrier=_NEW_CARRIER, day=_NEW_DAY, number=len(written))
            latencies.measure(self._insert, flight)
            written.append(flight)
        found = list(flights.query(self._db.snapshot(), carrier=_NEW_CARRIER, day=_NEW_DAY))
        self._answers.compare_all("inserted", found, written)
        with self._db.batch() as writer:
            for flight in written:
                writer.delete(flights, flight_key(flight))
        left = flights.count(self._db.snapshot(), carrier=_NEW_CARRIER, day=_NEW_DAY)
        self._answers.compare("deleted", left, 0)

    def _insert(self, flight: Flight) -> None:
        with self._db.begin() as txn:
            flights.insert(txn, flight)


def _by_iata(snapshot: Snapshot, iata: str | None) -> Airport | None:
    return airports.by(snapshot, iata=iata)


def _by_country(snapshot: Snapshot, country: str) -> list[Airport]:
    return list(airports.query(snapshot, country=country, limit=COUNTRY_ROWS))


def _fields(flight: Flight) -> dict[str, Any]:
    return {field: getattr(flight, field) for field in COVERED}


def _pages(latencies: Latencies, snapshot: Snapshot, carrier: str, day: datetime.date, **options: Any) -> Iterator[Any]:
    """Yield the rows of a carrier's day, page after page."""
    cursor: str | None = None
    while True:
        page = latencies.measure(_page, snapshot, carrier, day, cursor, options)
        yield from page.rows
        cursor = page.cursor
        if cursor is None:
            return


def _page(snapshot: Snapshot, carrier: str, day: datetime.date, cursor: str | None, options: dict[str, Any]) -> Any:
    return flights.page(snapshot, carrier=carrier, day=day, limit=PAGE_ROWS, cursor=cursor, **options)


def _count(snapshot: Snapshot, carrier: str, day: datetime.date) -> int:
    return flights.count(snapshot, carrier=carrier, day=day)
