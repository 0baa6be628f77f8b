"""What the bytes of an RPC tell beyond its time: the region it went to, and what the store spent on it.

Both are read from the outermost fields alone, without parsing the message: a request to a store begins with its context
(field 1), whose first field is the region's id (requests to PD begin alike, and are told apart by their names); an
answer of a transactional request may hold `exec_details_v2`, in which a store splits its time. Those of raw requests
hold none. Bytes that are cut or strange tell nothing; nothing here raises.

Times of a store are its own clock's differences, so they need no synchronised clocks; they may be a little more than
what the client saw only where a clock is wrong, and callers cut them.

Sources: kvproto kvrpcpb.proto (ExecDetailsV2, TimeDetailV2, WriteDetail); tikv src/server/service/kv.rs; client-go
util/execdetails.go.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from pytikv.interceptors import region_of
from pytikv.observe.telemetry import Step
from pytikv.proto import keyspacepb_pb2 as keyspacepb
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import pdpb_pb2 as pdpb

__all__ = ["ServerTime", "is_store_rpc", "region_of_step", "server_time", "server_time_of_step", "service_of"]

_MAX_ANSWER_BYTES: Final = 1 << 20  # a longer answer is not walked through: its details are not worth the time
_BYTES: Final = 2
_FIXED: Final = {1: 8, 5: 4}
_NS: Final = 1e-9


class ServerTime(NamedTuple):
    """What a store says of its time on one request, in seconds. Zero where it did not say."""

    total: float
    """From the request's arrival to the answer's leaving."""
    waited: float
    """Of it: in the store's queues, latches included."""
    lock_waited: float
    """Of it: for another transaction's lock."""


def _details_fields() -> dict[str, int]:
    """The number of `exec_details_v2` in the answer to each RPC that has it, by the RPC's name without Kv."""
    fields = {}
    for name, message in kvrpcpb.DESCRIPTOR.message_types_by_name.items():
        field = message.fields_by_name.get("exec_details_v2")
        if field is not None and name.endswith("Response"):
            fields[name.removesuffix("Response")] = field.number
    return fields


_FIELDS: Final = _details_fields()


_SERVICES: Final = (
    ("pdpb.PD", pdpb.DESCRIPTOR.message_types_by_name),
    ("keyspacepb.Keyspace", keyspacepb.DESCRIPTOR.message_types_by_name),
)
_STORES: Final = "tikvpb.Tikv"


@lru_cache(maxsize=256)
def service_of(rpc: str) -> str:
    """Return the service that an RPC, given by its name alone, belongs to: where its request is defined."""
    return next((service for service, messages in _SERVICES if f"{rpc}Request" in messages), _STORES)


def is_store_rpc(step: Step) -> bool:
    """Tell whether a step is an RPC to a store, not to PD."""
    return step.kind == "rpc" and service_of(step.name) == _STORES


def region_of_step(step: Step) -> int:
    """Return the id of the region that an ``rpc`` step went to; 0 where there is none."""
    return region_of(_part(step, 0)) if service_of(step.name) == _STORES else 0


def server_time_of_step(step: Step) -> ServerTime | None:
    """Return what the store said of its time in the answer of an ``rpc`` step; None where it said nothing.

    The answer may have been replaced by what this returns, to keep steps without their bytes.
    """
    if step.detail is None or isinstance(step.detail, ServerTime):
        return step.detail
    return server_time(step.name, _part(step, 1))


def server_time(rpc: str, answer: bytes) -> ServerTime | None:
    """As `server_time_of_step`, by the RPC's name and the answer's bytes."""
    number = _FIELDS.get(rpc[2:] if rpc[:2].lower() == "kv" else rpc)
    if number is None or not answer or len(answer) > _MAX_ANSWER_BYTES:
        return None
    details = _field(answer, number)
    if details is None:
        return None
    try:
        return _times(kvrpcpb.ExecDetailsV2.FromString(details))
    except DecodeError:
        return None


def _times(details: kvrpcpb.ExecDetailsV2) -> ServerTime | None:
    new, old = details.time_detail_v2, details.time_detail
    waited = new.wait_wall_time_ns or old.wait_wall_time_ms * 1_000_000
    processed = new.process_wall_time_ns or old.process_wall_time_ms * 1_000_000
    suspended = new.process_suspend_wall_time_ns
    total = new.total_rpc_wall_time_ns or old.total_rpc_wall_time_ns or waited + processed + suspended
    write = details.write_detail
    if not total and not write.pessimistic_lock_wait_nanos:
        return None
    return ServerTime(
        total * _NS, (waited + suspended + write.latch_wait_nanos) * _NS, write.pessimistic_lock_wait_nanos * _NS
    )


def _part(step: Step, index: int) -> bytes:
    """The request (0) or the answer (1) of a step; empty where the step does not hold them."""
    pair: Any = step.detail
    part = pair[index] if step.kind == "rpc" and isinstance(pair, tuple) and len(pair) == 2 else None
    return part if isinstance(part, bytes) else b""


def _field(message: bytes, wanted: int) -> bytes | None:
    """Return the bytes of the last outermost field with a number; None where there is none, or the message is cut."""
    found, at, end = None, 0, len(message)
    try:
        while at < end:
            tag, at = _varint(message, at)
            kind = tag & 7
            if kind == _BYTES:
                size, at = _varint(message, at)
                if tag >> 3 == wanted and at + size <= end:
                    found = message[at : at + size]
                at += size
            elif kind == 0:
                _, at = _varint(message, at)
            else:
                at += _FIXED[kind]
    except (IndexError, KeyError):
        return None
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at a place, and the place after it."""
    value, shift = message[at], 7
    at += 1
    if value < 0x80:
        return value, at
    value &= 0x7F
    while shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise IndexError
