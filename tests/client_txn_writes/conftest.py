"""Fixtures of the writing half's tests; what they are made of is in `txn_world`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for txn_world

from pytikv.testing.sim import World


@pytest.fixture
def world() -> Iterator[World]:
    with World(7) as made:
        yield made


@pytest.fixture
def store(world: World):  # type: ignore[no-untyped-def]
    from txn_world import Store

    return Store(world)
