"""CRC-64/XZ: the polynomial of ECMA-182, reflected, with all bits inverted at both ends, as TiKV's raw checksum has it.

Two bytes a step over a table of 65536 entries, which is made at first use (10 ms); about 60 ns a byte. No library that
we depend on has this checksum. Check value of the standard: the CRC of b"123456789" is 0x995DC9BBDF1939FA.
"""

from __future__ import annotations

import functools
import struct
from typing import Final

__all__ = ["crc64"]

_POLYNOMIAL: Final = 0xC96C5795D7870F42
_ALL: Final = 0xFFFFFFFFFFFFFFFF


@functools.cache
def _byte_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return table


@functools.cache
def _pair_table() -> list[int]:
    table = _byte_table()
    return [(first := table[pair & 0xFF]) >> 8 ^ table[(first ^ pair >> 8) & 0xFF] for pair in range(65536)]


def crc64(data: bytes) -> int:
    """Return the CRC-64/XZ of `data`.

    >>> hex(crc64(b"123456789"))
    '0x995dc9bbdf1939fa'
    """
    table = _pair_table()
    crc = _ALL
    even = len(data) & ~1
    for pair in struct.unpack(f"<{even // 2}H", data[:even]):
        crc = crc >> 16 ^ table[(crc ^ pair) & 0xFFFF]
    if even < len(data):
        crc = crc >> 8 ^ _byte_table()[(crc ^ data[-1]) & 0xFF]
    return crc ^ _ALL
