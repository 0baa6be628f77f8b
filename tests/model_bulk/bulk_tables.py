"""Tables of these tests, in a module of their own so that other processes find them."""

from __future__ import annotations

import dataclasses
import datetime

from pytikv.model import Table

__all__ = ["Flight", "flights", "made", "sharded"]


@dataclasses.dataclass(slots=True)
class Flight:
    carrier: str
    number: int
    day: datetime.date
    origin: str
    ticket: str
    delay: float | None = None
    tags: list[str] = dataclasses.field(default_factory=list)


flights = Table("flight", Flight, key=("carrier", "number"), unique=["ticket"], index=["day", ("origin", "number")])
sharded = Table("sharded-flight", Flight, key=("carrier", "number"), index=["day"], shards=4)


def made(count: int, start: int = 0) -> list[Flight]:
    return [
        Flight(
            "AB"[n % 2] + "X",
            n,
            datetime.date(2013, 1, 1) + datetime.timedelta(n % 300),
            ("JFK", "EWR", "LGA")[n % 3],
            f"T{n:06}",
            None if n % 5 == 0 else n / 4,
            ["a", "b,c"] if n % 7 == 0 else [],
        )
        for n in range(start, start + count)
    ]
