"""Header blocks: decoding with bounds, stateless encoding, and the rules for requests, responses and trailers.

Decoding is the `hpack` library's; around it stand bounds on the compressed and on the decoded size, and a small cache
of blocks that left the dynamic table as it was. A gRPC peer sends the same few blocks for every call, so most calls
cost one dictionary look-up. The cache is emptied whenever a block changes the table, since indexes then shift.

Encoding uses literals without indexing (of a credential: never to be indexed) and the static table only. It costs some
40 bytes more a call than a dynamic table would, needs no state that could go wrong, and lets whole blocks be built once
and kept.

Source: RFC 7541 sections 2.3.2, 4.3, 6.2.2; RFC 9113 section 8.2 and 8.3 (which fields are malformed).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import hpack

from pytikv.wire.http2.frames import ErrorCode, ProtocolError

__all__ = [
    "Header",
    "HeaderDecoder",
    "content_length",
    "encode_headers",
    "request_problem",
    "response_problem",
    "trailers_problem",
]

Header = tuple[bytes, bytes]

_CACHED_BLOCKS: Final = 64
_CACHED_BLOCK_BYTES: Final = 1024

_STATIC: Final[dict[Header, int]] = {
    (b":method", b"GET"): 2,
    (b":method", b"POST"): 3,
    (b":path", b"/"): 4,
    (b":scheme", b"http"): 6,
    (b":scheme", b"https"): 7,
    (b":status", b"200"): 8,
}
_STATIC_NAMES: Final[dict[bytes, int]] = {
    b":authority": 1,
    b":path": 4,
    b":status": 8,
    b"accept-encoding": 16,
    b"authorization": 23,
    b"content-type": 31,
    b"user-agent": 58,
}

_NEVER_INDEXED: Final = 0x10  # nor by whoever passes it on

_REQUEST_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_CONNECTION_FIELDS: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_BAD_IN_NAME: Final = frozenset(range(0x21)) | frozenset(range(0x41, 0x5B)) | frozenset(range(0x7F, 0x100))
_BAD_IN_VALUE: Final = frozenset((0, 10, 13))


class HeaderDecoder:
    """Decodes the blocks of one connection, in order. Raises ProtocolError; the connection is then over.

    `max_list_size` bounds the decoded list, counted as RFC 7541 4.1 does (name + value + 32 each).
    """

    __slots__ = ("_cache", "_decoder", "_entries", "_newest")

    def __init__(self, max_list_size: int) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=max_list_size)
        self._entries = self._decoder.header_table.dynamic_entries
        self._newest: object = None
        self._cache: dict[bytes, list[Header]] = {}

    def decode(self, block: bytes) -> list[Header]:
        """Decode one block. The list is shared with later calls: do not change it."""
        known = self._cache.get(block)
        if known is not None:
            return known
        try:
            headers: list[Header] = [(name, value) for name, value in self._decoder.decode(block, raw=True)]
        except hpack.OversizedHeaderListError:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "the header list is over the limit") from None
        except Exception:
            # The library's messages quote the block, which may hold a credential; older releases of it also let
            # IndexError and the like through on truncated blocks.
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, "a header block cannot be decoded") from None
        self._remember(block, headers)
        return headers

    def _remember(self, block: bytes, headers: list[Header]) -> None:
        newest = self._entries[0] if self._entries else None
        # A size update (0b001xxxxx at the start) or another newest entry: indexes may mean other fields from now on.
        # An entry too large for the table empties it, which also shows in `newest`. Holding `newest` keeps its id ours.
        if newest is not self._newest or (block and block[0] & 0xE0 == 0x20):
            self._newest = newest
            self._cache.clear()
        elif len(block) <= _CACHED_BLOCK_BYTES:
            if len(self._cache) >= _CACHED_BLOCKS:
                self._cache.clear()
            self._cache[block] = headers


def _integer(value: int, prefix_bits: int, high_bits: int) -> bytes:
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes((high_bits | value,))
    out = bytearray((high_bits | limit,))
    value -= limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_headers(headers: Iterable[Header]) -> bytes:
    """Encode a header block that neither uses nor changes a dynamic table, so that it may be kept and sent again."""
    parts: list[bytes] = []
    for name, value in headers:
        index = _STATIC.get((name, value))
        if index is not None:
            parts.append(_integer(index, 7, 0x80))
            continue
        name_index = _STATIC_NAMES.get(name, 0)
        parts.append(_integer(name_index, 4, _NEVER_INDEXED if name == b"authorization" else 0))
        if not name_index:
            parts += (_integer(len(name), 7, 0), name)
        parts += (_integer(len(value), 7, 0), value)
    return b"".join(parts)


def _field_problem(name: bytes, value: bytes) -> str | None:
    if not name:
        return "an empty field name"
    if not _BAD_IN_NAME.isdisjoint(name) or b":" in name:
        return "an ill-formed field name"
    if not _BAD_IN_VALUE.isdisjoint(value):
        return "an ill-formed field value"
    if name in _CONNECTION_FIELDS or (name == b"te" and value != b"trailers"):
        return "a connection-specific field"
    return None


def _plain_fields_problem(headers: Iterable[Header]) -> str | None:
    for name, value in headers:
        if name[:1] == b":":
            return "a pseudo-header field after a plain one, or in trailers"
        problem = _field_problem(name, value)
        if problem:
            return problem
    return None


def _split_pseudo(headers: list[Header]) -> tuple[dict[bytes, bytes], list[Header], str | None]:
    pseudo: dict[bytes, bytes] = {}
    for at, (name, value) in enumerate(headers):
        if name[:1] != b":":
            return pseudo, headers[at:], None
        if name in pseudo:
            return pseudo, [], "a pseudo-header field twice"
        if not _BAD_IN_VALUE.isdisjoint(value):
            return pseudo, [], "an ill-formed field value"
        pseudo[name] = value
    return pseudo, [], None


def request_problem(headers: list[Header]) -> str | None:
    """Return what makes a request's header list malformed, or None."""
    pseudo, plain, problem = _split_pseudo(headers)
    if problem:
        return problem
    if not _REQUEST_PSEUDO.issuperset(pseudo):
        return "an unknown pseudo-header field"
    if not pseudo.get(b":method") or not pseudo.get(b":scheme") or not pseudo.get(b":path"):
        return "no :method, :scheme or :path"
    return _plain_fields_problem(plain)


def response_problem(headers: list[Header]) -> str | None:
    """Return what makes a response's header list malformed, or None."""
    pseudo, plain, problem = _split_pseudo(headers)
    if problem:
        return problem
    status = pseudo.pop(b":status", b"")
    if pseudo:
        return "an unknown pseudo-header field"
    if len(status) != 3 or not status.isdigit():
        return "no three-digit :status"
    return _plain_fields_problem(plain)


def trailers_problem(headers: list[Header]) -> str | None:
    """Return what makes a list of trailers malformed, or None."""
    return _plain_fields_problem(headers)


def content_length(headers: Iterable[Header]) -> int | None:
    """Return the announced length of the body, -1 if ill-formed or contradictory, None if not announced."""
    found: int | None = None
    for name, value in headers:
        if name == b"content-length":
            length = int(value) if value.isdigit() and len(value) < 19 else -1
            if found is not None and found != length:
                return -1
            found = length
    return found
