"""Where a page of a query ended, as a text for the one who asked: opaque, bound to its query, and tamper-evident.

A cursor holds the query's digest and the position of the last row, with 16 bytes of HMAC-SHA256 before them, all in URL
safe base64. The digest covers the table (where it lies), the way, the conditions and the direction: a cursor fits the
query that it came from and no other, whatever the limit.

The HMAC's key comes from the table's fingerprint and the `secret` of the table's owner, if there is one. Without a
secret a cursor is safe from mistakes and from those who have not read this; with one, from everybody. A cursor's
position is not hidden: it tells the key of a row to whoever decodes it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

from pytikv.errors import WrongType
from pytikv.model.errors import CursorError

__all__ = ["MAX_CURSOR_CHARS", "open_cursor", "seal_cursor"]

MAX_CURSOR_CHARS: Final = 32_768
_MAC: Final = 16
_DIGEST: Final = 8


def seal_cursor(key: bytes, query: str, position: bytes) -> str:
    """Return the cursor of a position in a query."""
    payload = _digest(query) + position
    return base64.urlsafe_b64encode(_mac(key, payload) + payload).decode().rstrip("=")


def open_cursor(key: bytes, query: str, cursor: str) -> bytes:
    """Return the position that a cursor holds. Raises WrongType, CursorError."""
    if not isinstance(cursor, str):
        raise WrongType(f"a cursor is the text that a page gave, not {type(cursor).__name__}")
    if len(cursor) > MAX_CURSOR_CHARS:
        raise CursorError(f"a cursor has at most {MAX_CURSOR_CHARS} characters, not {len(cursor)}")
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise CursorError("this is no cursor: it is not what a page gave") from None
    mac, payload = data[:_MAC], data[_MAC:]
    if len(payload) < _DIGEST or not hmac.compare_digest(mac, _mac(key, payload)):
        raise CursorError("this cursor was changed, was cut, or belongs to another table or secret: begin without one")
    if payload[:_DIGEST] != _digest(query):
        raise CursorError(
            "this cursor is of another query: conditions, index and direction must be those of the page it came from"
        )
    return payload[_DIGEST:]


def _mac(key: bytes, payload: bytes) -> bytes:
    return hmac.digest(key, payload, "sha256")[:_MAC]


def _digest(query: str) -> bytes:
    return hashlib.sha256(query.encode("utf-8", "surrogatepass")).digest()[:_DIGEST]
