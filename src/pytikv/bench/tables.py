"""Workloads over tables of typed records: by key, by a unique index, by a range of an index, inserts, bookings.

The table holds people with a unique `email` and an index by `age`; a range takes the rows of one age. Inserts write a
row with both entries. A booking takes a seat off a flight and inserts a ticket, in one transaction: at the end, seats
that are gone and tickets that are there must be equal in number, whatever conflicts there were.

Records and their entries are loaded as the pairs that the tables make of them, with the row that says that the indexes
are complete (`model.catalog`).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pytikv.bench.choosers import make_chooser
from pytikv.bench.stores import Codes, Missing, Steps, Store, TxnStore
from pytikv.bench.workloads import Check, Operation, Records, Worker
from pytikv.errors import ConfigError
from pytikv.model import Table
from pytikv.model.catalog import READY, CatalogRow

__all__ = ["KINDS", "Flight", "Person", "TableWorkload", "Ticket"]

KINDS: Final = ("point", "unique", "range", "insert", "booking")
_SEATS: Final = 1 << 40
_ROWS_AN_AGE: Final = 20


@dataclasses.dataclass(slots=True)
class Person:
    """A row of the table of people."""

    id: int
    email: str
    age: int
    note: str


@dataclasses.dataclass(slots=True)
class Flight:
    """A row of the table of flights."""

    id: int
    seats: int


@dataclasses.dataclass(slots=True)
class Ticket:
    """A row of the table of tickets."""

    worker: int
    number: int
    flight: int


class TableWorkload:
    """One kind of operation, of `KINDS`, on tables of `records` rows below `prefix`. Raises ConfigError.

    note_bytes: of a person's largest field. distribution: how rows are chosen (`choosers`).
    """

    def __init__(
        self,
        kind: str,
        prefix: bytes,
        *,
        records: int = 10_000,
        note_bytes: int = 100,
        distribution: str = "zipfian",
        seed: int = 1,
    ) -> None:
        if kind not in KINDS:
            raise ConfigError(f"table workload {kind!r} is unknown: it must be one of {', '.join(KINDS)}")
        if records < 1 or note_bytes < 0:
            raise ConfigError("a workload needs at least 1 record, and sizes that are not negative")
        make_chooser(distribution)  # refuses an unknown one now
        self.kind = kind
        self.name = f"table-{kind}"
        self.distribution = distribution
        self.seed = seed
        self.numbers = Records(records)
        self.ages = max(1, records // _ROWS_AN_AGE)
        self.people = Table("person", Person, key="id", unique=["email"], index=["age"], prefix=prefix)
        self.flights = Table("flight", Flight, key="id", prefix=prefix)
        self.tickets = Table("ticket", Ticket, key=("worker", "number"), index=["flight"], prefix=prefix)
        self._records = records
        self._note = "n" * note_bytes

    @property
    def operations(self) -> tuple[str, ...]:
        """See `Workload`."""
        return (self.kind,)

    @property
    def options(self) -> Mapping[str, object]:
        """See `Workload`."""
        return {
            "records": self._records,
            "note_bytes": len(self._note),
            "distribution": self.distribution,
            "seed": self.seed,
        }

    def person(self, number: int) -> Person:
        """Return a person."""
        return Person(number, f"person-{number}@example.org", number % self.ages, self._note)

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """See `Workload`."""
        if self.kind == "booking":
            yield from _complete(self.tickets)
            for number in range(self._records):
                yield from _stored(self.flights, Flight(number, _SEATS))
            return
        yield from _complete(self.people)
        for number in range(self._records):
            yield from _stored(self.people, self.person(number))

    def worker(self, number: int, store: Store) -> Worker:
        """See `Workload`. Raises ConfigError for a store without transactions."""
        if not isinstance(store, TxnStore):
            raise ConfigError("tables are of transactions: use the API txn")
        return _TableWorker(self, number, store)

    def check(self, store: Store) -> Steps[Check | None]:
        """See `Workload`: of bookings, whether seats and tickets agree."""
        if self.kind != "booking" or not isinstance(store, TxnStore):
            return None
        snapshot = store.snapshot()
        flights = yield store.collect(self.flights.query(snapshot))
        tickets = yield store.collect(self.tickets.query(snapshot))
        gone = sum(_SEATS - flight.seats for flight in flights)
        is_sound = gone == len(tickets)
        agree = "agree" if is_sound else "DO NOT AGREE"
        return Check(is_sound, f"seats and tickets {agree}: {gone} seats sold, {len(tickets)} tickets")


def _complete(table: Table[Any]) -> Iterator[tuple[bytes, bytes]]:
    yield table.rows.catalog.key, CatalogRow(dict.fromkeys(table.schema.indexes, READY), {}).encode()


def _stored(table: Table[Any], record: Any) -> Iterator[tuple[bytes, bytes]]:
    row = table.rows.new_row(record)
    yield from table.rows.differ.put(None, row.record, row.encoded_key, row.key, row.entries).puts.items()


class _TableWorker:
    """One worker's operations."""

    def __init__(self, workload: TableWorkload, number: int, store: TxnStore) -> None:
        self._workload = workload
        self._number = number
        self._store = store
        self._dice = random.Random(f"{workload.seed}/{number}")
        self._chooser = make_chooser(workload.distribution)
        self._booked = 0
        makers: dict[str, Callable[[], Steps[Codes]]] = {
            "point": self._point,
            "unique": self._unique,
            "range": self._range,
            "insert": self._insert,
            "booking": self._booking,
        }
        self._make = makers[workload.kind]

    def next(self) -> Operation:
        """See `Worker`."""
        return self._workload.kind, self._make()

    def _choose(self) -> int:
        return self._chooser.choose(self._dice, self._workload.numbers.count)

    def _point(self) -> Steps[Codes]:
        if (yield self._workload.people.get(self._store.snapshot(), self._choose())) is None:
            raise Missing
        return ()

    def _unique(self) -> Steps[Codes]:
        email = f"person-{self._choose()}@example.org"
        if (yield self._workload.people.by(self._store.snapshot(), email=email)) is None:
            raise Missing
        return ()

    def _range(self) -> Steps[Codes]:
        age = self._choose() % self._workload.ages
        found = yield self._store.collect(self._workload.people.query(self._store.snapshot(), age=age))
        if not found:
            raise Missing
        return ()

    def _insert(self) -> Steps[Codes]:
        numbers = self._workload.numbers
        number = numbers.begin()
        record = self._workload.person(number)

        def body(txn: Any) -> Steps[None]:
            yield self._workload.people.insert(txn, record)

        failed = yield from self._store.transact(body)
        numbers.acknowledge(number)
        return failed

    def _booking(self) -> Steps[Codes]:
        flights, tickets = self._workload.flights, self._workload.tickets
        key = self._choose()
        self._booked += 1
        ticket = Ticket(self._number, self._booked, key)

        def body(txn: Any) -> Steps[None]:
            get = flights.get_for_update if self._store.pessimistic else flights.get
            flight = yield get(txn, key)
            if flight is None:
                raise Missing
            yield flights.put(txn, dataclasses.replace(flight, seats=flight.seats - 1))
            yield tickets.insert(txn, ticket)

        return (yield from self._store.transact(body))
