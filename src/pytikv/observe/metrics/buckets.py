"""Buckets of histograms, and whether one process counts or several."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from pytikv.errors import ConfigError

__all__ = ["DEFAULT_BUCKETS", "IS_MULTIPROCESS", "SIZES", "check_buckets"]

DEFAULT_BUCKETS: Final[tuple[float, ...]] = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds in seconds of all durations: a millisecond, and a tenth of one, can be told from the next."""

SIZES: Final = tuple(float(1 << power) for power in range(0, 14))
"""Upper bounds of numbers of keys, timestamps and commands: 1, 2, 4, ... 8192."""

IS_MULTIPROCESS: Final = "PROMETHEUS_MULTIPROC_DIR" in os.environ or "prometheus_multiproc_dir" in os.environ
"""Whether several processes are told as one."""


def check_buckets(buckets: Iterable[float]) -> tuple[float, ...]:
    """Return upper bounds in seconds, without the last one, infinity. Raises ConfigError unless positive and rising."""
    if isinstance(buckets, (str, bytes)) or not isinstance(buckets, Iterable):
        raise ConfigError("buckets must be a sequence of seconds, such as (0.001, 0.01, 0.1)")
    bounds: list[float] = []
    for bound in buckets:
        if isinstance(bound, bool) or not isinstance(bound, (int, float)) or math.isnan(bound):
            raise ConfigError(f"buckets must be numbers of seconds, not {bound!r}")
        bounds.append(float(bound))
    if bounds and bounds[-1] == math.inf:
        bounds.pop()
    if not bounds:
        raise ConfigError("buckets must not be empty")
    if bounds[0] <= 0 or any(low >= high for low, high in pairwise(bounds)):
        raise ConfigError(f"buckets must be positive and rise, one above the other, and these do not: {bounds}")
    return tuple(bounds)
