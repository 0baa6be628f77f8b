"""The one place that knows the library `hdrhistogram` (extra `bench`): latencies with three digits, 1 us to 1 h.

Values are nanoseconds; what is shorter or longer counts as the nearest that fits. `encode` gives the library's own text
form (base64 of HdrHistogram's V2 encoding), which other tools read and `decode` takes back without loss.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

from pytikv.errors import ConfigError

__all__ = ["PERCENTILES", "Histogram"]

PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0, 99.9, 99.99)

_LOWEST_NS: Final = 1_000
_HIGHEST_NS: Final = 3_600_000_000_000
_DIGITS: Final = 3


def _library() -> Any:
    try:
        return importlib.import_module("hdrh.histogram").HdrHistogram
    except ImportError:
        raise ConfigError('bench needs hdrhistogram: pip install "pytikv[bench]"') from None


class Histogram:
    """Latencies of one kind. For one thread."""

    def __init__(self, inner: Any = None) -> None:
        self._inner = _library()(_LOWEST_NS, _HIGHEST_NS, _DIGITS) if inner is None else inner
        self._record = self._inner.record_value

    def __len__(self) -> int:
        return int(self._inner.get_total_count())

    def add(self, nanoseconds: int) -> None:
        """Count one latency."""
        self._record(min(max(nanoseconds, _LOWEST_NS), _HIGHEST_NS))

    def merge(self, other: Histogram) -> None:
        """Count the latencies of another histogram too."""
        self._inner.add(other._inner)

    def clear(self) -> None:
        """Forget all."""
        self._inner.reset()

    def percentile_us(self, percent: float) -> float:
        """Return the latency, in microseconds, that `percent` of all do not exceed; 0.0 where there are none."""
        return float(self._inner.get_value_at_percentile(percent)) / 1000 if len(self) else 0.0

    def summary(self) -> dict[str, float]:
        """Return mean, percentiles and maximum, in microseconds, by name: `mean_us`, `p50_us`, ..., `max_us`."""
        if not len(self):
            return {}
        found = {"mean_us": round(float(self._inner.get_mean_value()) / 1000, 1)}
        found |= {f"p{percent:g}_us": round(self.percentile_us(percent), 1) for percent in PERCENTILES}
        return found | {"max_us": round(float(self._inner.get_max_value()) / 1000, 1)}

    def encode(self) -> str:
        """Return the text form."""
        return str(self._inner.encode().decode("ascii"))

    @classmethod
    def decode(cls, text: str) -> Histogram:
        """Return the histogram of a text form."""
        return cls(_library().decode(text.encode("ascii")))
