"""Tables through the blocking and the asyncio client, by one suite; embedded and over the network."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parents[1] / room) for room in ("model", "patterns", "client_txn_writes", "txn_fakes")]

from model_drivers import DRIVERS

from pytikv.model import table
from pytikv.testing.server import ServerProcess


@pytest.fixture(autouse=True)
def tables_of_others_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of these tests may have the names of other tests' tables."""
    monkeypatch.setattr(table, "_places", weakref.WeakValueDictionary())


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of a fresh embedded store."""
    made = DRIVERS[request.param]("embedded://:memory:")
    yield made
    made.close()


@pytest.fixture(scope="session", params=["1", "2"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, Any]]]:
    """A development server's URL, and the options of its clients."""
    with ServerProcess(api_version=request.param) as process:
        yield process.url, {"api_version": int(request.param)}


@pytest.fixture(params=DRIVERS)
def remote_driver(request: pytest.FixtureRequest, server: tuple[str, dict[str, Any]]) -> Iterator[Any]:
    """A client of a development server."""
    url, options = server
    made = DRIVERS[request.param](url, **options)
    yield made
    made.close()
