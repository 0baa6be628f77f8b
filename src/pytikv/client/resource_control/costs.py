"""What a request costs in request units.

A request's base and, for a write, its bytes are known before it is sent; what it read and the store's CPU time are
known from the answer. A write counts once for each replica of its region. All sizes are bytes, times milliseconds.

Source of the rates: pd client/resource_group/controller/config.go; of what is counted: model.go there, and client-go
internal/resourcecontrol/resource_control.go.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from google.protobuf.message import DecodeError, Message

from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import resource_manager_pb2 as rmpb

__all__ = ["Consumption", "Costs", "read_of_answer", "write_bytes"]

_BATCH_PROPORTION: Final = 0.7  # how much of a batch's base cost one request of it bears, on the average


@dataclasses.dataclass(slots=True)
class Consumption:
    """What was consumed, or what it costs. Sums of it are reported to PD."""

    rru: float = 0.0
    wru: float = 0.0
    read_bytes: float = 0.0
    write_bytes: float = 0.0
    cpu_ms: float = 0.0
    reads: float = 0.0
    writes: float = 0.0

    @property
    def total(self) -> float:
        """Request units in all."""
        return self.rru + self.wru

    def add(self, other: Consumption) -> None:
        """Add another consumption to this one."""
        for name in _NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def minus(self, other: Consumption) -> Consumption:
        """Return what this one is more than another."""
        return Consumption(*(getattr(self, name) - getattr(other, name) for name in _NAMES))

    def message(self) -> rmpb.Consumption:
        """Return it as PD and stores read it."""
        return rmpb.Consumption(
            r_r_u=self.rru,
            w_r_u=self.wru,
            read_bytes=self.read_bytes,
            write_bytes=self.write_bytes,
            total_cpu_time_ms=self.cpu_ms,
            kv_read_rpc_count=self.reads,
            kv_write_rpc_count=self.writes,
        )


_NAMES: Final = tuple(field.name for field in dataclasses.fields(Consumption))


@dataclasses.dataclass(frozen=True, slots=True)
class Costs:
    """Request units for each thing that a request does."""

    read_base: float = 1 / 8
    read_per_batch: float = 1 / 2
    read_byte: float = 1 / (64 * 1024)
    write_base: float = 1.0
    write_per_batch: float = 1.0
    write_byte: float = 1 / 1024
    cpu_ms: float = 1 / 3

    def before(self, written_bytes: int | None, replicas: int = 1) -> Consumption:
        """Return what a request costs that is about to be sent; `written_bytes` None: it is a read."""
        if written_bytes is None:
            return Consumption(rru=self.read_base + self.read_per_batch * _BATCH_PROPORTION, reads=1)
        each = self.write_base + self.write_per_batch * _BATCH_PROPORTION + self.write_byte * written_bytes
        return Consumption(wru=each * max(replicas, 1), write_bytes=written_bytes, writes=1)

    def after(self, read_bytes: int, cpu_ms: float, *, is_write: bool) -> Consumption:
        """Return what an answered request costs beyond that. The store's time counts for reads only."""
        if is_write:
            cpu_ms = 0.0
        return Consumption(rru=self.read_byte * read_bytes + self.cpu_ms * cpu_ms, read_bytes=read_bytes, cpu_ms=cpu_ms)


def write_bytes(name: str, request: bytes) -> int:
    """Return the bytes that a request writes; 0 for those that are not counted by bytes."""
    if name == "KvPrewrite":
        prewrite = kvrpcpb.PrewriteRequest.FromString(request)
        size = sum(len(one.key) + len(one.value) for one in prewrite.mutations)
        return size + len(prewrite.primary_lock) + sum(map(len, prewrite.secondaries))
    if name == "KvCommit":
        return sum(map(len, kvrpcpb.CommitRequest.FromString(request).keys))
    if name == "KvFlush":
        return sum(len(one.key) + len(one.value) for one in kvrpcpb.FlushRequest.FromString(request).mutations)
    return 0


_WITH_DETAILS: Final[dict[str, type[Message]]] = {
    "KvGet": kvrpcpb.GetResponse,
    "KvBatchGet": kvrpcpb.BatchGetResponse,
}


def read_of_answer(name: str, answer: bytes) -> tuple[int, float]:
    """Return the bytes that a request read and the store's milliseconds, as far as its answer tells."""
    if name in ("KvScan", "RawScan"):
        return len(answer), 0.0
    if name not in _WITH_DETAILS:
        return 0, 0.0
    try:
        details = _WITH_DETAILS[name].FromString(answer).exec_details_v2  # type: ignore[attr-defined]
    except DecodeError:
        return 0, 0.0
    return details.scan_detail_v2.processed_versions_size, details.time_detail_v2.process_wall_time_ns / 1e6
