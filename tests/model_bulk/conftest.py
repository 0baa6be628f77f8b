"""Loading and exporting through the blocking and the asyncio client; embedded and over the network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # for bulk_tables
sys.path.append(str(Path(__file__).parents[1] / "model"))  # for model_drivers

from model_drivers import DRIVERS

from pytikv.testing.server import ServerProcess


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of a fresh embedded store."""
    made = DRIVERS[request.param]("embedded://:memory:")
    yield made
    made.close()


@pytest.fixture
def db() -> Iterator[Any]:
    """A blocking client of a fresh embedded store."""
    made = DRIVERS["blocking"]("embedded://:memory:")
    yield made.db
    made.close()


@pytest.fixture
def server_url(tikv_server: ServerProcess) -> str:
    tikv_server.clear()
    return tikv_server.url
