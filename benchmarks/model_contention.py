"""Optimistic, pessimistic and adaptive transactions side by side, from no contention to one hot row.

The work is a booking: a flight is read for update, a while is thought about it (asleep, as programs are that ask a
person or another service), a seat is taken and a booking written. `hot` flights are booked by `--workers` tasks at
once; fewer flights, more contention. Each level has flights and an `Adaptive` of its own, which learns from nothing in
the first round; that one is thrown away for all three. Rounds of the three alternate, and what is compared is one
round with the next to it: the adaptive throughput over the better of the two others (by their medians).

    python benchmarks/model_contention.py --embedded --serve
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import contest
import harness
from report import Line

import pytikv
from pytikv.model import Table
from pytikv.model.patterns import Adaptive, optimistic, pessimistic

LEVELS = (4096, 256, 64, 16, 4, 1)
WAYS = ("optimistic", "pessimistic", "adaptive")


@dataclasses.dataclass
class Flight:
    id: int
    seats: int


@dataclasses.dataclass
class Booking:
    flight: int
    number: int


FLIGHTS = Table("flight", Flight, key="id")
BOOKINGS = Table("booking", Booking, key=("flight", "number"))


async def book(txn: Any, flight: int, think_s: float) -> None:
    """Take a seat."""
    row = await FLIGHTS.get_for_update(txn, flight)
    assert row is not None
    if think_s:
        await asyncio.sleep(think_s)
    await FLIGHTS.put(txn, Flight(flight, row.seats - 1))
    await BOOKINGS.put(txn, Booking(flight, row.seats))


class Level:
    """One level of contention in one store."""

    def __init__(self, db: Any, first: int, hot: int, options: argparse.Namespace) -> None:
        self.db = db
        self.hot = hot
        self.first = first
        self.options = options
        self.adaptive = Adaptive(db, attempts=1000)
        self.rates: dict[str, list[float]] = {way: [] for way in WAYS}
        self.sold = 0

    async def measure(self) -> None:
        """Run all rounds; no update may be lost."""
        flights = range(self.first, self.first + self.hot)
        for begin in range(0, self.hot, 512):
            async with self.db.begin() as txn:
                await FLIGHTS.put_many(txn, [Flight(one, 0) for one in flights[begin : begin + 512]])
        for number in range(-self.options.warm, self.options.rounds):
            for way in WAYS if number % 2 else WAYS[::-1]:
                rate = await self.round(way)
                if number >= 0:
                    self.rates[way].append(rate)
        left = [row async for row in FLIGHTS.query(self.db.snapshot(), id=(flights.start, flights.stop))]
        assert -sum(row.seats for row in left) == self.sold, "updates were lost"

    async def round(self, way: str) -> float:
        """Return bookings a second."""
        end = time.perf_counter() + self.options.seconds
        counts = await asyncio.gather(*(self.worker(way, end) for _ in range(self.options.workers)))
        return sum(counts) / self.options.seconds

    async def worker(self, way: str, end: float) -> int:
        """Book until the end; return how often until then."""
        rng, think_s, done = random.Random(), self.options.think_ms / 1000, 0
        while time.perf_counter() < end:
            flight = self.first + rng.randrange(self.hot)
            if way == "adaptive":
                await self.adaptive.run(book, flight, think_s, keys=[b"%d" % flight])
            else:
                run: Callable[..., Any] = optimistic if way == "optimistic" else pessimistic
                await run(self.db, book, flight, think_s, attempts=1000)
            self.sold += 1
            done += time.perf_counter() < end
        return done

    def line(self) -> dict[str, Any]:
        """Return the figures."""
        rates = {way: round(statistics.median(found), 1) for way, found in self.rates.items()}
        better = max(("optimistic", "pessimistic"), key=lambda way: rates[way])
        ratios = [mine / best for mine, best in zip(self.rates["adaptive"], self.rates[better], strict=True)]
        return {"hot": self.hot, **rates, "better": better, "adaptive/better": round(statistics.median(ratios), 3)}


@contextlib.asynccontextmanager
async def store(kind: str) -> AsyncIterator[Any]:
    """Open a store of a kind."""
    with contextlib.ExitStack() as stack:
        url = "embedded://:memory:" if kind == "embedded" else stack.enter_context(harness.our_server()).url
        async with await pytikv.AsyncTransactionClient.connect(url) as db:
            yield db


async def measure(kind: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the figures of each level."""
    found = []
    async with store(kind) as db:
        first = 0
        for hot in options.levels:
            level = Level(db, first, hot, options)
            await level.measure()
            first += hot
            found.append({"store": kind, "think_ms": options.think_ms, **level.line()})
            print(json.dumps(found[-1]), flush=True)
    return found


def lines(effort: contest.Effort) -> list[Line]:
    """Return one line a level and store, for the table of all benchmarks."""
    options = _parser().parse_args(["--rounds", "2"] if effort is contest.QUICK else [])
    found = [line for kind in ("embedded", "serve") for line in asyncio.run(measure(kind, options))]
    return [
        Line(
            f"adaptive, of the better strategy, {line['hot']} hot rows, {line['store']}",
            value=line["adaptive/better"],
            goal=options.goal,
            lower_is_better=False,
            detail=", ".join(f"{way} {line[way]:,.0f}/s" for way in WAYS),
            load=harness.load(),
        )
        for line in found
    ]


def main() -> int:
    """Measure, print, and tell by the exit status whether the goal was met."""
    options = _parser().parse_args()
    kinds = [kind for kind in ("embedded", "serve") if getattr(options, kind)] or ["embedded"]
    found = [line for kind in kinds for line in asyncio.run(measure(kind, options))]
    missed = [line for line in found if line["adaptive/better"] < options.goal]
    print(f"{len(found) - len(missed)} of {len(found)} levels within the goal of {options.goal}")
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedded", action="store_true")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--think-ms", type=float, default=1.0)
    parser.add_argument("--levels", type=int, nargs="+", default=LEVELS)
    parser.add_argument("--goal", type=float, default=0.9)
    return parser


if __name__ == "__main__":
    sys.exit(main())
