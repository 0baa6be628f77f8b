"""What a request cost, as its answer tells: the field `exec_details_v2`, put together by hand.

How long an answer took is known only when it leaves, and by then most of it is serialized. So an answer is *open*
first: its body ends with the header of `exec_details_v2`, whose length counts a *tail* that is not there yet. Whoever
sends the answer closes it with the tail, which holds the times; its numbers are written at a fixed width, so that its
length is known before. Every answer of an RPC in `DETAILS` is open until it is sent, refusals included, as TiKV tells
the time of these too. An open body is no message: sent by mistake, it fails at the client at once.

KvGet, answered by the ten thousand, has a tail of its own, made once for all gets of one message: `process_wall_time`
is the message's time divided by its commands, the rest of the time until they leave together is `wait_wall_time`. The
other RPCs are measured one by one (`storage.spent`): what was processed, waited for latches and locks, and written is
in the part before the tail. Two parts of one sub-message are merged by every protobuf decoder.

Times are told in steps of 256 ns, so that most requests find theirs already encoded: a get is carried out in less time
than formatting four numbers takes.

Limit: times above 34 s are told as 34 s. Sources: kvproto ExecDetailsV2; TiKV src/server/service/kv.rs
(set_time_detail, handle_measures_for_batch_commands), components/tikv_kv/src/stats.rs, components/tracker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from google.protobuf.message import Message

from pytikv.codec.envelope import varint
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.storage.spent import Spent

__all__ = [
    "FOUND_DETAILS",
    "LONE_GET_TAILS",
    "NOT_FOUND_DETAILS",
    "TAILS",
    "TICKS_PER_S",
    "VALUE_HEADS",
    "details_field",
    "get_tail",
    "opened",
    "read_parts",
    "tail",
    "write_header",
    "write_parts",
]

TICKS_PER_S: Final = 1e9 / 256
_MOST_TICKS: Final = 1 << 27
_REMEMBERED: Final = 8192
_FIELD: Final = "exec_details_v2"


class _Memo(dict[int, bytes]):
    """What a function makes of numbers, each made once. Of too many, all are forgotten. Safe for threads."""

    def __init__(self, make: Callable[[int], bytes]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, number: int) -> bytes:
        if len(self) >= _REMEMBERED:
            self.clear()
        made = self[number] = self._make(number)
        return made


def _wide(ticks: int) -> bytes:
    """Encode a time in nanoseconds as a varint of five bytes."""
    ns = 0 if ticks < 0 else ticks << 8 if ticks < _MOST_TICKS else (1 << 35) - 1
    return bytes((ns & 127 | 128, ns >> 7 & 127 | 128, ns >> 14 & 127 | 128, ns >> 21 & 127 | 128, ns >> 28))


_WIDE: Final = _Memo(_wide)


def _tail(ticks: int) -> bytes:
    return b"\x0a\x06\x20%b\x22\x06\x28%b" % (_wide(ticks), _wide(ticks))  # time_detail, time_detail_v2


def _get_tail(ticks: int, process_ticks: int) -> bytes:
    total, process, wait = _wide(ticks), _wide(process_ticks), _wide(ticks - process_ticks)
    return b"\x0a\x06\x20%b\x22\x18\x08%b\x10%b\x20%b\x28%b" % (total, wait, process, total, total)


TAILS: Final = _Memo(_tail)
"""By time in ticks: the tail of every answer but KvGet's, which tells how long the RPC took."""

LONE_GET_TAILS: Final = _Memo(lambda ticks: _get_tail(ticks, ticks))
"""By time in ticks: the tail of a KvGet's answer that leaves alone."""


def tail(total_s: float) -> bytes:
    """Return the tail of every answer but KvGet's: how long the RPC took."""
    return TAILS[int(total_s * TICKS_PER_S)]


