"""What holds for every test: nothing is left behind, and no configuration leaks in from the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more about the machine than about the code.
settings.register_profile("pytikv", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pytikv")


@pytest.fixture(autouse=True)
def nothing_is_left_behind(pytikv_leak_guard: None) -> None:
    """Every test is guarded."""


class StoreChecks:
    """What `stores_end_sound` expects of the stores of one test."""

    damage_is_expected = False


@pytest.fixture
def stores_end_sound(monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreChecks]:
    """Every store with transactional data that a test opens is checked when its engine closes, or at the test's end."""
    from pytikv.server.storage.txn_storage import TxnStorage

    unchecked: dict[int, TxnStorage] = {}
    problems: list[str] = []
    make = TxnStorage.__init__

    def check(storage: TxnStorage) -> None:
        if unchecked.pop(id(storage.engine), None) is not None:
            problems.extend(map(str, storage.check_consistency().problems))

    def make_and_remember(storage: TxnStorage, engine: Any, *args: Any, **options: Any) -> None:
        make(storage, engine, *args, **options)
        unchecked[id(engine)] = storage
        close = engine.close

        def close_checked() -> None:
            check(storage)
            close()

        engine.close = close_checked

    monkeypatch.setattr(TxnStorage, "__init__", make_and_remember)
    checks = StoreChecks()
    yield checks
    for storage in list(unchecked.values()):
        check(storage)
    assert bool(problems) is checks.damage_is_expected, problems


@pytest.fixture(autouse=True, scope="session")
def no_configuration_from_outside() -> None:
    """Options in the developer's environment must not change what the tests see."""
    for name in [name for name in os.environ if name.startswith("PYTIKV_")]:
        del os.environ[name]
