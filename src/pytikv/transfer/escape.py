r"""Keys and values as text that people can read and type again.

Printable ASCII stands for itself, a backslash is written ``\\``, any other byte ``\xNN``. The way back also takes
``\n``, ``\r``, ``\t``, ``\0`` and any character beyond ASCII, which stands for its UTF-8 bytes; what was undecodable on
the command line comes through as the bytes it was (surrogateescape). `unescape(escape(data)) == data` for all bytes.
"""

from __future__ import annotations

import re

from pytikv.errors import InvalidArgument

__all__ = ["escape", "unescape"]

_TABLE = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0x100))} | {0x5C: "\\\\"}
_SPECIAL = re.compile(rb"[^ -\[\]-~]")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|[\\nrt0]|)")
_SINGLE = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t", "0": "\0"}


def escape(data: bytes) -> str:
    r"""Return `data` as printable ASCII.

    >>> print(escape(b"user\x00\\1"))
    user\x00\\1
    """
    text = data.decode("latin-1")
    return text.translate(_TABLE) if _SPECIAL.search(data) else text


def unescape(text: str) -> bytes:
    r"""Return the bytes that `text` stands for; raises InvalidArgument where a backslash begins nothing known.

    >>> unescape(r"user\x00\\1")
    b'user\x00\\1'
    """
    if "\\" not in text:
        return text.encode("utf-8", "surrogateescape")
    out = bytearray()
    end = 0
    for match in _ESCAPE.finditer(text):
        out += text[end : match.start()].encode("utf-8", "surrogateescape")
        end = match.end()
        out += _escaped_byte(match[1], match.start())
    out += text[end:].encode("utf-8", "surrogateescape")
    return bytes(out)


def _escaped_byte(code: str, position: int) -> bytes:
    if not code:
        raise InvalidArgument(
            f"a backslash at position {position + 1} begins no escape: write \\xNN for a byte, \\\\ for a backslash"
        )
    return bytes.fromhex(code[1:]) if code[0] == "x" else _SINGLE[code].encode()
