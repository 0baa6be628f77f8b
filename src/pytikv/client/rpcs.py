"""The RPCs of a store that this client uses: where each one goes, how its answer is read, what a repetition may do.

`slot` is the field number in the oneof of a BatchCommands message, None for the calls that have none there
(RawGetKeyTTL, RawCompareAndSwap, RawChecksum): these go as unary calls.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Final

from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

__all__ = [
    "RAW_BATCH_DELETE",
    "RAW_BATCH_GET",
    "RAW_BATCH_PUT",
    "RAW_CHECKSUM",
    "RAW_COMPARE_AND_SWAP",
    "RAW_COPROCESSOR",
    "RAW_DELETE",
    "RAW_DELETE_RANGE",
    "RAW_GET",
    "RAW_GET_KEY_TTL",
    "RAW_PUT",
    "RAW_SCAN",
    "RAW_SCAN",
    "Kind",
    "Rpc",
]


class Kind(enum.Enum):
    """What sending a request twice may do."""

    READ = "read"  # nothing; replicas may serve it
    PUT = "put"  # it may take effect twice, with the same end: allowed by `retry_lost_writes`
    SWAP = "swap"  # the second one answers about the first one's effect: never


@dataclasses.dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC of the service tikvpb.Tikv."""

    name: str
    kind: Kind
    slot: int | None
    response: Any
    """The class of the answer; field 1 of each is `region_error`."""
    path: bytes = b""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", b"/tikvpb.Tikv/" + self.name.encode())

    @property
    def is_write(self) -> bool:
        """Whether the request changes data."""
        return self.kind is not Kind.READ


RAW_GET: Final = Rpc("RawGet", Kind.READ, 13, kvrpcpb.RawGetResponse)
RAW_BATCH_GET: Final = Rpc("RawBatchGet", Kind.READ, 14, kvrpcpb.RawBatchGetResponse)
RAW_PUT: Final = Rpc("RawPut", Kind.PUT, 15, kvrpcpb.RawPutResponse)
RAW_BATCH_PUT: Final = Rpc("RawBatchPut", Kind.PUT, 16, kvrpcpb.RawBatchPutResponse)
RAW_DELETE: Final = Rpc("RawDelete", Kind.PUT, 17, kvrpcpb.RawDeleteResponse)
RAW_BATCH_DELETE: Final = Rpc("RawBatchDelete", Kind.PUT, 18, kvrpcpb.RawBatchDeleteResponse)
RAW_SCAN: Final = Rpc("RawScan", Kind.READ, 19, kvrpcpb.RawScanResponse)
RAW_DELETE_RANGE: Final = Rpc("RawDeleteRange", Kind.PUT, 20, kvrpcpb.RawDeleteRangeResponse)
RAW_GET_KEY_TTL: Final = Rpc("RawGetKeyTTL", Kind.READ, None, kvrpcpb.RawGetKeyTTLResponse)
RAW_COMPARE_AND_SWAP: Final = Rpc("RawCompareAndSwap", Kind.SWAP, None, kvrpcpb.RawCASResponse)
RAW_CHECKSUM: Final = Rpc("RawChecksum", Kind.READ, None, kvrpcpb.RawChecksumResponse)
# A plugin may write: it is sent once, and a lost answer is reported as such.
RAW_COPROCESSOR: Final = Rpc("RawCoprocessor", Kind.SWAP, 34, kvrpcpb.RawCoprocessorResponse)
