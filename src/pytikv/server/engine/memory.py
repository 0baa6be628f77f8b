"""An engine in memory: sorted chunks of keys, copied when a snapshot still needs them.

Each column family is a list of chunks of at most `_CHUNK` keys, with the first key of each chunk in a list beside it
(the first chunk begins at `b""`, whatever its first key). Finding a key is two binary searches; inserting one moves at
most a chunk.

*Snapshots* are free to take: they keep the two lists, and the table remembers that these are shared. The next change
copies the outer lists once and takes a new `owner` token; a chunk that bears another token is copied before it is
changed. What a snapshot holds is therefore never changed. Cursors and scans stand on such a frozen view too, so that
one sees one moment, as with RocksDB.

*Crash*: with `keep_durable=True` the engine remembers the state of the last flush, and `after_crash` gives an engine
that has just that: the disk of a simulation. A flush costs nothing else here.

One lock guards everything; it is held for one change or one look-up at a time.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

from pytikv.errors import StorageError
from pytikv.rt.locks import mutex
from pytikv.server.engine.interface import CFS, DELETE, PUT, Snapshot, WriteBatch

__all__ = ["MemoryEngine"]

_CHUNK = 512


class _Chunk:
    __slots__ = ("keys", "owner", "values")

    def __init__(self, keys: list[bytes], values: list[bytes], owner: object) -> None:
        self.keys = keys
        self.values = values
        self.owner = owner


@dataclasses.dataclass(frozen=True, slots=True)
class _View:
    """What a table held at one moment. Never changed."""

    firsts: list[bytes]
    chunks: list[_Chunk]

    def locate(self, key: bytes) -> tuple[int, int]:
        """Return chunk and position of the first key at or above `key`; the position may be the chunk's length."""
        at = bisect_right(self.firsts, key) - 1
        return at, bisect_left(self.chunks[at].keys, key)

    def get(self, key: bytes) -> bytes | None:
        at, i = self.locate(key)
        chunk = self.chunks[at]
        return chunk.values[i] if i < len(chunk.keys) and chunk.keys[i] == key else None

    def first(self, key: bytes) -> tuple[bytes, bytes] | None:
        """Return the first pair at or above `key`."""
        at, i = self.locate(key)
        while i == len(self.chunks[at].keys):
            at, i = at + 1, 0
            if at == len(self.chunks):
                return None
        chunk = self.chunks[at]
        return chunk.keys[i], chunk.values[i]


def _empty_view() -> _View:
    return _View([b""], [_Chunk([], [], None)])


_EMPTY: list[bytes] = []


