"""Seats sold to many buyers at once: what transactions are for, with the books checked afterwards.

A few flights of the data set are put on sale, each with so many seats. Every buyer is a thread with a purse. To book,
one transaction reads the flight's record, makes up its mind for `think_s`, takes the next free seat by inserting its
key, moves the fare from the purse to the flight, and writes the record back. All want the same few records, so they
conflict: *optimistic* buyers find out at commit and begin again, *pessimistic* ones wait in line for the record's lock.

The audit reads everything in one snapshot, and while the sale goes on in some more: no seat has two owners, seats sold
and left add up to what there was, each buyer holds the seats that the purse has paid for, and no money came or went.

Limits: a buyer gives up after `Sale.attempts` tries or when all flights are sold out. All keys lie under
`pytikv-demo/sale/` in the transactional data and are replaced at each run.
"""

from __future__ import annotations

import dataclasses
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pytikv.demo.latency import Latencies
from pytikv.errors import TikvError

if TYPE_CHECKING:
    from pytikv import Snapshot, Transaction, TransactionClient

__all__ = ["Sale", "SaleReport", "sell"]

SALE_PREFIX = b"pytikv-demo/sale/"
_FLIGHTS = SALE_PREFIX + b"flight/"
_SEATS = SALE_PREFIX + b"seat/"
_PURSES = SALE_PREFIX + b"purse/"
_FARE = 120
_PURSE = 10_000
_AUDITS = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Sale:
    """How to sell. `flights`: their keys; `seats`: how many each has; a buyer books at most `wishes` seats."""

    flights: Sequence[bytes]
    pessimistic: bool
    buyers: int = 64
    seats: int = 40
    wishes: int = 5
    attempts: int = 100
    think_s: float = 0.002
    seed: int = 2013

    @property
    def strategy(self) -> str:
        """The name of the way to book."""
        return "pessimistic" if self.pessimistic else "optimistic"


@dataclasses.dataclass(slots=True)
class SaleReport:
    """What was sold and how it went. `problems` are the findings of the audits; none may be there."""

    strategy: str
    buyers: int
    seats: int
    latencies: Latencies = dataclasses.field(default_factory=Latencies)
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
            "buyers": self.buyers,
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
        self.report = SaleReport(sale.strategy, sale.buyers, sale.seats * len(sale.flights))

    def run(self) -> SaleReport:
        self._open()
        started = time.perf_counter()
        with ThreadPoolExecutor(self._sale.buyers, thread_name_prefix="buyer") as pool:
            buyers = [pool.submit(self._buy, number) for number in range(self._sale.buyers)]
            while not all(buyer.done() for buyer in buyers) and self.report.audits < _AUDITS:
                self._audit()
            for buyer in buyers:
                buyer.result()
        self.report.latencies.elapsed_seconds = time.perf_counter() - started
        self._audit()
        return self.report

    def _open(self) -> None:
        def put_on_sale(txn: Transaction) -> None:
            for key, _ in txn.scan_prefix(SALE_PREFIX, keys_only=True):
                txn.delete(key)
            for flight in self._sale.flights:
                txn.put(_FLIGHTS + flight, _record(self._sale.seats, 0))
            for buyer in range(self._sale.buyers):
                txn.put(_PURSES + b"%03d" % buyer, b"%d" % _PURSE)

        self._db.run(put_on_sale)

    # --- a buyer ------------------------------------------------------------------------------------------------------

    def _buy(self, number: int) -> None:
        rng = random.Random(f"{self._sale.seed} {number}")
        open_flights = list(self._sale.flights)
        for _ in range(self._sale.wishes):
            while open_flights:
                flight = rng.choice(open_flights)
                try:
                    self._book(number, flight)
                    break
                except _SoldOut:
                    open_flights.remove(flight)

    def _book(self, buyer: int, flight: bytes) -> None:
        """Book one seat, as often as it takes. Raises _SoldOut."""
        tries = 0
        booked = True
        started = time.perf_counter_ns()
        try:
            for txn in self._db.attempts(self._sale.attempts, pessimistic=self._sale.pessimistic):
                tries += 1
                with txn:
                    self._take_seat(txn, buyer, flight)
        except TikvError as error:
            if not error.retryable:
                raise
            booked = False
        finally:
            took = time.perf_counter_ns() - started
            with self._lock:
                self.report.retries += max(tries - 1, 0)
        with self._lock:
            if booked:
                self.report.sold += 1
                self.report.latencies.add(took)
            else:
                self.report.gave_up += 1

    def _take_seat(self, txn: Transaction, buyer: int, flight: bytes) -> None:
        flight_key, purse_key = _FLIGHTS + flight, _PURSES + b"%03d" % buyer
        read = txn.get_for_update if self._sale.pessimistic else txn.get
        left, earned = _parse(read(flight_key))
        if not left:
            raise _SoldOut
        time.sleep(self._sale.think_s)
        money = int(read(purse_key) or b"0")
        txn.insert(_SEATS + flight + b"/%03d" % left, b"%03d" % buyer)
        txn.put(purse_key, b"%d" % (money - _FARE))
        txn.put(flight_key, _record(left - 1, earned + _FARE))

    # --- the books ----------------------------------------------------------------------------------------------------

    def _audit(self) -> None:
        problems = audit(self._db.snapshot(), self._sale)
        self.report.audits += 1
        self.report.problems += [problem for problem in problems if problem not in self.report.problems]


def audit(snapshot: Snapshot, sale: Sale) -> list[str]:
    """Compare seats, flights and purses as one snapshot has them; returns what does not fit."""
    problems = []
    owners = {key.removeprefix(_SEATS): owner for key, owner in snapshot.scan_prefix(_SEATS)}
    purses = {key.removeprefix(_PURSES): int(value) for key, value in snapshot.scan_prefix(_PURSES)}
    held = Counter(owners.values())
    earned_in_all = 0
    for key, value in snapshot.scan_prefix(_FLIGHTS):
        flight = key.removeprefix(_FLIGHTS)
        left, earned = _parse(value)
        sold = sum(seat.startswith(flight + b"/") for seat in owners)
        earned_in_all += earned
        if sold + left != sale.seats:
            problems.append(f"{flight.decode()}: {sold} seats sold and {left} left are not {sale.seats}")
        if earned != sold * _FARE:
            problems.append(f"{flight.decode()}: {sold} seats sold for {earned}")
    for buyer, money in purses.items():
        if money + held[buyer] * _FARE != _PURSE:
            problems.append(f"buyer {buyer.decode()} has {money} and {held[buyer]} seats")
    if sum(purses.values()) + earned_in_all != _PURSE * sale.buyers:
        problems.append("money came or went")
    return problems


def _record(left: int, earned: int) -> bytes:
    return json.dumps({"left": left, "earned": earned}).encode()


def _parse(value: bytes | None) -> tuple[int, int]:
    record = json.loads(value or b'{"left": 0, "earned": 0}')
    return record["left"], record["earned"]
