"""What holds for every test: nothing is left behind, and no configuration leaks in from the environment."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more about the machine than about the code.
settings.register_profile("pytikv", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pytikv")


@pytest.fixture(autouse=True)
def nothing_is_left_behind(pytikv_leak_guard: None) -> None:
    """Every test is guarded."""


@pytest.fixture(autouse=True, scope="session")
def no_configuration_from_outside() -> None:
    """Options in the developer's environment must not change what the tests see."""
    for name in [name for name in os.environ if name.startswith("PYTIKV_")]:
        del os.environ[name]
