"""The table that `model_measures` loads: flights as their file has them, with two indexes. Named to `pytikv table`."""

from __future__ import annotations

import dataclasses

from pytikv.model import Table

__all__ = ["flights"]


@dataclasses.dataclass(slots=True)
class Flight:
    """A flight of 2013 from New York; columns of the file that are not here are passed over."""

    year: int
    month: int
    day: int
    carrier: str
    flight: int
    origin: str
    dest: str
    tailnum: str | None
    sched_dep_time: int
    dep_time: int | None
    dep_delay: int | None
    arr_delay: int | None
    air_time: int | None
    distance: int


flights = Table(
    "flight",
    Flight,
    key=("carrier", "year", "month", "day", "flight", "origin"),
    index=["tailnum", ("origin", "dest")],
)
