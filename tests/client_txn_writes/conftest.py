"""Fixtures of the writing half's tests; what they are made of is in `txn_world`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # for txn_world
sys.path.append(str(Path(__file__).parents[1] / "txn_fakes"))

from pytikv.testing.sim import World


@pytest.fixture
def world() -> Iterator[World]:
    with World(7) as made:
        yield made


@pytest.fixture
def store(world: World) -> Any:
    from txn_world import Store

    return Store(world)


@pytest.fixture(scope="session")
def serving() -> Any:
    """The class `Serving` of the raw client's tests: a server in a thread of its own."""
    from txn_regions import raw_fakes

    return raw_fakes().Serving
