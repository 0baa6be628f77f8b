"""The envelope of BatchCommands, encoded and decoded by hand: it lies around every hot request and answer.

BatchCommandsRequest and BatchCommandsResponse have the same layout where it matters: field 1 is a list of messages
that each hold one command in a `oneof` (`slot` is its field number, `body` the serialized command), field 2 the packed
list of ids, one for each. So one pair of functions serves both directions and both roles. Further fields of the
response (load, health feedback, send time) come back unparsed on demand; unknown ones are skipped.

Bodies are never looked into. `decode` checks every length against the end of its buffer and raises EnvelopeError for
anything malformed; it makes nothing larger than its input.

Source: kvproto, proto/tikvpb.proto; protobuf's encoding guide.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

__all__ = [
    "Command",
    "EnvelopeError",
    "decode",
    "decode_feedback",
    "encode",
    "encode_alike",
    "encode_one",
    "slot_tag",
    "varint",
]

HEALTH_FEEDBACK_FIELD: Final = 4
_FEEDBACK_TAG: Final = HEALTH_FEEDBACK_FIELD << 3 | 2  # one byte
_SMALL: Final = 2048
_SHORT: Final = 16_000


class EnvelopeError(ValueError):
    """The bytes are no envelope."""


class Command(NamedTuple):
    """One entry: the `oneof`'s field number (0: none set), the serialized command, and its id."""

    slot: int
    body: bytes
    id: int


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_VARINTS: Final = tuple(_encode_varint(value) for value in range(_SMALL))
_TAGS: Final = tuple(_encode_varint(slot << 3 | 2) for slot in range(512))


def varint(value: int) -> bytes:
    """Encode an unsigned number of up to 64 bits."""
    return _VARINTS[value] if value < _SMALL else _encode_varint(value)


def slot_tag(slot: int) -> bytes:
    """Return the bytes that open a message in field `slot`."""
    return _TAGS[slot]


def encode_one(slot: int, body: bytes, command_id: int, tail: bytes = b"") -> bytes:
    """Encode an envelope with one command. `tail` stands behind the body, and is part of it."""
    size = len(body) + len(tail)
    opening = _TAGS[slot] + (_VARINTS[size] if size < _SMALL else _encode_varint(size))
    size += len(opening)
    ident = _VARINTS[command_id] if command_id < _SMALL else _encode_varint(command_id)
    return b"".join(
        (
            b"\x0a",
            _VARINTS[size] if size < _SMALL else _encode_varint(size),
            opening,
            body,
            tail,
            b"\x12",
            _VARINTS[len(ident)],
            ident,
        )
    )


def encode(commands: Iterable[tuple[int, bytes, int]]) -> bytes:
    """Encode an envelope with any number of commands, each (slot, body, id). Slot 0 makes an empty entry."""
    parts: list[bytes] = []
    idents: list[bytes] = []
    for slot, body, command_id in commands:
        if slot:
            size = len(body)
            opening = _TAGS[slot] + (_VARINTS[size] if size < _SMALL else _encode_varint(size))
            size += len(opening)
            parts += (b"\x0a", _VARINTS[size] if size < _SMALL else _encode_varint(size), opening, body)
        else:
            parts.append(b"\x0a\x00")
        idents.append(_VARINTS[command_id] if command_id < _SMALL else _encode_varint(command_id))
    packed = b"".join(idents)
    if packed:
        parts += (b"\x12", varint(len(packed)), packed)
    return b"".join(parts)


def encode_alike(slot: int, commands: Iterable[tuple[int, bytes, int]], tail: bytes) -> bytes:
    """As `encode`, for commands of one slot that all end alike: `tail` stands behind each body."""
    tag = _TAGS[slot]
    more = len(tail)
    parts: list[bytes] = []
    idents: list[bytes] = []
    for _, body, command_id in commands:
        size = len(body) + more
        opening = tag + (_VARINTS[size] if size < _SMALL else _encode_varint(size))
        size += len(opening)
        parts += (b"\x0a", _VARINTS[size] if size < _SMALL else _encode_varint(size), opening, body, tail)
        idents.append(_VARINTS[command_id] if command_id < _SMALL else _encode_varint(command_id))
    packed = b"".join(idents)
    if packed:
        parts += (b"\x12", varint(len(packed)), packed)
    return b"".join(parts)


def _read_varint(data: bytes, pos: int, end: int) -> tuple[int, int]:
    if pos < end and data[pos] < 128:
        return data[pos], pos + 1
    value = shift = 0
    while pos < end and shift < 70:
        byte = data[pos]
        pos += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, pos
        shift += 7
    raise EnvelopeError("a number is cut short or too long")


