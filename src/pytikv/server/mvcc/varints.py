"""The three ways in which TiKV writes numbers and byte strings into lock and write records, and a parser for them.

*var_u64* is LEB128. *Compact bytes* are their length, as LEB128 of its zig-zag form (twice the length), then the bytes.
Fixed numbers are eight bytes, big-endian. A parser raises `Damage` wherever the bytes end too early or say what no
encoder says; the record's decoder turns that into a StorageError.

Source: TiKV components/tikv_util/src/codec/{number,bytes}.rs.
"""

from __future__ import annotations

import struct

from pytikv.codec import envelope

__all__ = ["Damage", "Parser", "compact_bytes", "fixed", "varint"]

_VARINT_BYTES_MAX = 10
_NINE_BYTES = 1 << 56
_TEN_BYTES = 1 << 63
_CONTINUED = 0x8080808080808080
_pack_nine = struct.Struct("<QB").pack


class Damage(ValueError):
    """The bytes are not what an encoder wrote; the text says why."""


def varint(value: int) -> bytes:
    """Encode an unsigned number of up to 64 bits.

    One of nine bytes, as every timestamp of our age is, has its groups of seven bits moved apart by halves: in groups
    of four, of two, each by itself.
    """
    if not _NINE_BYTES <= value < _TEN_BYTES:
        return envelope.varint(value)
    bits = (value & 0x0FFFFFFF) | (value & 0xFFFFFFF0000000) << 4
    bits = (bits & 0x00003FFF00003FFF) | (bits & 0x0FFFC0000FFFC000) << 2
    bits = (bits & 0x007F007F007F007F) | (bits & 0x3F803F803F803F80) << 1
    return _pack_nine(bits | _CONTINUED, value >> 56)


def compact_bytes(data: bytes) -> bytes:
    """Encode a byte string."""
    return varint(len(data) << 1) + data


def fixed(value: int) -> bytes:
    """Encode a number of 64 bits in eight bytes."""
    return value.to_bytes(8, "big")


class Parser:
    """A place in a record."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    @property
    def more(self) -> bool:
        """Whether bytes are left."""
        return self.at < len(self.data)

    def byte(self) -> int:
        """Read one byte."""
        if self.at >= len(self.data):
            raise Damage("it ends too early")
        self.at += 1
        return self.data[self.at - 1]

    def take(self, size: int) -> bytes:
        """Read `size` bytes."""
        end = self.at + size
        if end > len(self.data):
            raise Damage("it ends too early")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def fixed(self) -> int:
        """Read a number of eight bytes."""
        return int.from_bytes(self.take(8), "big")

    def varint(self) -> int:
        """Read a LEB128 number of at most 64 bits."""
        data, at = self.data, self.at
        value = shift = 0
        for byte in data[at : at + _VARINT_BYTES_MAX]:
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                self.at = at
                return value
            shift += 7
        too_long = shift == 7 * _VARINT_BYTES_MAX or value >> 64
        raise Damage("a number in it has more than 64 bits" if too_long else "it ends too early")

    def compact_bytes(self) -> bytes:
        """Read a byte string."""
        size = self.varint()
        if size & 1:
            raise Damage("a length in it is negative")
        return self.take(size >> 1)
