"""Checks of what callers pass, before anything is sent: types and ranges, with messages that name the argument.

Keys and values are `bytes` and nothing else: text has no one encoding, and a mutable buffer could change under a retry.
The empty key is a key like any other, as in TiKV's raw API; limits of length are the store's own and answered by it.
Values are never shown in a message.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any, Final

from pytikv.errors import InvalidArgument, WrongType

__all__ = [
    "MAX_SCAN_PAGE",
    "check_bytes",
    "check_count",
    "check_key",
    "check_keys",
    "check_pairs",
    "check_range",
    "check_seconds",
    "check_ttl",
    "check_value",
    "prefix_end",
]

MAX_SCAN_PAGE: Final = 10_240
_MAX_TTL: Final = (1 << 63) - 1


def check_bytes(name: str, value: object) -> None:
    """Raise WrongType unless `value` is bytes."""
    if not isinstance(value, bytes):
        raise WrongType(f"{name} must be bytes, not {_kind(value)}")


def check_key(key: object) -> None:
    """Raise WrongType unless `key` is bytes."""
    if not isinstance(key, bytes):
        raise WrongType(f"a key must be bytes, not {_kind(key)}")


def check_value(value: object) -> None:
    """Raise WrongType unless `value` is bytes."""
    if not isinstance(value, bytes):
        raise WrongType(f"a value must be bytes, not {_kind(value)}")


def check_ttl(ttl: object) -> int:
    """Return the TTL in seconds as it is sent: 0 for None. Raises WrongType, InvalidArgument for one below 0."""
    if ttl is None:
        return 0
    if isinstance(ttl, bool) or not isinstance(ttl, int):
        raise WrongType(f"ttl must be whole seconds as an int, or None, not {_kind(ttl)}")
    if not 0 <= ttl <= _MAX_TTL:
        raise InvalidArgument(f"ttl must be between 0 (no expiry) and 2**63 - 1 seconds, not {ttl}")
    return ttl


def check_count(name: str, value: object, *, low: int = 1, high: int | None = None) -> int:
    """Return an integer option. Raises WrongType, InvalidArgument out of range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise WrongType(f"{name} must be an int, not {_kind(value)}")
    if value < low or (high is not None and value > high):
        bound = f"at least {low}" if high is None else f"between {low} and {high}"
        raise InvalidArgument(f"{name} must be {bound}, not {value}")
    return value


def check_seconds(name: str, value: object, *, high: float = math.inf) -> float:
    """Return a number of seconds, 0 or more. Raises WrongType, InvalidArgument out of range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongType(f"{name} must be a number of seconds, not {_kind(value)}")
    if not 0 <= value <= high:
        bound = "at least 0" if high == math.inf else f"between 0 and {high:g}"
        raise InvalidArgument(f"{name} must be {bound} seconds, not {value}")
    return float(value)


def check_range(start: object, end: object) -> tuple[bytes, bytes]:
    """Return a range with None as `b""` (unbounded). A start above the end is an empty range, not an error."""
    if start is not None:
        check_bytes("start", start)
    if end is not None:
        check_bytes("end", end)
    return start or b"", end or b""  # type: ignore[return-value]  # both are bytes here: check_bytes raised otherwise


def check_keys(keys: object) -> list[bytes]:
    """Return the keys of a batch, each once, in the order given. Raises WrongType."""
    if isinstance(keys, (bytes, bytearray, memoryview, str)) or not isinstance(keys, Iterable):
        raise WrongType(f"keys must be an iterable of bytes, not {_kind(keys)}")
    found = list(keys)
    if set(map(type, found)) - {bytes}:  # the plain case is one pass in C
        for key in found:
            check_key(key)
    return found if len(set(found)) == len(found) else list(dict.fromkeys(found))


def check_pairs(pairs: object, ttl: object) -> list[tuple[bytes, bytes, int]]:
    """Return the pairs of a batch_put as (key, value, ttl in seconds); the last one of a key that stands twice.

    Raises WrongType, and InvalidArgument where a pair has a TTL of its own and the batch has one too.
    """
    common = check_ttl(ttl)
    if isinstance(pairs, Mapping):
        entries: list[Any] = list(pairs.items())
    elif isinstance(pairs, Iterable) and not isinstance(pairs, (bytes, bytearray, memoryview, str)):
        entries = list(pairs)
    else:
        raise WrongType(f"pairs must be a mapping or an iterable of (key, value[, ttl]), not {_kind(pairs)}")
    if set(map(type, entries)) == {tuple} and set(map(len, entries)) == {2}:  # the plain case: passes in C, no more
        keys, values = zip(*entries, strict=True)
        if set(map(type, keys)) == {bytes} == set(map(type, values)):
            last = dict(entries)
            return list(zip(last, last.values(), repeat(common)))
    return _check_each(entries, ttl, common)


def _check_each(entries: list[Any], ttl: object, common: int) -> list[tuple[bytes, bytes, int]]:
    found: dict[bytes, tuple[bytes, bytes, int]] = {}
    for entry in entries:
        if not isinstance(entry, (tuple, list)) or not 2 <= len(entry) <= 3:
            raise WrongType(f"a pair must be (key, value) or (key, value, ttl), not {_kind(entry)}")
        key, value = entry[0], entry[1]
        check_key(key)
        check_value(value)
        own = common
        if len(entry) == 3:
            if ttl is not None:
                raise InvalidArgument("give one ttl for the batch or one in each pair, not both")
            own = check_ttl(entry[2])
        found[key] = (key, value, own)
    return list(found.values())


def prefix_end(prefix: bytes) -> bytes:
    """Return the end of the range of all keys that begin with `prefix`; `b""` where it is unbounded.

    >>> prefix_end(b"a\\xff")
    b'b'
    """
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else b""


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
