from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytikv.server.engine.interface import Engine
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.rocks import RocksEngine


@pytest.fixture(params=["memory", "rocks"])
def make_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Engine]]:
    made: list[Engine] = []

    def make() -> Engine:
        engine: Engine = MemoryEngine() if request.param == "memory" else RocksEngine(str(tmp_path / f"db{len(made)}"))
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def engine(make_engine: Callable[[], Engine]) -> Engine:
    return make_engine()
