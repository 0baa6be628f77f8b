"""pytikv: the Python data-access stack for TiKV.

The public names, and nothing else. The clients are loaded when they are first asked for, so that `import pytikv` costs
little, and a program that only blocks loads no asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytikv._version import __version__
from pytikv.ambient import context, deadline
from pytikv.config import TLS, ClientConfig
from pytikv.errors import (
    AssertionFailed,
    BatchError,
    CircuitOpen,
    ClientClosed,
    CommitUndetermined,
    ConfigError,
    ConnectionFailed,
    DeadlineExceeded,
    Deadlock,
    InvalidArgument,
    KeyExists,
    KeyLocked,
    LockTimeout,
    Outcome,
    Overloaded,
    RegionUnavailable,
    ServerError,
    SnapshotTooOld,
    StorageError,
    TikvError,
    TransactionAborted,
    TransactionError,
    TransactionTooLarge,
    UnsupportedByServer,
    WaitForEntry,
    WriteConflict,
    WrongType,
    redact_keys,
)
from pytikv.interceptors import Interceptor, Proceed, RpcInfo
from pytikv.policies import (
    BreakerPolicy,
    BulkheadPolicy,
    KindPolicy,
    LimitPolicy,
    RetryBudgetPolicy,
    RetryPolicy,
)
from pytikv.types import KEEP, Checksum, CompareAndSwap, Consistency, KeyRange, Timestamp, Versioned

if TYPE_CHECKING:
    from pytikv import logging
    from pytikv.client.blocking import RawClient
    from pytikv.client.raw import AsyncRawClient
    from pytikv.client.txn.admin.gc import GcReport
    from pytikv.client.txn.admin.locks import LockInfo
    from pytikv.client.txn.admin.mvcc import MvccInfo, MvccLock, MvccVersion
    from pytikv.client.txn.admin.range_task import Progress
    from pytikv.client.txn.backend import GcState
    from pytikv.client.txn.blocking import Snapshot, Transaction, TransactionClient
    from pytikv.client.txn.client import AsyncTransactionClient
    from pytikv.client.txn.options import ReadOptions, TxnOptions
    from pytikv.client.txn.snapshot import AsyncSnapshot
    from pytikv.client.txn.transaction import AsyncTransaction
    from pytikv.observe import metrics as metrics
    from pytikv.observe.profile import profile

__all__ = [
    "KEEP",
    "TLS",
    "AssertionFailed",
    "AsyncRawClient",
    "AsyncSnapshot",
    "AsyncTransaction",
    "AsyncTransactionClient",
    "BatchError",
    "BreakerPolicy",
    "BulkheadPolicy",
    "Checksum",
    "CircuitOpen",
    "ClientClosed",
    "ClientConfig",
    "CommitUndetermined",
    "CompareAndSwap",
    "ConfigError",
    "ConnectionFailed",
    "Consistency",
    "DeadlineExceeded",
    "Deadlock",
    "GcReport",
    "GcState",
    "Interceptor",
    "InvalidArgument",
    "KeyExists",
    "KeyLocked",
    "KeyRange",
    "KindPolicy",
    "LimitPolicy",
    "LockInfo",
    "LockTimeout",
    "MvccInfo",
    "MvccLock",
    "MvccVersion",
    "Outcome",
    "Overloaded",
    "Proceed",
    "Progress",
    "RawClient",
    "ReadOptions",
    "RegionUnavailable",
    "RetryBudgetPolicy",
    "RetryPolicy",
    "RpcInfo",
    "ServerError",
    "Snapshot",
    "SnapshotTooOld",
    "StorageError",
    "TikvError",
    "Timestamp",
    "Transaction",
    "TransactionAborted",
    "TransactionClient",
    "TransactionError",
    "TransactionTooLarge",
    "TxnOptions",
    "UnsupportedByServer",
    "Versioned",
    "WaitForEntry",
    "WriteConflict",
    "WrongType",
    "__version__",
    "context",
    "deadline",
    "logging",
    "profile",
    "redact_keys",
]

_LAZY = {
    "AsyncRawClient": "pytikv.client.raw",
    "AsyncSnapshot": "pytikv.client.txn.snapshot",
    "AsyncTransaction": "pytikv.client.txn.transaction",
    "AsyncTransactionClient": "pytikv.client.txn.client",
    "GcReport": "pytikv.client.txn.admin.gc",
    "GcState": "pytikv.client.txn.backend",
    "LockInfo": "pytikv.client.txn.admin.locks",
    "MvccInfo": "pytikv.client.txn.admin.mvcc",
    "MvccLock": "pytikv.client.txn.admin.mvcc",
    "MvccVersion": "pytikv.client.txn.admin.mvcc",
    "Progress": "pytikv.client.txn.admin.range_task",
    "RawClient": "pytikv.client.blocking",
    "ReadOptions": "pytikv.client.txn.options",
    "Snapshot": "pytikv.client.txn.blocking",
    "Transaction": "pytikv.client.txn.blocking",
    "TransactionClient": "pytikv.client.txn.blocking",
    "TxnOptions": "pytikv.client.txn.options",
    "profile": "pytikv.observe.profile",
}
_LAZY_MODULES = {"logging": "pytikv.logging", "metrics": "pytikv.observe.metrics", "observe": "pytikv.observe"}
"""`metrics` is in no `__all__`: whoever has no prometheus_client may still import everything."""


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None and name not in _LAZY_MODULES:
        raise AttributeError(f"module 'pytikv' has no attribute {name!r}")
    import importlib

    if module is None:
        return importlib.import_module(_LAZY_MODULES[name])
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
