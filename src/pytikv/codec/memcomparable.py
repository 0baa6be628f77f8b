"""The order-preserving encoding of byte strings that TiKV uses for MVCC keys and region borders.

The input is cut into groups of 8 bytes; each is padded with zeros and followed by one marker byte, 0xFF minus the
number of padding bytes. An input whose length is a multiple of 8 ends with a group of eight zeros and 0xF7. Comparing
encodings byte by byte compares the inputs, and no encoding is a prefix of another.

The *empty border* of a region means infinity, not the empty key: `encode_border` and `decode_border` leave it alone.

Source: tikv components/codec/src/byte.rs (MemComparableByteCodec), client-go util/codec/bytes.go.
"""

from __future__ import annotations

__all__ = ["decode", "decode_border", "encode", "encode_border"]

_GROUP = 8
_SHORT = 64
_PADDING = [b"\x00" * n + bytes([0xFF - n]) for n in range(_GROUP + 1)]


def encode(data: bytes) -> bytes:
    """Encode `data`: n bytes in, (n // 8 + 1) * 9 out. Every byte string has an encoding.

    >>> encode(b"abc").hex()
    '6162630000000000fa'
    """
    size = len(data)
    if size < _GROUP:
        return data + _PADDING[_GROUP - size]
    if size < 2 * _GROUP:
        return data[:8] + b"\xff" + data[8:] + _PADDING[16 - size]
    if size < 3 * _GROUP:
        return data[:8] + b"\xff" + data[8:16] + b"\xff" + data[16:] + _PADDING[24 - size]
    whole = size - size % _GROUP
    if size < _SHORT:
        # Most keys: appending beats a list and a join.
        encoded = b""
        for i in range(0, whole, _GROUP):
            encoded += data[i : i + _GROUP] + b"\xff"
        return encoded + data[whole:] + _PADDING[_GROUP - (size - whole)]
    parts = [data[i : i + _GROUP] + b"\xff" for i in range(0, whole, _GROUP)]
    parts.append(data[whole:] + _PADDING[_GROUP - (size - whole)])
    return b"".join(parts)


def decode(data: bytes) -> tuple[bytes, bytes]:
    """Decode one encoding at the start of `data`; return the bytes and what follows it.

    Raises ValueError when `data` does not begin with an encoding.
    """
    parts = []
    position = 0
    while True:
        group = data[position : position + _GROUP + 1]
        if len(group) <= _GROUP:
            raise ValueError("memcomparable bytes end inside a group")
        position += _GROUP + 1
        padding = 0xFF - group[_GROUP]
        if padding == 0:
            parts.append(group[:_GROUP])
            continue
        if padding > _GROUP or group[_GROUP - padding : _GROUP].strip(b"\x00"):
            raise ValueError("memcomparable bytes have a wrong padding")
        parts.append(group[: _GROUP - padding])
        return b"".join(parts), data[position:]


def encode_border(key: bytes) -> bytes:
    """Encode a region border; the empty border (infinity) stays empty."""
    return encode(key) if key else b""


def decode_border(key: bytes) -> bytes:
    """Decode a region border; the empty border (infinity) stays empty. Raises ValueError on other bytes."""
    if not key:
        return b""
    decoded, rest = decode(key)
    if rest:
        raise ValueError("a region border has bytes after its encoding")
    return decoded
