from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def sound(stores_end_sound: Any) -> None:
    """Whatever a test does, locks, versions and values agree afterwards."""
