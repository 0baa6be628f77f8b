"""Seats sold to many buyers at once: what transactions are for, with the books checked afterwards.

Flights of the data set are put on sale, each with so many seats. Every buyer is a thread with a purse and wants one of
the flights; buyers are dealt to flights evenly, so `buyers / flights` of them want the same row. To book, one
transaction reads the flight's offer for an update, makes up its mind for `think_s`, takes the next free seat by
inserting its row, moves the fare from the purse to the offer, and writes the offer back. How is one of `STRATEGIES`
(`pytikv.model.patterns`): *optimistic* buyers find out at commit that another was faster and begin again, *pessimistic*
ones wait in line for the offer's lock, *adaptive* ones measure which costs less for their flight. The function that
books is the same for all three.

A buyer goes on until the flight is sold out, so more is wanted than there is. The audit reads everything in one
snapshot, and while the sale goes on in some more: no seat has two owners, seats sold and left add up to what there was,
each buyer holds the seats that the purse has paid for, and no money came or went.

Limits: a buyer gives up a booking after `Sale.attempts` tries, and goes home after `Sale.limit_s`.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from pytikv.demo import tables
from pytikv.demo.latency import Latencies
from pytikv.demo.tables import Offer, Purse, Seat
from pytikv.errors import TikvError
from pytikv.model.patterns import Adaptive, optimistic, pessimistic

if TYPE_CHECKING:
    from pytikv import Snapshot, Transaction, TransactionClient

__all__ = ["STRATEGIES", "Sale", "SaleReport", "audit", "sell"]

STRATEGIES: Final = ("optimistic", "pessimistic", "adaptive")
FARE: Final = 120
PURSE: Final = 1_000_000
_AUDITS: Final = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Sale:
    """How to sell. `flights`: what they are called; `seats`: how many each has; `think_s`: within a transaction."""

    flights: Sequence[str]
    strategy: str
    buyers: int = 32
    seats: int = 40
    attempts: int = 100
    think_s: float = 0.002
    limit_s: float = 5.0

    @property
    def buyers_a_flight(self) -> int:
        """How many want one row: the contention."""
        return -(-self.buyers // len(self.flights))


@dataclasses.dataclass(slots=True)
class SaleReport:
    """What was sold and how it went. `problems` are the findings of the audits; none may be there."""

    strategy: str
    buyers: int
    buyers_a_flight: int
    seats: int
    latencies: Latencies = dataclasses.field(default_factory=Latencies)
    tries: int = 0
    """How often a transaction was begun, bookings refused because the flight was sold out included."""
    retries: int = 0
    """Tries that met a conflict and were made again."""
    sold: int = 0
    gave_up: int = 0
    audits: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the books are right."""
        return not self.problems

    def summary(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {
            "ok": self.ok,
            "strategy": self.strategy,
            "buyers": self.buyers,
            "buyers_a_flight": self.buyers_a_flight,
            "seats": self.seats,
            "sold": self.sold,
            "gave_up": self.gave_up,
            "retries": self.retries,
            "audits": self.audits,
            "problems": self.problems,
            **self.latencies.summary(),
        }


def sell(db: TransactionClient, sale: Sale) -> SaleReport:
    """Open the sale, let all buyers in at once, audit. Raises TikvError where the store fails."""
    return _Market(db, sale).run()


class _SoldOut(Exception):
    """The flight has no seat left."""


class _Market:
    """One sale. The report is shared by the buyers' threads, under a lock."""

    def __init__(self, db: TransactionClient, sale: Sale) -> None:
        self._db = db
        self._sale = sale
        self._lock = threading.Lock()
        self._run = _runner(db, sale)
        self.report = SaleReport(sale.strategy, sale.buyers, sale.buyers_a_flight, sale.seats * len(sale.flights))

    def run(self) -> SaleReport:
        self._open()
        started = time.perf_counter()
        end = started + self._sale.limit_s
        with ThreadPoolExecutor(self._sale.buyers, thread_name_prefix="buyer") as pool:
            buyers = [pool.submit(self._buy, number, end) for number in range(self._sale.buyers)]
            while not all(buyer.done() for buyer in buyers) and self.report.audits < _AUDITS:
                self._audit_if_possible()
            for buyer in buyers:
                buyer.result()
        self.report.latencies.elapsed_seconds = time.perf_counter() - started
        self._audit()
        return self.report

    def _open(self) -> None:
        for table in (tables.offers, tables.seats, tables.purses):
            table.truncate(self._db)
        with self._db.begin() as txn:
            tables.offers.put_many(txn, (Offer(flight, self._sale.seats, 0) for flight in self._sale.flights))
            tables.purses.put_many(txn, (Purse(buyer, PURSE) for buyer in range(self._sale.buyers)))

    # --- a buyer ------------------------------------------------------------------------------------------------------

    def _buy(self, number: int, end: float) -> None:
        """Book seats of one flight until there are no more, or it is late."""
        flight = self._sale.flights[number % len(self._sale.flights)]
        while time.perf_counter() < end:
            try:
                self._book(number, flight)
            except _SoldOut:
                return

    def _book(self, buyer: int, flight: str) -> None:
        """Book one seat, as often as it takes. Raises _SoldOut."""
        tries = 0

        def attempt(txn: Transaction) -> None:
            nonlocal tries
            tries += 1
            self._take_seat(txn, buyer, flight)

        booked = True
        started = time.perf_counter_ns()
        try:
            self._run(attempt, flight)
        except TikvError as error:
            if not error.retryable:
                raise
            booked = False
        finally:
            took = time.perf_counter_ns() - started
            with self._lock:
                self.report.tries += tries
                self.report.retries += max(tries - 1, 0)
        with self._lock:
            if booked:
                self.report.sold += 1
                self.report.latencies.add(took)
            else:
                self.report.gave_up += 1

    def _take_seat(self, txn: Transaction, buyer: int, flight: str) -> None:
        offer = tables.offers.get_for_update(txn, flight)
        if offer is None or not offer.left:
            raise _SoldOut
        time.sleep(self._sale.think_s)
        purse = tables.purses.get_for_update(txn, buyer) or Purse(buyer, 0)
        tables.seats.insert(txn, Seat(flight, offer.left, buyer))
        tables.purses.put(txn, Purse(buyer, purse.money - FARE))
        tables.offers.put(txn, Offer(flight, offer.left - 1, offer.earned + FARE))

    # --- the books ----------------------------------------------------------------------------------------------------

    def _audit_if_possible(self) -> None:
        """Audit between the buyers; a store that has no time for it now is asked again, at the latest at the end."""
        try:
            self._audit()
        except TikvError as error:
            if not error.retryable:
                raise

    def _audit(self) -> None:
        problems = audit(self._db.snapshot(), self._sale)
        self.report.audits += 1
        self.report.problems += [problem for problem in problems if problem not in self.report.problems]


def _runner(db: TransactionClient, sale: Sale) -> Callable[[Callable[[Transaction], None], str], object]:
    """Return what runs a function in a transaction by the sale's strategy; the flight is the row that others want."""
    if sale.strategy == "adaptive":
        adaptive = Adaptive(db, attempts=sale.attempts)
        return lambda fn, flight: adaptive.run(fn, keys=[_place(flight)])
    way = {"optimistic": optimistic, "pessimistic": pessimistic}[sale.strategy]
    return lambda fn, flight: way(db, fn, attempts=sale.attempts)


def _place(flight: str) -> bytes:
    rows = tables.offers.rows
    return rows.layout.row_key(rows.encoded(flight))


def audit(snapshot: Snapshot, sale: Sale) -> list[str]:
    """Compare seats, offers and purses as one snapshot has them; returns what does not fit."""
    problems = []
    sold = list(tables.seats.query(snapshot))
    held = Counter(seat.buyer for seat in sold)
    sold_by_flight = Counter(seat.flight for seat in sold)
    earned_in_all = money_in_all = 0
    for offer in tables.offers.query(snapshot):
        taken = sold_by_flight[offer.flight]
        earned_in_all += offer.earned
        if taken > sale.seats or taken + offer.left != sale.seats:
            problems.append(f"{offer.flight}: {taken} seats sold and {offer.left} left are not {sale.seats}")
        if offer.earned != taken * FARE:
            problems.append(f"{offer.flight}: {taken} seats sold for {offer.earned}")
    for purse in tables.purses.query(snapshot):
        money_in_all += purse.money
        if purse.money + held[purse.buyer] * FARE != PURSE:
            problems.append(f"buyer {purse.buyer} has {purse.money} and {held[purse.buyer]} seats")
    if money_in_all + earned_in_all != PURSE * sale.buyers:
        problems.append("money came or went")
    return problems
