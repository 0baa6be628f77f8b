"""What a transaction has written and not yet committed: sorted entries with flags, stages that can be undone.

An *entry* says what the transaction does to one key: `PUT` with a value, `DELETE`, or `NONE` (nothing, though the key
may be locked), and carries flags. Entries are immutable; every change replaces one, so that the undo journal and open
views simply keep the old one. Keys are users' keys.

*Flags.* `MUST_NOT_EXIST`: the first write was an insert; it stays when the key is written again or deleted, because
what the store must find stays the same. `LOCKED`, `LOCKED_SHARED`, `LOCKED_EXISTS`, `LOCKED_ABSENT`: what is known of a
lock; these four outlive an undone stage, because the lock does. `ASSERT_EXIST`, `ASSERT_NOT_EXIST`: what the store
checks at prewrite.

*Stages.* `stage()` opens one, `release` keeps its writes, `undo` puts back every entry that was there when it was
opened. They nest; closing one closes those inside it. An undone new key leaves an entry with nothing in it: keys never
leave, so an open view finds its place again.

*Views.* A scan walks over a `BufferView`: the buffer as it was when the view was made. A later write hands its old
entry to each open view before it takes effect. So a loop that writes while it scans ends, and sees what it saw when it
began.

*Limits.* A key, an entry and the whole are bounded; what would pass a limit is refused and changes nothing. A key of
65,535 bytes is the most that client-go's buffer takes; stores refuse less than that by their own option.

Sources of the flags' meaning: client-go kv/keyflags.go, internal/unionstore/memdb_art.go. Belongs to one task at a
time.
"""

from __future__ import annotations

import enum
import weakref
from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Final, NamedTuple

from pytikv.errors import InvalidArgument, TransactionTooLarge, format_key

__all__ = [
    "ASSERT_EXIST",
    "ASSERT_NOT_EXIST",
    "LOCKED",
    "LOCKED_ABSENT",
    "LOCKED_EXISTS",
    "LOCKED_SHARED",
    "MAX_KEY_BYTES",
    "MUST_NOT_EXIST",
    "BufferView",
    "Entry",
    "Kind",
    "WriteBuffer",
]

MUST_NOT_EXIST: Final = 1
LOCKED: Final = 2
LOCKED_SHARED: Final = 4
LOCKED_EXISTS: Final = 8
LOCKED_ABSENT: Final = 16
ASSERT_EXIST: Final = 32
ASSERT_NOT_EXIST: Final = 64
_LASTING: Final = LOCKED | LOCKED_SHARED | LOCKED_EXISTS | LOCKED_ABSENT

MAX_KEY_BYTES: Final = 65_535
_INSERTED_ONE_BY_ONE: Final = 16


class Kind(enum.Enum):
    """What is done to a key."""

    NONE = "none"
    PUT = "put"
    DELETE = "delete"


class Entry(NamedTuple):
    """What the transaction does to one key; `value` is empty unless it is a PUT."""

    kind: Kind
    value: bytes = b""
    flags: int = 0

    @property
    def found(self) -> bytes | None:
        """What reading a written key finds: the value, or None where it was deleted."""
        return self.value if self.kind is Kind.PUT else None


_NOTHING: Final = Entry(Kind.NONE)


