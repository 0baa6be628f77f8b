"""FarmHash's Fingerprint64: the number by which TiKV names a key in lock waits and deadlocks.

A fingerprint never changes between versions or machines. Inputs take one of four ways by length (to 16 bytes, to 32, to
64, longer); every way mixes words read little endian from both ends of the input, so short inputs are read twice. All
arithmetic is on 64 bits. The longer way keeps 56 bytes of state over blocks of 64 and finishes with the last 64 bytes
of the input, wherever they begin.

Pure; about 3 us for a short key. Source: google/farmhash src/farmhash.cc, namespace farmhashna (facts); the vectors of
the test come from another implementation of it.
"""

from __future__ import annotations

from typing import Final

__all__ = ["fingerprint64"]

_MASK: Final = (1 << 64) - 1
_K0: Final = 0xC3A5C85C97CB3127
_K1: Final = 0xB492B66FBE98F273
_K2: Final = 0x9AE16A3B2F90404F
_SEED: Final = 81


def fingerprint64(data: bytes) -> int:
    """Return the fingerprint of `data`, 0 to 2**64 - 1.

    >>> hex(fingerprint64(b"abc"))
    '0x24a5b3a074e7f369'
    """
    size = len(data)
    if size <= 16:
        return _up_to_16(data, size)
    if size <= 32:
        return _up_to_32(data, size)
    if size <= 64:
        return _up_to_64(data, size)
    return _longer(data, size)


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _half(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _rotate(value: int, bits: int) -> int:
    value &= _MASK
    return (value >> bits | value << (64 - bits)) & _MASK


def _fold(value: int) -> int:
    value &= _MASK
    return value ^ value >> 47


def _join(low: int, high: int, factor: int) -> int:
    """Mix two words into one."""
    mixed = _fold(((low ^ high) & _MASK) * factor)
    return _fold((high & _MASK ^ mixed) * factor) * factor & _MASK


def _up_to_16(data: bytes, size: int) -> int:
    if size >= 8:
        factor = _K2 + size * 2
        first, last = _word(data, 0) + _K2, _word(data, size - 8)
        low = _rotate(last, 37) * factor + first
        return _join(low, (_rotate(first, 25) + last) * factor, factor)
    if size >= 4:
        return _join(size + (_half(data, 0) << 3), _half(data, size - 4), _K2 + size * 2)
    if size:
        edges = data[0] + (data[size >> 1] << 8)
        return _fold(edges * _K2 ^ (size + (data[-1] << 2)) * _K0) * _K2 & _MASK
    return _K2


def _up_to_32(data: bytes, size: int) -> int:
    factor = _K2 + size * 2
    a, b = _word(data, 0) * _K1, _word(data, 8)
    c, d = _word(data, size - 8) * factor, _word(data, size - 16) * _K2
    return _join(_rotate(a + b, 43) + _rotate(c, 30) + d, a + _rotate(b + _K2, 18) + c, factor)


def _up_to_64(data: bytes, size: int) -> int:
    factor = _K2 + size * 2
    a, b = _word(data, 0) * _K2, _word(data, 8)
    c, d = _word(data, size - 8) * factor, _word(data, size - 16) * _K2
    y = _rotate(a + b, 43) + _rotate(c, 30) + d
    z = _join(y, a + _rotate(b + _K2, 18) + c, factor)
    e, f = _word(data, 16) * factor, _word(data, 24)
    g, h = (y + _word(data, size - 32)) * factor, (z + _word(data, size - 24)) * factor
    return _join(_rotate(e + f, 43) + _rotate(g, 30) + h, e + _rotate(f + a, 18) + g, factor)


def _take_32(data: bytes, at: int, a: int, b: int) -> tuple[int, int]:
    """Mix 32 bytes into a pair of words."""
    first, last = _word(data, at), _word(data, at + 24)
    a += first
    b = _rotate(b + a + last, 21)
    start = a
    a += _word(data, at + 8) + _word(data, at + 16)
    return (a + last) & _MASK, (b + _rotate(a, 44) + start) & _MASK


def _longer(data: bytes, size: int) -> int:
    v0 = v1 = w0 = w1 = 0
    x = (_SEED * _K2 + _word(data, 0)) & _MASK
    y = (_SEED * _K1 + 113) & _MASK
    z = _fold(y * _K2 + 113) * _K2 & _MASK
    for at in range(0, (size - 1) // 64 * 64, 64):
        x = _rotate(x + y + v0 + _word(data, at + 8), 37) * _K1
        y = _rotate(y + v1 + _word(data, at + 48), 42) * _K1
        x = (x ^ w1) & _MASK
        y = (y + v0 + _word(data, at + 40)) & _MASK
        z = _rotate(z + w0, 33) * _K1 & _MASK
        v0, v1 = _take_32(data, at, v1 * _K1, x + w0)
        w0, w1 = _take_32(data, at + 32, z + w1, y + _word(data, at + 16))
        x, z = z, x
    factor = _K1 + ((z & 0xFF) << 1)
    at = size - 64
    w0 += (size - 1) & 63
    v0 += w0
    w0 += v0
    x = _rotate(x + y + v0 + _word(data, at + 8), 37) * factor
    y = _rotate(y + v1 + _word(data, at + 48), 42) * factor
    x = (x ^ w1 * 9) & _MASK
    y = (y + v0 * 9 + _word(data, at + 40)) & _MASK
    z = _rotate(z + w0, 33) * factor & _MASK
    v0, v1 = _take_32(data, at, v1 * factor, x + w0)
    w0, w1 = _take_32(data, at + 32, z + w1, y + _word(data, at + 16))
    x, z = z, x
    return _join(_join(v0, w0, factor) + _fold(y) * _K0 + z, _join(v1, w1, factor) + x, factor)
