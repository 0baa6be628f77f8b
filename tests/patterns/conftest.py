"""Where the helpers of these tests are found: `model_simulation`, and the simulated store of the writing tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytikv.testing.sim import World

for room in ("patterns", "client_txn_writes", "txn_fakes"):
    sys.path.append(str(Path(__file__).parents[1] / room))


@pytest.fixture
def store() -> Iterator[Any]:
    from txn_world import Store

    with World(7) as world:
        yield Store(world)
