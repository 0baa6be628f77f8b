"""Randomness that is split by name, so that one more draw here does not change the draws there."""

from __future__ import annotations

import random

__all__ = ["SeededRandom"]


class SeededRandom(random.Random):
    """A source of randomness with independent children by name."""

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        self._name = seed

    def child(self, name: str) -> SeededRandom:
        """Return the source called `name`: the same for the same seed and name, whatever else was drawn."""
        return SeededRandom(f"{self._name}/{name}")
