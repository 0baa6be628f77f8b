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

Limit: times above 34 s are told as 34 s. Sources: kvproto ExecDetailsV2; TiKV src/server/service/kv.rs
(set_time_detail, handle_measures_for_batch_commands), components/tikv_kv/src/stats.rs, components/tracker.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from google.protobuf.message import Message

from pytikv.codec.envelope import varint
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.storage.spent import Spent

__all__ = [
    "NOT_FOUND_DETAILS",
    "details_field",
    "found_frame",
    "get_tail",
    "opened",
    "read_parts",
    "tail",
    "write_header",
    "write_parts",
]

_MOST: Final = (1 << 35) - 1
_FIELD: Final = "exec_details_v2"


def _wide(ns: int) -> bytes:
    """Encode a number as a varint of five bytes."""
    if ns <= 0:
        return _ZERO
    if ns > _MOST:
        ns = _MOST
    return bytes((ns & 127 | 128, ns >> 7 & 127 | 128, ns >> 14 & 127 | 128, ns >> 21 & 127 | 128, ns >> 28))


_ZERO: Final = b"\x80\x80\x80\x80\x00"
_ONE_GET_TAIL: Final = b"\x0a\x06\x20%b\x22\x18\x08" + _ZERO + b"\x10%b\x20%b\x28%b"


def tail(total_s: float) -> bytes:
    """Return the tail of every answer but KvGet's: how long the RPC took."""
    total = _wide(int(total_s * 1e9))
    return b"\x0a\x06\x20%b\x22\x06\x28%b" % (total, total)  # time_detail, time_detail_v2


def get_tail(total_s: float, commands: int) -> bytes:
    """Return the tail of KvGet's answer, which is one of so many that took so long together."""
    ns = total_ns = min(int(total_s * 1e9), _MOST)
    # As `_wide`, spelled out: a get that comes alone pays for each call.
    total = bytes((ns & 127 | 128, ns >> 7 & 127 | 128, ns >> 14 & 127 | 128, ns >> 21 & 127 | 128, ns >> 28))
    if commands == 1:
        return _ONE_GET_TAIL % (total, total, total, total)
    process_ns = total_ns // commands
    process, wait = _wide(process_ns), _wide(total_ns - process_ns)
    return b"\x0a\x06\x20%b\x22\x18\x08%b\x10%b\x20%b\x28%b" % (total, wait, process, total, total)


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


# --- KvGet ------------------------------------------------------------------------------------------------------------

_GET_FIELD: Final = details_field(kvrpcpb.GetResponse)


def _get_details(processed: int, size_bytes: int) -> bytes:
    scan = kvrpcpb.ScanDetailV2(processed_versions=processed, total_versions=1, processed_versions_size=size_bytes)
    parts = kvrpcpb.ExecDetailsV2(scan_detail_v2=scan).SerializeToString()
    return opened(b"", _GET_FIELD, parts, is_get=True)


NOT_FOUND_DETAILS: Final = _get_details(0, 0)
"""What follows the body of a KvGet that found nothing, open."""


@lru_cache(maxsize=4096)
def found_frame(key_bytes: int, value_bytes: int) -> tuple[bytes, bytes]:
    """Return what stands before and behind the value that a KvGet found, open. `key_bytes`: of the request's key."""
    head = b"\x1a" + varint(value_bytes) if value_bytes else b""
    return head, _get_details(1, encoded_bytes(key_bytes) + value_bytes)


def encoded_bytes(key_bytes: int) -> int:
    """Return the length of the memcomparable form of a key."""
    return (key_bytes // 8 + 1) * 9


# --- the others -------------------------------------------------------------------------------------------------------


def write_header(field: int) -> bytes:
    """Return what opens the field of a command that changes data; `write_parts` follows, then the tail."""
    return opened(b"", field, write_parts(Spent(float, 0.0)))[: -len(write_parts(Spent(float, 0.0)))]


def write_parts(spent: Spent) -> bytes:
    """Return what a command that changes data tells of itself: write_detail, and what of time_detail_v2 is known."""
    process_s, write_s = spent.process_s, spent.write_s
    return _WRITE_PARTS % (
        _wide(int(write_s * 1e9)),
        _wide(int(spent.latch_wait_s * 1e9)),
        _wide(int((process_s - write_s) * 1e9)),
        _wide(int(spent.lock_wait_s * 1e9)) if spent.lock_wait_s else _ZERO,
        _wide(int((spent.began - spent.arrived) * 1e9)),
        _wide(int(process_s * 1e9)),
    )


_WRITE_PARTS: Final = b"\x1a\x19\x48%b\x70%b\x78%b\x88\x01%b" + b"\x22\x0c\x08%b\x10%b"
"""write_detail (apply_log, latch_wait, process, pessimistic_lock_wait), and time_detail_v2 (wait, process)."""


def read_parts(request: Any, response: Any, spent: Spent) -> bytes:
    """Return what a read tells of itself: scan_detail_v2, and what of time_detail_v2 is known.

    `response` None: it was refused.
    """
    wait_s = spent.began - spent.arrived
    read, process = _wide(int((wait_s + spent.process_s) * 1e9)), _wide(int(spent.process_s * 1e9))
    times = _READ_PARTS % (_wide(int(wait_s * 1e9)), process, read)
    scan = None if response is None else _scan_of(request, response)
    return times if scan is None else times + kvrpcpb.ExecDetailsV2(scan_detail_v2=scan).SerializeToString()


_READ_PARTS: Final = b"\x22\x12\x08%b\x10%b\x20%b"
"""time_detail_v2 (wait, process, kv_read)."""


def _scan_of(request: Any, response: Any) -> kvrpcpb.ScanDetailV2 | None:
    """Tell how many versions were looked at: one for each key asked for, and those that were found."""
    if isinstance(response, kvrpcpb.BatchGetResponse | kvrpcpb.BufferBatchGetResponse):
        found = [pair for pair in response.pairs if not pair.HasField("error")]
        size_bytes = sum(encoded_bytes(len(pair.key)) + len(pair.value) for pair in found)
        return kvrpcpb.ScanDetailV2(
            total_versions=len(request.keys), processed_versions=len(found), processed_versions_size=size_bytes
        )
    if not isinstance(response, kvrpcpb.GetResponse) or response.HasField("error"):
        return None
    if response.not_found:
        return kvrpcpb.ScanDetailV2(total_versions=1)
    size_bytes = encoded_bytes(len(request.key)) + len(response.value)
    return kvrpcpb.ScanDetailV2(total_versions=1, processed_versions=1, processed_versions_size=size_bytes)