def _skip(data: bytes, pos: int, end: int, wire_type: int) -> int:
    """Return where the field's value ends."""
    if wire_type == 0:
        return _read_varint(data, pos, end)[1]
    if wire_type == 2:
        size, pos = _read_varint(data, pos, end)
        pos += size
    elif wire_type == 1:
        pos += 8
    elif wire_type == 5:
        pos += 4
    else:
        raise EnvelopeError("a field of an unknown kind")
    if pos > end:
        raise EnvelopeError("a field is cut short")
    return pos


def _decode_entry(data: bytes, pos: int, end: int) -> tuple[int, bytes]:
    slot = 0
    body = b""
    while pos < end:
        tag, pos = _read_varint(data, pos, end)
        if tag & 7 == 2:
            size, pos = _read_varint(data, pos, end)
            if pos + size > end:
                raise EnvelopeError("a command is cut short")
            slot, body = tag >> 3, data[pos : pos + size]
            pos += size
        else:
            pos = _skip(data, pos, end, tag & 7)
    return slot, body


def _decode_lone(data: bytes, start: int) -> Command | None:
    """Take an envelope apart that holds one short command of a low slot, as most do; None: it may be anything else."""
    try:
        size, pos = data[start + 1], start + 2
        if size > 127:
            size, pos = size & 127 | data[pos] << 7, pos + 1
        stop = pos + size
        tag, size, pos = data[pos], data[pos + 1], pos + 2
        if size > 127:
            size, pos = size & 127 | data[pos] << 7, pos + 1
        if (
            pos + size != stop
            or size > _SHORT
            or data[start] != 0x0A
            or tag & 0x87 != 2
            or data[stop] != 0x12
            or stop + 2 + data[stop + 1] != len(data)
        ):
            return None
        ident, end = _read_varint(data, stop + 2, len(data))
    except (IndexError, EnvelopeError):
        return None
    return Command(tag >> 3, data[pos:stop], ident) if end == len(data) else None


def decode(data: bytes, start: int = 0) -> list[Command]:
    """Decode the commands of an envelope that fills `data` from `start` on. Raises EnvelopeError."""
    lone = _decode_lone(data, start)
    return _decode_any(data, start) if lone is None else [lone]


def _decode_any(data: bytes, start: int) -> list[Command]:
    entries: list[tuple[int, bytes]] = []
    ids: list[int] = []
    pos, end = start, len(data)
    while pos < end:
        tag = data[pos]
        if tag == 0x0A:
            size, pos = _read_varint(data, pos + 1, end)
            stop = pos + size
            if stop > end:
                raise EnvelopeError("an entry is cut short")
            entries.append(_decode_entry(data, pos, stop))
            pos = stop
        elif tag == 0x12:
            size, pos = _read_varint(data, pos + 1, end)
            stop = pos + size
            if stop > end:
                raise EnvelopeError("the list of ids is cut short")
            while pos < stop:
                byte = data[pos]
                if byte < 128:
                    pos += 1
                    ids.append(byte)
                else:
                    number, pos = _read_varint(data, pos, stop)
                    ids.append(number)
        elif tag == 0x10:
            number, pos = _read_varint(data, pos + 1, end)
            ids.append(number)
        else:
            number, pos = _read_varint(data, pos, end)
            pos = _skip(data, pos, end, number & 7)
    if len(entries) != len(ids):
        raise EnvelopeError(f"{len(entries)} commands but {len(ids)} ids")
    new = tuple.__new__
    return [new(Command, (*entry, ident)) for entry, ident in zip(entries, ids, strict=True)]


def decode_feedback(data: bytes, start: int = 0) -> bytes | None:
    """Return the serialized HealthFeedback of a response, if it carries one. Raises EnvelopeError."""
    if data.find(_FEEDBACK_TAG, start) < 0:
        return None  # most responses carry none, and short ones show it at a glance
    found: bytes | None = None
    pos, end = start, len(data)
    while pos < end:
        if data[pos] == 0x0A and pos + 2 < end:  # a command of up to 16 KiB, of which there may be many
            size, more = data[pos + 1], data[pos + 2]
            if size < 128 or more < 128:
                pos += 2 + size if size < 128 else 3 + (size & 127 | more << 7)
                continue
        tag, pos = _read_varint(data, pos, end)
        stop = _skip(data, pos, end, tag & 7)
        if tag == _FEEDBACK_TAG:
            size, pos = _read_varint(data, pos, end)
            found = data[pos : pos + size]
        pos = stop
    if pos > end:
        raise EnvelopeError("a command is cut short")
    return found
