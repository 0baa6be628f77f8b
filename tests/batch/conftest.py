"""Batch writers through the blocking and the asyncio client; embedded, over the network, and simulated."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for room in ("model", "patterns"):  # for model_drivers, model_simulation
    sys.path.append(str(Path(__file__).parents[1] / room))

from model_drivers import DRIVERS  # noqa: E402


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of a fresh embedded store."""
    made = DRIVERS[request.param]("embedded://:memory:")
    yield made
    made.close()
