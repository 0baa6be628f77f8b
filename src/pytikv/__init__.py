"""pytikv: the Python data-access stack for TiKV.

The public names, and nothing else. The clients are loaded when they are first asked for, so that `import pytikv` costs
little, and a program that only blocks loads no asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytikv._version import __version__
from pytikv.client.deadline import deadline
from pytikv.config import TLS, ClientConfig
from pytikv.errors import (
    AssertionFailed,
    BatchError,
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
from pytikv.types import KEEP, Checksum, CompareAndSwap, KeyRange, Timestamp

if TYPE_CHECKING:
    from pytikv.client.blocking import RawClient
    from pytikv.client.raw import AsyncRawClient

__all__ = [
    "KEEP",
    "TLS",
    "AssertionFailed",
    "AsyncRawClient",
    "BatchError",
    "Checksum",
    "ClientClosed",
    "ClientConfig",
    "CommitUndetermined",
    "CompareAndSwap",
    "ConfigError",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Deadlock",
    "InvalidArgument",
    "KeyExists",
    "KeyLocked",
    "KeyRange",
    "LockTimeout",
    "Outcome",
    "Overloaded",
    "RawClient",
    "RegionUnavailable",
    "ServerError",
    "SnapshotTooOld",
    "StorageError",
    "TikvError",
    "Timestamp",
    "TransactionAborted",
    "TransactionError",
    "TransactionTooLarge",
    "UnsupportedByServer",
    "WaitForEntry",
    "WriteConflict",
    "WrongType",
    "__version__",
    "deadline",
    "redact_keys",
]

_LAZY = {"RawClient": "pytikv.client.blocking", "AsyncRawClient": "pytikv.client.raw"}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'pytikv' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
