"""The tables of the demonstration: airports, flights, and what a sale of seats needs.

An example to read and to import: `pytikv table query airport country=IS --tables pytikv.demo.tables` works on what
`pytikv demo PATH` has left. All lie under `pytikv-demo/`.

Airports are looked up by their ICAO code, which names a row, and by their IATA code, which most have not; those two
are unique. Flights lie in order of their days; the index by carrier and day holds the destination and the delay
besides, so that a list of a carrier's day can be had from the index alone.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import Final

from pytikv.model import Index, Table

__all__ = ["PREFIX", "TABLES", "Airport", "Flight", "Offer", "Purse", "Seat"]
__all__ += ["airports", "flights", "offers", "purses", "seats"]

PREFIX: Final = b"pytikv-demo/"


@dataclasses.dataclass(slots=True)
class Airport:
    """An airport. Elevation in feet, place in degrees; codes and places that it has not are None."""

    icao: str
    iata: str | None
    name: str
    city: str | None
    subdivision: str | None
    country: str
    elevation_ft: float
    latitude: float
    longitude: float
    timezone: str
    lid: str | None


@dataclasses.dataclass(slots=True)
class Flight:
    """A flight from New York. Times of day as HHMM, local; delays and air time in minutes, None: it never flew."""

    day: datetime.date
    carrier: str
    number: int
    origin: str
    dest: str
    tail: str | None
    scheduled_departure: int
    departure: int | None
    departure_delay: int | None
    scheduled_arrival: int
    arrival: int | None
    arrival_delay: int | None
    air_time: int | None
    distance_miles: int


airports = Table("airport", Airport, key="icao", unique=["iata"], index=["country"], prefix=PREFIX)
flights = Table(
    "flight",
    Flight,
    key=("day", "carrier", "number", "origin"),
    index=[Index("carrier", "day", covering=("dest", "departure_delay"))],
    prefix=PREFIX,
)


@dataclasses.dataclass(slots=True)
class Offer:
    """A flight on sale: seats left, and the money earned so far. The row that all buyers of the flight want."""

    flight: str
    left: int
    earned: int


@dataclasses.dataclass(slots=True)
class Seat:
    """A seat that is sold."""

    flight: str
    number: int
    buyer: int


@dataclasses.dataclass(slots=True)
class Purse:
    """What a buyer has left."""

    buyer: int
    money: int


offers = Table("offer", Offer, key="flight", prefix=PREFIX)
seats = Table("seat", Seat, key=("flight", "number"), prefix=PREFIX)
purses = Table("purse", Purse, key="buyer", prefix=PREFIX)

TABLES: Final = (airports, flights, offers, seats, purses)
