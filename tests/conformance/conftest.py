from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


# What a client asks for here breaks snapshot isolation, in TiKV as well; the check has to find it.
DAMAGING = {"prewrite-skip-constraint-check", "resolve-wrong-order"}


@pytest.fixture(autouse=True)
def sound(stores_end_sound: Any, request: pytest.FixtureRequest) -> None:
    """Whatever a scenario does, locks, versions and values agree afterwards."""
    scenario = request.node.callspec.params["scenario"] if hasattr(request.node, "callspec") else {"name": ""}
    stores_end_sound.damage_is_expected = scenario["name"] in DAMAGING