def get_tail(total_s: float, commands: int) -> bytes:
    """Return the tail of KvGet's answer, which is one of so many that took so long together."""
    ticks = min(int(total_s * TICKS_PER_S), _MOST_TICKS)
    return LONE_GET_TAILS[ticks] if commands == 1 else _get_tail(ticks, ticks // commands)


_TAIL_BYTES: Final = len(tail(0))
_GET_TAIL_BYTES: Final = len(get_tail(0, 1))


def details_field(response: type[Message]) -> int:
    """Return the number of the field in this kind of response; 0 when it has none."""
    field = response.DESCRIPTOR.fields_by_name.get(_FIELD)
    return 0 if field is None else int(field.number)


def opened(body: bytes, field: int, parts: bytes, *, is_get: bool = False) -> bytes:
    """Return a body with the open field behind it. `parts`: what of the field is known already, serialized."""
    size = len(parts) + (_GET_TAIL_BYTES if is_get else _TAIL_BYTES)
    return b"".join((body, varint(field << 3 | 2), varint(size), parts))


def _scan(total: int, processed: int, size_bytes: int) -> bytes:
    """Return scan_detail_v2 (processed_versions, total_versions, processed_versions_size), serialized."""
    scan = b"\x08%b\x10%b\x40%b" % (varint(processed), varint(total), varint(size_bytes))
    return b"\x12%b%b" % (varint(len(scan)), scan)


# --- KvGet ------------------------------------------------------------------------------------------------------------

_GET_FIELD: Final = details_field(kvrpcpb.GetResponse)

NOT_FOUND_DETAILS: Final = opened(b"", _GET_FIELD, _scan(1, 0, 0), is_get=True)
"""What follows the body of a KvGet that found nothing, open."""

FOUND_DETAILS: Final = _Memo(lambda size_bytes: opened(b"", _GET_FIELD, _scan(1, 1, size_bytes), is_get=True))
"""What follows the value that a KvGet found, open. By the bytes of the key's memcomparable form and the value."""

VALUE_HEADS: Final = _Memo(lambda value_bytes: b"\x1a" + varint(value_bytes) if value_bytes else b"")
"""What stands before the value, by its size."""


# --- the others -------------------------------------------------------------------------------------------------------


def write_header(field: int) -> bytes:
    """Return what opens the field of a command that changes data; `write_parts` follows, then the tail."""
    return opened(b"", field, write_parts(Spent(float, 0.0)))[: -len(write_parts(Spent(float, 0.0)))]


def write_parts(spent: Spent) -> bytes:
    """Return what a command that changes data tells of itself: write_detail, and what of time_detail_v2 is known."""
    process, write = int(spent.process_s * TICKS_PER_S), int(spent.write_s * TICKS_PER_S)
    return (
        _APPLIES[write]
        + _LATCH_WAITS[int(spent.latch_wait_s * TICKS_PER_S)]
        + _PROCESSES[process - write]
        + (_LOCK_WAITS[int(spent.lock_wait_s * TICKS_PER_S)] if spent.lock_wait_s else _NO_LOCK_WAIT)
        + _WAITS[int((spent.began - spent.arrived) * TICKS_PER_S)]
        + _WIDE[process]
    )


# write_detail, and time_detail_v2: what each time has before it, and the time.
_APPLIES: Final = _Memo(lambda ticks: b"\x1a\x19\x48" + _wide(ticks))
_LATCH_WAITS: Final = _Memo(lambda ticks: b"\x70" + _wide(ticks))
_PROCESSES: Final = _Memo(lambda ticks: b"\x78" + _wide(ticks))
_LOCK_WAITS: Final = _Memo(lambda ticks: b"\x88\x01" + _wide(ticks))
_NO_LOCK_WAIT: Final = _LOCK_WAITS[0]
_WAITS: Final = _Memo(lambda ticks: b"\x22\x0c\x08" + _wide(ticks) + b"\x10")


def read_parts(spent: Spent) -> bytes:
    """Return what a read tells of itself: what of time_detail_v2 is known, and scan_detail_v2 if it counted."""
    wait, process = int((spent.began - spent.arrived) * TICKS_PER_S), int(spent.process_s * TICKS_PER_S)
    times = b"\x22\x12\x08%b\x10%b\x20%b" % (_WIDE[wait], _WIDE[process], _WIDE[wait + process])  # and kv_read
    scanned = spent.scanned
    return times if scanned is None else times + _scan(*scanned)
