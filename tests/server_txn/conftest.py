from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(autouse=True)
def sound(stores_end_sound: Any) -> None:
    """Whatever a test does, locks, versions and values agree afterwards."""