class _Table:
    """One column family. Not safe for threads: the engine's lock guards it."""

    def __init__(self, view: _View | None = None) -> None:
        self.owner = object()
        self.view = view or _empty_view()
        self.is_shared = True
        self.keys = sum(len(chunk.keys) for chunk in self.view.chunks)

    def share(self) -> _View:
        self.is_shared = True
        return self.view

    def _own(self) -> None:
        """Make the outer lists ours again after a snapshot; chunks follow one by one."""
        self.view = _View(self.view.firsts.copy(), self.view.chunks.copy())
        self.owner = object()
        self.is_shared = False

    def _own_chunk(self, at: int) -> _Chunk:
        chunk = self.view.chunks[at]
        if chunk.owner is not self.owner:
            chunk = _Chunk(chunk.keys.copy(), chunk.values.copy(), self.owner)
            self.view.chunks[at] = chunk
        return chunk

    def put(self, key: bytes, value: bytes) -> None:
        if self.is_shared:
            self._own()
        at, i = self.view.locate(key)
        chunk = self._own_chunk(at)
        if i < len(chunk.keys) and chunk.keys[i] == key:
            chunk.values[i] = value
            return
        chunk.keys.insert(i, key)
        chunk.values.insert(i, value)
        self.keys += 1
        if len(chunk.keys) > _CHUNK:
            half = _CHUNK // 2
            upper = _Chunk(chunk.keys[half:], chunk.values[half:], self.owner)
            del chunk.keys[half:], chunk.values[half:]
            self.view.chunks.insert(at + 1, upper)
            self.view.firsts.insert(at + 1, upper.keys[0])

    def delete(self, key: bytes) -> None:
        at, i = self.view.locate(key)
        keys = self.view.chunks[at].keys
        if i < len(keys) and keys[i] == key:
            self._cut(at, i, i + 1)

    def delete_range(self, start_key: bytes, end_key: bytes) -> None:
        if end_key and start_key >= end_key:
            return
        while True:
            at, i = self.view.locate(start_key)
            keys = self.view.chunks[at].keys
            stop = bisect_left(keys, end_key) if end_key else len(keys)
            if i < stop:
                self._cut(at, i, stop)
                continue  # the chunk may be gone: look again
            # Nothing here: go on with the next chunk while it begins below the end.
            if at + 1 == len(self.view.firsts) or (end_key and self.view.firsts[at + 1] >= end_key):
                return
            start_key = self.view.firsts[at + 1]

    def _cut(self, at: int, start: int, stop: int) -> None:
        if self.is_shared:
            self._own()
        chunk = self._own_chunk(at)
        del chunk.keys[start:stop], chunk.values[start:stop]
        self.keys -= stop - start
        if not chunk.keys and len(self.view.chunks) > 1:
            del self.view.chunks[at], self.view.firsts[at]
            self.view.firsts[0] = b""


class _Cursor:
    """A place in a frozen view: chunk number and position; valid while `_at` is within the bounds."""

    __slots__ = ("_at", "_chunks", "_end_key", "_i", "_keys", "_start_key", "_valid", "_values", "_view")

    def __init__(self, view: _View, start_key: bytes, end_key: bytes) -> None:
        self._view = view
        self._chunks = view.chunks
        self._start_key = start_key
        self._end_key = end_key
        self._at = self._i = 0
        self._keys = self._values = _EMPTY
        self._valid = False

    def _place(self, at: int, i: int) -> bool:
        self._at, self._i = at, i
        chunk = self._chunks[at]
        self._keys, self._values = chunk.keys, chunk.values
        self._valid = True
        return True

    def seek(self, key: bytes) -> bool:
        at, i = self._view.locate(max(key, self._start_key))
        while i == len(self._chunks[at].keys):
            at, i = at + 1, 0
            if at == len(self._chunks):
                self._valid = False
                return False
        self._place(at, i)
        return self._check_end()

    def seek_for_prev(self, key: bytes) -> bool:
        if self._end_key and key >= self._end_key:
            return self._seek_below(self._end_key)
        at, i = self._view.locate(key)
        keys = self._chunks[at].keys
        if i < len(keys) and keys[i] == key:
            self._place(at, i)
            return self._check_start()
        return self._step_back(at, i)

    def _seek_below(self, key: bytes) -> bool:
        return self._step_back(*self._view.locate(key))

    def _step_back(self, at: int, i: int) -> bool:
        while i == 0:
            if at == 0:
                self._valid = False
                return False
            at -= 1
            i = len(self._chunks[at].keys)
        self._place(at, i - 1)
        return self._check_start()

    def _check_end(self) -> bool:
        if self._end_key and self._keys[self._i] >= self._end_key:
            self._valid = False
        return self._valid

    def _check_start(self) -> bool:
        if self._keys[self._i] < self._start_key:
            self._valid = False
        return self._valid

    def seek_to_first(self) -> bool:
        return self.seek(self._start_key)

    def seek_to_last(self) -> bool:
        if self._end_key:
            return self._seek_below(self._end_key)
        last = len(self._chunks) - 1
        return self._step_back(last, len(self._chunks[last].keys))

    def next(self) -> bool:
        if not self._valid:
            return False
        self._i += 1
        if self._i < len(self._keys):
            return self._check_end()
        at = self._at + 1
        while at < len(self._chunks) and not self._chunks[at].keys:
            at += 1
        if at == len(self._chunks):
            self._valid = False
            return False
        self._place(at, 0)
        return self._check_end()

    def prev(self) -> bool:
        return self._valid and self._step_back(self._at, self._i)

    def valid(self) -> bool:
        return self._valid

    def key(self) -> bytes:
        return self._keys[self._i]

    def value(self) -> bytes:
        return self._values[self._i]


