"""A few questions as one would type them, with their answers in words: what the tables of the demonstration are for.

Each is asked once, so its time has in it what only first times cost; `queries` measures.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytikv.demo.queries import BY_CARRIER, COVERED, PAGE_ROWS, Source
from pytikv.demo.tables import Flight, airports, flights

if TYPE_CHECKING:
    from pytikv import Snapshot

__all__ = ["Example", "examples"]

_AIRPORT: Final = "JFK"
_SHOWN: Final = 3


class Example(NamedTuple):
    """A question, its answer, and the seconds that it took."""

    question: str
    answer: str
    seconds: float

    def record(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"question": self.question, "answer": self.answer, "ms": round(self.seconds * 1000, 3)}


def examples(snapshot: Snapshot, source: Source) -> Iterator[Example]:
    """Ask them all of what is loaded."""
    if source.with_iata:
        wanted = next((one for one in source.with_iata if one.iata == _AIRPORT), source.with_iata[0])
        yield _ask(
            f'airports.by(txn, iata="{wanted.iata}")',
            lambda: airports.by(snapshot, iata=wanted.iata),
            lambda found: f"{found.name}, {found.city}, {found.country}, {found.elevation_ft:,.0f} ft",
        )
        yield _ask(
            f'airports.count(txn, country="{wanted.country}")',
            lambda: airports.count(snapshot, country=wanted.country),
            lambda found: f"{found:,}",
        )
    if source.flights:
        first_day = source.flights[0].day
        busiest = max((found for (_, day), found in source.by_carrier_and_day.items() if day == first_day), key=len)
        yield from _of_flights(snapshot, busiest[0])


def _of_flights(snapshot: Snapshot, first: Flight) -> Iterator[Example]:
    """Ask of one carrier's day: a page, the next one, a list from the index alone, and one flight."""
    carrier, day = first.carrier, first.day
    conditions = f'carrier="{carrier}", day=date({day.year}, {day.month}, {day.day})'
    pages: list[Any] = []

    def page() -> Any:
        cursor = pages[-1].cursor if pages else None
        pages.append(flights.page(snapshot, carrier=carrier, day=day, limit=PAGE_ROWS, cursor=cursor))
        return pages[-1]

    yield _ask(f"flights.page(txn, {conditions}, limit={PAGE_ROWS})", page, _page_in_words)
    if pages[-1].cursor is not None:
        yield _ask(f'flights.page(txn, ..., cursor="{pages[-1].cursor[:8]}...")', page, _page_in_words)
    yield _ask(
        f'flights.query(txn, ..., fields=["number", "origin", "dest", "departure_delay"], index="{BY_CARRIER}")',
        lambda: list(flights.query(snapshot, carrier=carrier, day=day, fields=COVERED, index=BY_CARRIER)),
        lambda found: (
            f"{len(found)} of them, from the index alone: {found[0]['number']} to {found[0]['dest']},"
            f" {found[0]['departure_delay']} minutes late, ..."
        ),
    )
    key = tuple(getattr(first, field.name) for field in dataclasses.fields(first)[:4])
    yield _ask(
        f"flights.get(txn, {key!r})".replace("datetime.", ""),
        lambda: flights.get(snapshot, key),
        lambda found: f"{found.tail or 'an unknown aircraft'} to {found.dest}, {found.distance_miles:,} miles",
    )


def _ask(question: str, ask: Callable[[], Any], in_words: Callable[[Any], str]) -> Example:
    started = time.perf_counter()
    answer = ask()
    seconds = time.perf_counter() - started
    return Example(question, in_words(answer), seconds)


def _page_in_words(page: Any) -> str:
    shown = ", ".join(f"{one.number} to {one.dest}" for one in page.rows[:_SHOWN])
    more = "more to come" if page.cursor is not None else "the last page"
    return f"{len(page.rows)} flights: {shown}, ...; {more}"
