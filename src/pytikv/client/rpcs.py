"""The RPCs of a store that this client uses: where each one goes, how its answer is read, what a repetition may do.

`slot` is the field number in the oneof of a BatchCommands message, None for the calls that have none there
(RawGetKeyTTL, RawCompareAndSwap, RawChecksum, SplitRegion, the calls that look at versions, UnsafeDestroyRange): these
go as unary calls. Sources: kvproto tikvpb.proto; TiKV src/server/service/kv.rs, handle_cmd.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Final

from pytikv.interceptors import region_of
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb

__all__ = [
    "KV_BATCH_GET",
    "KV_BATCH_ROLLBACK",
    "KV_BUFFER_BATCH_GET",
    "KV_CHECK_SECONDARY_LOCKS",
    "KV_CHECK_TXN_STATUS",
    "KV_CLEANUP",
    "KV_COMMIT",
    "KV_DELETE_RANGE",
    "KV_FLUSH",
    "KV_GET",
    "KV_PESSIMISTIC_LOCK",
    "KV_PESSIMISTIC_ROLLBACK",
    "KV_PREWRITE",
    "KV_RESOLVE_LOCK",
    "KV_SCAN",
    "KV_SCAN_LOCK",
    "KV_TXN_HEART_BEAT",
    "MVCC_GET_BY_KEY",
    "MVCC_GET_BY_START_TS",
    "NAME_OF_SLOT",
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
    "REGION_ERROR",
    "SPLIT_REGION",
    "UNSAFE_DESTROY_RANGE",
    "Kind",
    "Rpc",
    "is_write_name",
    "region_of",
]


REGION_ERROR: Final = 0x0A
"""The first byte of an answer with a region error: field 1 in every response."""


class Kind(enum.Enum):
    """What sending a request twice may do."""

    READ = "read"  # nothing; replicas may serve it
    PUT = "put"  # it may take effect twice, with the same end: allowed by `retry_lost_writes`
    SWAP = "swap"  # the second one answers about the first one's effect: never
    TXN = "txn"  # nothing: the store knows a transaction's request again by its start_ts; always sent again


@dataclasses.dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC of the service tikvpb.Tikv."""

    name: str
    kind: Kind
    slot: int | None
    response: Any
    """The class of the answer; field 1 of each is `region_error`."""
    path: bytes = b""
    only_leader: bool = False
    """Whether a read is the leader's to serve, whatever the options say: it looks at locks, not at values."""

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

# Transactions: reads.
KV_GET: Final = Rpc("KvGet", Kind.READ, 1, kvrpcpb.GetResponse)
KV_SCAN: Final = Rpc("KvScan", Kind.READ, 2, kvrpcpb.ScanResponse)
KV_BATCH_GET: Final = Rpc("KvBatchGet", Kind.READ, 7, kvrpcpb.BatchGetResponse)
KV_BUFFER_BATCH_GET: Final = Rpc("KvBufferBatchGet", Kind.READ, 38, kvrpcpb.BufferBatchGetResponse, only_leader=True)
KV_SCAN_LOCK: Final = Rpc("KvScanLock", Kind.READ, 9, kvrpcpb.ScanLockResponse, only_leader=True)
MVCC_GET_BY_KEY: Final = Rpc("MvccGetByKey", Kind.READ, None, kvrpcpb.MvccGetByKeyResponse, only_leader=True)
MVCC_GET_BY_START_TS: Final = Rpc(
    "MvccGetByStartTs", Kind.READ, None, kvrpcpb.MvccGetByStartTsResponse, only_leader=True
)
# Transactions: writes.
KV_PREWRITE: Final = Rpc("KvPrewrite", Kind.TXN, 3, kvrpcpb.PrewriteResponse)
KV_COMMIT: Final = Rpc("KvCommit", Kind.TXN, 4, kvrpcpb.CommitResponse)
KV_CLEANUP: Final = Rpc("KvCleanup", Kind.TXN, 6, kvrpcpb.CleanupResponse)
KV_BATCH_ROLLBACK: Final = Rpc("KvBatchRollback", Kind.TXN, 8, kvrpcpb.BatchRollbackResponse)
KV_RESOLVE_LOCK: Final = Rpc("KvResolveLock", Kind.TXN, 10, kvrpcpb.ResolveLockResponse)
KV_DELETE_RANGE: Final = Rpc("KvDeleteRange", Kind.TXN, 12, kvrpcpb.DeleteRangeResponse)
KV_PESSIMISTIC_LOCK: Final = Rpc("KvPessimisticLock", Kind.TXN, 23, kvrpcpb.PessimisticLockResponse)
KV_PESSIMISTIC_ROLLBACK: Final = Rpc("KVPessimisticRollback", Kind.TXN, 24, kvrpcpb.PessimisticRollbackResponse)
KV_CHECK_TXN_STATUS: Final = Rpc("KvCheckTxnStatus", Kind.TXN, 25, kvrpcpb.CheckTxnStatusResponse)
KV_TXN_HEART_BEAT: Final = Rpc("KvTxnHeartBeat", Kind.TXN, 26, kvrpcpb.TxnHeartBeatResponse)
KV_CHECK_SECONDARY_LOCKS: Final = Rpc("KvCheckSecondaryLocks", Kind.TXN, 33, kvrpcpb.CheckSecondaryLocksResponse)
KV_FLUSH: Final = Rpc("KvFlush", Kind.TXN, 37, kvrpcpb.FlushResponse)
# Administration.
SPLIT_REGION: Final = Rpc("SplitRegion", Kind.TXN, None, kvrpcpb.SplitRegionResponse)
UNSAFE_DESTROY_RANGE: Final = Rpc("UnsafeDestroyRange", Kind.TXN, None, kvrpcpb.UnsafeDestroyRangeResponse)

_ALL: Final = tuple(value for value in globals().copy().values() if isinstance(value, Rpc))
_WRITES: Final = frozenset(rpc.name for rpc in _ALL if rpc.is_write)

NAME_OF_SLOT: Final = {rpc.slot: rpc.name for rpc in _ALL if rpc.slot is not None}
"""The name of the RPC at each field number of a BatchCommands message."""


def is_write_name(name: str) -> bool:
    """Tell by its name whether an RPC may change data."""
    return name in _WRITES