def _scan(view: _View, start_key: bytes, end_key: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
    cursor = _Cursor(view, start_key, end_key)
    step = cursor.prev if reverse else cursor.next
    found = cursor.seek_to_last() if reverse else cursor.seek_to_first()
    while found:
        yield cursor.key(), cursor.value()
        found = step()


class _MemorySnapshot:
    def __init__(self, views: dict[str, _View]) -> None:
        self._views = views

    def _view(self, cf: str) -> _View:
        try:
            return self._views[cf]
        except KeyError:
            raise StorageError(f"the snapshot has no column family {cf!r}, or is closed") from None

    def get(self, cf: str, key: bytes) -> bytes | None:
        return self._view(cf).get(key)

    def cursor(self, cf: str, start_key: bytes = b"", end_key: bytes = b"") -> _Cursor:
        return _Cursor(self._view(cf), start_key, end_key)

    def scan(
        self, cf: str, start_key: bytes = b"", end_key: bytes = b"", *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return _scan(self._view(cf), start_key, end_key, reverse)

    def close(self) -> None:
        self._views = {}


class MemoryEngine:
    """The engine in memory. See the module's docstring; the methods are those of `Engine`."""

    path = ""

    def __init__(self, *, keep_durable: bool = False) -> None:
        self._lock = mutex()
        self._tables = {cf: _Table() for cf in CFS}
        self._is_closed = False
        self._ticket = 0
        self._durable_ticket = 0
        self._keep_durable = keep_durable
        self._durable = {cf: table.share() for cf, table in self._tables.items()} if keep_durable else {}

    def _table(self, cf: str) -> _Table:
        if self._is_closed:
            raise StorageError("the engine is closed")
        try:
            return self._tables[cf]
        except KeyError:
            raise StorageError(f"there is no column family {cf!r}") from None

    def getter(self, cf: str) -> Callable[[bytes], bytes | None]:
        """Return the `get` of one column family."""
        table = self._table(cf)

        def get(key: bytes) -> bytes | None:
            with self._lock:
                if self._is_closed:
                    raise StorageError("the engine is closed")
                return table.view.get(key)

        return get

    def seeker(self, cf: str) -> Callable[[bytes], tuple[bytes, bytes] | None]:
        """Return the `first` of one column family."""
        table = self._table(cf)

        def first(key: bytes) -> tuple[bytes, bytes] | None:
            with self._lock:
                if self._is_closed:
                    raise StorageError("the engine is closed")
                return table.view.first(key)

        return first

    def error(self, exception: Exception) -> Exception:
        """Return `exception`: what is raised here is a StorageError already."""
        return exception

    def get(self, cf: str, key: bytes) -> bytes | None:
        """Return the value of `key` or None."""
        with self._lock:
            return self._table(cf).view.get(key)

    def multi_get(self, cf: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key or None."""
        with self._lock:
            get = self._table(cf).view.get
            return [get(key) for key in keys]

    def first(self, cf: str, key: bytes) -> tuple[bytes, bytes] | None:
        """Return the first pair at or above `key`."""
        with self._lock:
            return self._table(cf).view.first(key)

    def _share(self, cf: str) -> _View:
        with self._lock:
            return self._table(cf).share()

    def cursor(self, cf: str, start_key: bytes = b"", end_key: bytes = b"") -> _Cursor:
        """Return a cursor over the present state."""
        return _Cursor(self._share(cf), start_key, end_key)

    def scan(
        self, cf: str, start_key: bytes = b"", end_key: bytes = b"", *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the present state of a range."""
        return _scan(self._share(cf), start_key, end_key, reverse)

    def put(self, cf: str, key: bytes, value: bytes) -> int:
        """Set one key."""
        with self._lock:
            self._table(cf).put(key, value)
            self._ticket += 1
            return self._ticket

    def delete(self, cf: str, key: bytes) -> int:
        """Remove one key."""
        with self._lock:
            self._table(cf).delete(key)
            self._ticket += 1
            return self._ticket

    def write(self, batch: WriteBatch, *, sync: bool = False) -> int:
        """Apply a batch."""
        with self._lock:
            tables = [self._table(cf) for _, cf, _, _ in batch.modifies]  # refuse before anything is applied
            for table, (kind, _, key, value) in zip(tables, batch.modifies, strict=True):
                if kind == PUT:
                    table.put(key, value)
                elif kind == DELETE:
                    table.delete(key)
                else:
                    table.delete_range(key, value)
            self._ticket += 1
            if sync:
                self.flush()
            return self._ticket

    def flush(self, ticket: int | None = None) -> None:
        """Remember the present state as the one that survives `after_crash`."""
        with self._lock:
            if self._keep_durable and not self._is_closed:
                self._durable = {cf: table.share() for cf, table in self._tables.items()}
            self._durable_ticket = self._ticket

    def after_crash(self) -> MemoryEngine:
        """Return an engine with what the last flush had; this one is closed. Needs `keep_durable`."""
        assert self._keep_durable, "made without keep_durable"
        with self._lock:
            self._is_closed = True
            survivor = type(self)(keep_durable=True)
            survivor._tables = {cf: _Table(view) for cf, view in self._durable.items()}
            survivor.flush()
            return survivor

    @property
    def ticket(self) -> int:
        """The ticket of the last change."""
        return self._ticket

    @property
    def durable_ticket(self) -> int:
        """Changes up to here were flushed."""
        return self._durable_ticket

    def exclusive(self) -> AbstractContextManager[object]:
        """Keep other writers out."""
        return self._lock

    def snapshot(self) -> Snapshot:
        """Return a snapshot of all column families."""
        with self._lock:
            return _MemorySnapshot({cf: self._table(cf).share() for cf in self._tables})

    def approximate_size(self, cf: str, start_key: bytes = b"", end_key: bytes = b"") -> int:
        """Return the bytes in the range: exact at its ends, from the size of one key in twenty in between."""
        return _approximate_size(_spans(self._share(cf), start_key, end_key))

    def approximate_keys(self, cf: str) -> int:
        """Return the number of keys, here exact."""
        return self._table(cf).keys

    def number(self, cf: str, name: str) -> int | None:
        """Return None: this is not RocksDB."""
        return None

    @property
    def flushes(self) -> int:
        """Nothing is made durable here."""
        return 0

    def compact(self, cf: str) -> None:
        """Do nothing: what is deleted here is gone."""

    def close(self) -> None:
        """Drop everything."""
        with self._lock:
            self._is_closed = True
            for table in self._tables.values():
                table.view = _empty_view()


def _spans(view: _View, start_key: bytes, end_key: bytes) -> Iterator[tuple[_Chunk, int, int]]:
    at, i = view.locate(start_key)
    for chunk in view.chunks[at:]:
        stop = bisect_left(chunk.keys, end_key) if end_key else len(chunk.keys)
        if i < stop:
            yield chunk, i, stop
        if stop < len(chunk.keys):
            return
        i = 0


def _approximate_size(spans: Iterable[tuple[_Chunk, int, int]]) -> int:
    total = 0
    for chunk, start, stop in spans:
        step = max(1, (stop - start) // 25)
        sample = range(start, stop, step)
        sampled = sum(len(chunk.keys[i]) + len(chunk.values[i]) for i in sample)
        total += sampled * (stop - start) // len(sample)
    return total
