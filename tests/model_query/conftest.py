"""Fixtures of the tests of queries: an embedded store, and a prefix of its own for each table."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "client_txn_writes"))  # for txn_world
sys.path.append(str(Path(__file__).parents[1] / "txn_fakes"))

import pytikv
from pytikv.testing.sim import World

_prefixes = itertools.count()


@pytest.fixture(scope="module")
def db() -> Iterator[pytikv.TransactionClient]:
    with pytikv.TransactionClient.connect("embedded://:memory:") as client:
        yield client


@pytest.fixture(scope="module")
def new_prefix() -> Callable[[], bytes]:
    return lambda: b"%06d/" % next(_prefixes)


@pytest.fixture
def store() -> Iterator[Any]:
    from txn_world import Store

    with World(7) as world:
        yield Store(world)
