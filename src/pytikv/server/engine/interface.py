"""What the server asks of a storage engine: five ordered maps of bytes, atomic batches, snapshots, durable groups.

*Column families* are fixed: ``default``, ``lock`` and ``write`` hold what TiKV keeps there, byte for byte; ``raft`` is
for the log of a cluster, ``meta`` for what PD and the store know about themselves.

*Writing* has two halves. `write`, `put` and `delete` change what every reader sees and return a *ticket*, a number that
grows with each change; `flush(ticket)` returns when that change, and with it all before it, will survive a power
failure. Many threads that flush at once share one system call (`engine.group_commit`). A caller that answers before
`flush` gives up durability, never order: what survives a crash is a prefix of the tickets.

*After a failed write or flush* the engine is read-only for good: a disk that lost one write cannot be trusted with the
next. Every later change raises StorageError (NOT_APPLIED); reads go on. The failed change itself is UNDETERMINED.

*Reading*: `get` and `cursor` of the engine see the present state (a cursor: the state when it was made), a `Snapshot`
sees one moment of all column families asked for. Cursors and snapshots belong to one thread at a time.

*Bounds* are half-open `[start, end)`; `b""` is unbounded on either side. Keys and values are `bytes`; the empty key and
the empty value are a key and a value.

All methods of an engine may be called from any thread. Sources: TiKV components/engine_traits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

__all__ = [
    "CFS",
    "CF_DEFAULT",
    "CF_LOCK",
    "CF_META",
    "CF_RAFT",
    "CF_WRITE",
    "Cursor",
    "Engine",
    "Modify",
    "Reader",
    "Snapshot",
    "WriteBatch",
]

CF_DEFAULT: Final = "default"
CF_LOCK: Final = "lock"
CF_WRITE: Final = "write"
CF_RAFT: Final = "raft"
CF_META: Final = "meta"
CFS: Final = (CF_DEFAULT, CF_LOCK, CF_WRITE, CF_RAFT, CF_META)

Modify = tuple[str, str, bytes, bytes]
"""One change: `(PUT, cf, key, value)`, `(DELETE, cf, key, b"")` or `(DELETE_RANGE, cf, start_key, end_key)`."""

PUT: Final = "put"
DELETE: Final = "delete"
DELETE_RANGE: Final = "delete_range"


class WriteBatch:
    """Changes to be applied together, in order. Plain data: it knows no engine, so that it can travel through a log."""

    __slots__ = ("modifies", "size_bytes")

    def __init__(self) -> None:
        self.modifies: list[Modify] = []
        self.size_bytes = 0

    def put(self, cf: str, key: bytes, value: bytes) -> None:
        """Set `key` to `value`."""
        self.modifies.append((PUT, cf, key, value))
        self.size_bytes += len(key) + len(value)

    def delete(self, cf: str, key: bytes) -> None:
        """Remove `key`, if it is there."""
        self.modifies.append((DELETE, cf, key, b""))
        self.size_bytes += len(key)

    def delete_range(self, cf: str, start_key: bytes, end_key: bytes) -> None:
        """Remove every key of `[start_key, end_key)`; `b""` as end: to the last key. Crossed bounds remove nothing."""
        self.modifies.append((DELETE_RANGE, cf, start_key, end_key))
        self.size_bytes += len(start_key) + len(end_key)

    def __len__(self) -> int:
        return len(self.modifies)

    def __bool__(self) -> bool:
        return bool(self.modifies)


class Cursor(Protocol):
    """A place in one column family, within bounds. Invalid until the first seek, and after walking over an end.

    Every method raises StorageError where the engine finds damage; `key` and `value` need a valid cursor.
    """

    def seek(self, key: bytes) -> bool:
        """Go to the first key at or above `key` (and the lower bound); tell whether there is one."""
        ...

    def seek_for_prev(self, key: bytes) -> bool:
        """Go to the last key at or below `key` (and below the upper bound); tell whether there is one."""
        ...

    def seek_to_first(self) -> bool:
        """Go to the first key within the bounds; tell whether there is one."""
        ...

    def seek_to_last(self) -> bool:
        """Go to the last key within the bounds; tell whether there is one."""
        ...

    def next(self) -> bool:
        """Go one key up; tell whether there is one. On an invalid cursor: False."""
        ...

    def prev(self) -> bool:
        """Go one key down; tell whether there is one. On an invalid cursor: False."""
        ...

    def valid(self) -> bool:
        """Tell whether the cursor is at a key."""
        ...

    def key(self) -> bytes:
        """Return the key."""
        ...

    def value(self) -> bytes:
        """Return the value."""
        ...


class Reader(Protocol):
    """What a snapshot and an engine have in common."""

    def get(self, cf: str, key: bytes) -> bytes | None:
        """Return the value of `key`, None when it is not there. Raises StorageError."""
        ...

    def cursor(self, cf: str, start_key: bytes = b"", end_key: bytes = b"") -> Cursor:
        """Return a cursor over `[start_key, end_key)` of the state at this moment."""
        ...

    def scan(
        self, cf: str, start_key: bytes = b"", end_key: bytes = b"", *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over `[start_key, end_key)`, upwards, or downwards with `reverse`. Raises StorageError on damage."""
        ...


