"""Bars for the terminal, out of plain text, so that they also read well in a log."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["bars"]

_EIGHTHS = " ▏▎▍▌▋▊▉"


def bars(rows: Sequence[tuple[str, float, str]], *, width: int = 40) -> list[str]:
    """Return one line for each (label, size, text after the bar); the largest size fills `width` characters."""
    if not rows:
        return []
    label_width = max(len(label) for label, _, _ in rows)
    largest = max(size for _, size, _ in rows) or 1
    return [f"{label:>{label_width}} {_bar(size / largest * width):<{width}} {text}" for label, size, text in rows]


def _bar(length: float) -> str:
    eighths = round(length * 8)
    if not eighths and length > 0:
        eighths = 1
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")
