from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytikv.server.engine.interface import Engine
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.rocks import RocksEngine

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(params=["memory", "rocks"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    made: Engine = MemoryEngine() if request.param == "memory" else RocksEngine(str(tmp_path / "db"))
    yield made
    made.close()