class WriteBuffer:
    """See the module. `byte_count` counts keys and values of what is written, `write_count` the keys."""

    def __init__(self, *, max_entry_bytes: int, max_bytes: int | None) -> None:
        self._max_entry_bytes = max_entry_bytes
        self._max_bytes = max_bytes
        self._entries: dict[bytes, Entry] = {}
        self._sorted: list[bytes] = []
        self._unsorted: list[bytes] = []
        self._stages: list[dict[bytes, Entry]] = []
        self._views: weakref.WeakSet[BufferView] | None = None  # made with the first view
        self.byte_count = 0
        self.write_count = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def stages(self) -> int:
        """How many stages are open."""
        return len(self._stages)

    def get(self, key: bytes) -> Entry | None:
        """Return the entry of `key`, None where the key was never touched."""
        return self._entries.get(key)

    def written(self, key: bytes) -> Entry | None:
        """Return the entry of `key`, None where nothing is done to it: reading it is the snapshot's matter."""
        entry = self._entries.get(key)
        return None if entry is None or entry.kind is Kind.NONE else entry

    def flags(self, key: bytes) -> int:
        """Return the flags of `key`."""
        entry = self._entries.get(key)
        return 0 if entry is None else entry.flags

    # --- writing ------------------------------------------------------------------------------------------------------

    def put(self, key: bytes, value: bytes, *, add_flags: int = 0) -> None:
        """Write a value. Raises InvalidArgument for a key too long, TransactionTooLarge; nothing is changed then."""
        self.check(key, value)
        old = self._entries.get(key, _NOTHING)
        self._replace(key, old, Entry(Kind.PUT, value, old.flags | add_flags))

    def delete(self, key: bytes) -> None:
        """Delete a key. Raises as `put` does."""
        self.check(key, b"")
        old = self._entries.get(key, _NOTHING)
        self._replace(key, old, Entry(Kind.DELETE, b"", old.flags))

    def mark(self, key: bytes, *, add: int = 0, drop: int = 0) -> None:
        """Change the flags of a key."""
        old = self._entries.get(key, _NOTHING)
        flags = (old.flags & ~drop) | add
        if flags != old.flags:
            self._replace(key, old, old._replace(flags=flags))

    def check(self, key: bytes, value: bytes) -> None:
        """Raise what `put` would raise."""
        size = len(key) + len(value)
        if len(key) > MAX_KEY_BYTES:
            raise InvalidArgument(f"a key is at most {MAX_KEY_BYTES} bytes long, this one {len(key)}")
        if size > self._max_entry_bytes:
            raise TransactionTooLarge(
                f"key {format_key(key)} and its value have {size} bytes, "
                f"more than the option max_entry_bytes={self._max_entry_bytes}; nothing was written"
            )
        if self._max_bytes is not None and self.byte_count + size > self._max_bytes:
            old = self._entries.get(key, _NOTHING)
            if self.byte_count + size - _size(key, old) > self._max_bytes:
                raise TransactionTooLarge(
                    f"the transaction would hold more than the option max_txn_bytes={self._max_bytes}: "
                    "commit in parts, raise the option, or begin with pipelined=True"
                )

    def _replace(self, key: bytes, old: Entry, new: Entry) -> None:
        if self._stages:
            self._stages[-1].setdefault(key, old)
        self._set(key, old, new)

    def _set(self, key: bytes, old: Entry, new: Entry) -> None:
        if self._views:
            for view in self._views:
                view.keep(key, old)
        if key not in self._entries:
            self._unsorted.append(key)
        self._entries[key] = new
        self.byte_count += _size(key, new) - _size(key, old)
        self.write_count += (new.kind is not Kind.NONE) - (old.kind is not Kind.NONE)

    def clear(self) -> None:
        """Forget all entries; those of open views stay with them. An error while a stage is open."""
        if self._stages:
            raise RuntimeError("a stage is open")
        for view in self._views or ():
            for key, entry in self._entries.items():
                view.keep(key, entry)
            view.detach(self.sorted_keys())
        self._entries, self._sorted, self._unsorted = {}, [], []
        self._views = None
        self.byte_count = self.write_count = 0

    # --- stages -------------------------------------------------------------------------------------------------------

    def stage(self) -> int:
        """Open a stage; returns its number."""
        self._stages.append({})
        return len(self._stages)

    def release(self, stage: int) -> None:
        """Close a stage and those inside it, keeping what was written."""
        self._check_stage(stage)
        while len(self._stages) >= stage:
            inner = self._stages.pop()
            if self._stages:
                outer = self._stages[-1]
                for key, old in inner.items():
                    outer.setdefault(key, old)

    def undo(self, stage: int) -> None:
        """Close a stage and those inside it, undoing what was written. Flags of locks stay."""
        self._check_stage(stage)
        while len(self._stages) >= stage:
            inner = self._stages.pop()
            for key, old in inner.items():
                now = self._entries[key]
                lasting = now.flags & _LASTING
                self._set(key, now, old._replace(flags=(old.flags & ~_LASTING) | lasting))

    def _check_stage(self, stage: int) -> None:
        if not 0 < stage <= len(self._stages):
            raise InvalidArgument("this savepoint is closed")

    # --- reading in order ---------------------------------------------------------------------------------------------

    def sorted_keys(self) -> list[bytes]:
        """Return all keys in order; not to be changed."""
        new = self._unsorted
        if new:
            if len(new) <= _INSERTED_ONE_BY_ONE:
                for key in new:
                    insort(self._sorted, key)
            else:
                self._sorted.extend(new)
                self._sorted.sort()  # two sorted or nearly sorted runs: one merge
            self._unsorted = []
        return self._sorted

    def items(self) -> Iterator[tuple[bytes, Entry]]:
        """Iterate over all entries in order; the buffer must not change meanwhile."""
        entries = self._entries
        return ((key, entries[key]) for key in self.sorted_keys())

    def view(self, start: bytes, end: bytes, *, reverse: bool) -> BufferView:
        """Return the entries of `[start, end)` as they are now; `b""` is unbounded."""
        view = BufferView(self, start, end, reverse=reverse)
        if self._views is None:
            self._views = weakref.WeakSet()
        self._views.add(view)
        return view