class Snapshot(Reader, Protocol):
    """One moment of the column families it was made for. Let go of it soon: it keeps old data alive."""

    def close(self) -> None:
        """Let the data go. Idempotent; a snapshot that is dropped closes itself."""
        ...


class Engine(Reader, Protocol):
    """The interface; `MemoryEngine` and `RocksEngine` implement it and pass one suite."""

    path: str
    """The directory; empty for an engine in memory."""

    def getter(self, cf: str) -> Callable[[bytes], bytes | None]:
        """Return the fastest `get` of one column family. It raises what the engine raises: map it with `error`."""
        ...

    def seeker(self, cf: str) -> Callable[[bytes], tuple[bytes, bytes] | None]:
        """Return the fastest `first` of one column family. It raises as a `getter` does."""
        ...

    def error(self, exception: Exception) -> Exception:
        """Return the StorageError that says what `exception` of a `getter` or `seeker` means."""
        ...

    def multi_get(self, cf: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key or None, all of one moment."""
        ...

    def first(self, cf: str, key: bytes) -> tuple[bytes, bytes] | None:
        """Return the first pair at or above `key`, None when there is none. As a cursor's seek, but faster."""
        ...

    def put(self, cf: str, key: bytes, value: bytes) -> int:
        """Set one key; returns the ticket. As a batch of one, but faster."""
        ...

    def delete(self, cf: str, key: bytes) -> int:
        """Remove one key; returns the ticket."""
        ...

    def write(self, batch: WriteBatch, *, sync: bool = False) -> int:
        """Apply `batch` at once, for readers and for crashes alike; returns the ticket. With `sync`: and flush it.

        Raises StorageError: NOT_APPLIED when the engine is read-only already, else UNDETERMINED.
        """
        ...

    def flush(self, ticket: int | None = None) -> None:
        """Block until the change with `ticket` (None: every change so far) is durable. Shared between threads.

        Raises StorageError (UNDETERMINED) when the disk fails; the engine is read-only from then on.
        """
        ...

    @property
    def ticket(self) -> int:
        """The ticket of the last change."""
        ...

    @property
    def durable_ticket(self) -> int:
        """Changes up to this ticket are durable."""
        ...

    def exclusive(self) -> AbstractContextManager[object]:
        """Keep all other writers out (for `with`): what is read inside is still true when it is written."""
        ...

    def snapshot(self) -> Snapshot:
        """Return a snapshot of ``default``, ``lock`` and ``write``, all of the same moment."""
        ...

    def approximate_size(self, cf: str, start_key: bytes = b"", end_key: bytes = b"") -> int:
        """Return about how many bytes of keys and values lie in the range."""
        ...

    def approximate_keys(self, cf: str) -> int:
        """Return about how many keys the column family has."""
        ...

    def number(self, cf: str, name: str) -> int | None:
        """Return the number that RocksDB has under a property's name; None for an engine that is not RocksDB."""
        ...

    @property
    def flushes(self) -> int:
        """How often changes were made durable; 0 for an engine in memory."""
        ...

    def compact(self, cf: str) -> None:
        """Give back the space of what was deleted. May take long; blocks the calling thread only."""
        ...

    def close(self) -> None:
        """Flush, then let go of everything. Idempotent. Later calls raise StorageError."""
        ...
