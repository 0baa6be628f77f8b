"""What a connection allows its peer: sizes, counts, rates. One place, so that every queue has a named bound.

Rates are token buckets in time: a peer may do a burst, and then so many a second. Cheap frames (PING, SETTINGS, empty
DATA, PRIORITY, unknown ones, small window updates) come from one bucket; whatever ends streams early (rapid reset,
CVE-2023-44487, and frames that make this side reset, CVE-2025-8671) from another. Both refill also by useful work,
since a busy peer measuring the link may send a PING for every DATA frame (grpc-go's bandwidth estimator does).
"""

from __future__ import annotations

import dataclasses

__all__ = ["Bucket", "Http2Config"]


@dataclasses.dataclass(frozen=True, slots=True)
class Http2Config:
    """Limits of one connection.

    Sizes in bytes, rates a second. `assumed_max_streams` holds until the peer's SETTINGS say otherwise.
    """

    stream_window: int = 8 << 20
    connection_window: int = 32 << 20
    max_frame_size: int = 16_384
    max_header_list_size: int = 65_536
    max_header_block_size: int = 65_536
    max_continuation_frames: int = 32
    max_concurrent_streams: int = 1000
    assumed_max_streams: int = 100
    max_unsent_replies: int = 1000
    cheap_frames_burst: int = 10_000
    cheap_frames_per_second: float = 1000.0
    resets_burst: int = 2000
    resets_per_second: float = 500.0
    remembered_resets: int = 2000

    def __post_init__(self) -> None:
        for name, low, high in (
            ("stream_window", 1, (1 << 31) - 1),
            ("connection_window", 65_535, (1 << 31) - 1),
            ("max_frame_size", 16_384, (1 << 24) - 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must lie in {low}..{high}, not {value}")


class Bucket:
    """A token bucket: `burst` at most, refilled by time and by `give`."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst = burst
        self._left = burst
        self._rate = per_second
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Take one; False when empty."""
        if self._left < 1:
            if self._at is not None:
                self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
            if self._left < 1:
                return False
        elif self._at is None:
            self._at = now
        self._left -= 1
        return True

    def give(self) -> None:
        """Put one back."""
        if self._left < self._burst:
            self._left += 1