class BufferView:
    """The written entries of a range at one moment, in order, taken in chunks."""

    __slots__ = ("__weakref__", "_buffer", "_end", "_kept", "_keys", "_reverse", "_start")

    def __init__(self, buffer: WriteBuffer, start: bytes, end: bytes, *, reverse: bool) -> None:
        self._buffer = buffer
        self._start = start
        self._end = end
        self._reverse = reverse
        self._kept: dict[bytes, Entry] = {}
        self._keys: list[bytes] | None = None

    def keep(self, key: bytes, old: Entry) -> None:
        """Remember the entry that a write replaces; only the first one of a key counts."""
        self._kept.setdefault(key, old)

    def detach(self, keys: list[bytes]) -> None:
        """Live on alone, with all keys of the buffer, whose entries have been kept."""
        self._keys = keys

    def chunk(self, size: int) -> list[tuple[bytes, Entry]]:
        """Return the next entries, at least one and about `size`; an empty list at the end."""
        while True:
            keys = self._take(size)
            if not keys:
                return []
            found = [(key, entry) for key in keys if (entry := self._entry(key)).kind is not Kind.NONE]
            if found:
                return found

    def _entry(self, key: bytes) -> Entry:
        kept = self._kept.get(key)
        return kept if kept is not None else self._buffer.get(key) or _NOTHING

    def _take(self, size: int) -> list[bytes]:
        """Return the next keys and leave the range behind them."""
        ordered = self._buffer.sorted_keys() if self._keys is None else self._keys
        low = bisect_left(ordered, self._start)
        high = bisect_left(ordered, self._end) if self._end else len(ordered)
        if low >= high:
            return []
        if self._reverse:
            keys = ordered[max(low, high - size) : high]
            keys.reverse()
            self._end = keys[-1]
            if not self._end:  # the empty key was the last one, and as an end it would mean unbounded
                self._start = self._end = b"\x00"
        else:
            keys = ordered[low : min(high, low + size)]
            self._start = keys[-1] + b"\x00"
        return keys


def _size(key: bytes, entry: Entry) -> int:
    return 0 if entry.kind is Kind.NONE else len(key) + len(entry.value)
