from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from actions_transcript import Transcript


@pytest.fixture
def transcript() -> Transcript:
    """An empty store that runs transcripts."""
    return Transcript()
