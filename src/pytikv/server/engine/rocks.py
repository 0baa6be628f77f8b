"""The engine on disk: RocksDB through `rocksdict`.

What shaped it (measured in benchmarks/probes/rocks_group_commit.py, decision 0005):

* A *synced* write of rocksdict holds the GIL while the disk works, `flush_wal(True)` does not. So every write is
  unsynced, and durability is a separate step that threads share (`GroupCommit`). An unsynced write has reached the
  operating system: it survives kill -9, not a power failure.
* rocksdict's snapshots are *per column family*, and their iterators do not show the snapshot. A snapshot of ours takes
  one of each and one plain iterator, which does keep to its moment, all under the write mutex, which every change
  holds.
* Locks come and go with every transaction, and RocksDB keeps what was deleted until a compaction: an iterator that
  looks for the next lock stepped over thousands of dead ones (20 ns each) to find none. So the engine knows the keys
  of all locks there are (`LockKeys`), and a snapshot that has few of them reads these by their keys.
* rocksdict's iterators end silently where a block is damaged: `status` is asked at every end.
* Recovery tolerates a torn tail of the log, which is what a power failure leaves, and refuses damage anywhere else.
  RocksDB's default would silently drop everything behind the damage.

The directory holds RocksDB's files and `pytikv.lock`, which names the process that has it open. It is made with mode
0700. RocksDB's own LOCK guards against processes that do not know ours.

In a process forked from one with an open engine, the engine is closed: two writers would tear the log. Its RocksDB is
never freed there, because that waits for background threads which a forked process does not have.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DbClosedError,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    RdictIter,
)
from rocksdict import Snapshot as RocksSnapshot
from rocksdict import WriteBatch as RocksBatch

from pytikv.errors import Outcome, StorageError
from pytikv.rt.locks import mutex
from pytikv.server.engine.group_commit import GroupCommit
from pytikv.server.engine.interface import CF_LOCK, CFS, DELETE, PUT, Snapshot, WriteBatch
from pytikv.server.engine.lock_keys import LockKeys
from pytikv.server.engine.path_lock import PathLock

__all__ = ["RocksEngine"]

_open_engines: weakref.WeakSet[RocksEngine] = weakref.WeakSet()
_DATA_CFS = ("default", "lock", "write")
_KEY_NOT_FOUND = "key not found"  # all that tells a missing key from a failure in rocksdict's snapshots
_BLOCK_CACHE_BYTES = 64 << 20
_WRITE_BUFFER_BYTES = 32 << 20


def _options(cache: Cache) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_paranoid_checks(True)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_total_wal_size(4 * _WRITE_BUFFER_BYTES)
    options.set_keep_log_file_num(2)
    options.set_max_background_jobs(2)
    table = BlockBasedOptions()
    table.set_bloom_filter(10, False)
    table.set_block_cache(cache)
    options.set_block_based_table_factory(table)
    return options


def _mapped(exception: Exception, path: str) -> StorageError:
    """Say what an exception of rocksdict means. It has one class for all, so the text decides."""
    if isinstance(exception, StorageError):
        return exception
    text = str(exception)
    if isinstance(exception, DbClosedError):
        return StorageError("the engine is closed")
    if "lock hold by current process" in text:
        return StorageError(f"{path} is in use by this process: a cursor of an earlier opening is still held")
    if "No space left" in text:
        return StorageError(f"disk full: {path}: {text}")
    if "Corruption" in text or "corrupt" in text:
        return StorageError(f"corrupted data in {path}: {_with_file_names(text, path)}")
    return StorageError(f"{path}: {text}")


def _with_file_names(text: str, path: str) -> str:
    """Name the suspects where RocksDB names no file: only its logs are read without one."""
    if re.search(r"\d{6}\.(sst|log)|MANIFEST-\d+|CURRENT|OPTIONS-\d+", text):
        return text
    with contextlib.suppress(OSError):
        logs = sorted(name for name in os.listdir(path) if name.endswith(".log"))
        return f"{text} (in one of the write-ahead logs: {', '.join(logs)})"
    return text


class _View:
    """A rocksdict iterator, which is all of rocksdict that keeps showing one moment, shared by cursors."""

    __slots__ = ("it", "user")

    def __init__(self, it: RdictIter) -> None:
        self.it = it
        self.user: object = None


class _Cursor:
    """A place in a view. A cursor that finds the view's iterator moved by another one goes back to its own key first.

    Bounds are checked here. A snapshot's iterator is made before they are known, and rocksdict's own bounds are unsafe:
    the iterator reads them from the ReadOptions after these were freed, and the lower one sets the upper (0.3.29).
    """

    __slots__ = ("_end_key", "_it", "_key", "_path", "_start_key", "_token", "_valid", "_view")

    def __init__(self, view: _View, path: str, start_key: bytes, end_key: bytes) -> None:
        self._view = view
        self._token = object()  # not the cursor itself: a cycle would keep the iterator, and the database, open
        self._it = view.it
        self._path = path
        self._start_key = start_key
        self._end_key = end_key
        self._valid = False
        self._key = b""

    def _arrived(self) -> bool:
        """Note where the iterator has come to; at an end, make sure that it is one."""
        it = self._it
        self._view.user = self._token
        if not it.valid():
            self._valid = False
            try:
                it.status()
            except Exception as error:
                raise _mapped(error, self._path) from error
            return False
        key = self._key = it.key()
        self._valid = key >= self._start_key and (not self._end_key or key < self._end_key)
        return self._valid

    def _regain(self) -> RdictIter:
        if self._view.user is not self._token:
            self._it.seek(self._key)
            self._view.user = self._token
        return self._it

    def seek(self, key: bytes) -> bool:
        self._it.seek(max(key, self._start_key))
        return self._arrived()

    def seek_for_prev(self, key: bytes) -> bool:
        if self._end_key and key >= self._end_key:
            return self.seek_to_last()
        self._it.seek_for_prev(key)
        return self._arrived()

    def seek_to_first(self) -> bool:
        return self.seek(self._start_key)

    def seek_to_last(self) -> bool:
        _seek_below(self._it, self._end_key)
        return self._arrived()

    def next(self) -> bool:
        if not self._valid:
            return False
        self._regain().next()
        return self._arrived()

    def prev(self) -> bool:
        if not self._valid:
            return False
        self._regain().prev()
        return self._arrived()

    def valid(self) -> bool:
        return self._valid

    def key(self) -> bytes:
        return self._key

    def value(self) -> bytes:
        value: bytes = self._regain().value()
        return value


class _Snapshot:
    """rocksdict's snapshot for `get`, and an iterator made at the same moment for cursors.

    Cursors cannot come from rocksdict's snapshot: its iterators show the present state (0.3.24 to 0.3.29).
    """

    def __init__(
        self, path: str, snapshots: dict[str, RocksSnapshot], views: dict[str, _View], locks: tuple[bytes, ...] | None
    ) -> None:
        """`locks`: keys, among them those of all locks, where they are few."""
        self._path = path
        self._snapshots = snapshots
        self._views = views
        self._locks = locks

    def _closed(self, cf: str) -> StorageError:
        return StorageError(f"the snapshot has no column family {cf!r}, or is closed")

    def get(self, cf: str, key: bytes) -> bytes | None:
        if cf not in self._snapshots:
            raise self._closed(cf)
        try:
            value: bytes = self._snapshots[cf][key]
        except Exception as error:
            if error.args == (_KEY_NOT_FOUND,):
                return None
            raise _mapped(error, self._path) from error
        return value

    def cursor(self, cf: str, start_key: bytes = b"", end_key: bytes = b"") -> _Cursor:
        if cf not in self._views:
            raise self._closed(cf)
        return _Cursor(self._views[cf], self._path, start_key, end_key)

    def scan(
        self, cf: str, start_key: bytes = b"", end_key: bytes = b"", *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        if cf not in self._views:
            raise self._closed(cf)
        if cf == CF_LOCK and self._locks is not None:
            return self._few_locks(self._locks, start_key, end_key, reverse) if self._locks else iter(())
        return _walk(self._views[cf], self._path, start_key, end_key, reverse)

    def _few_locks(
        self, keys: tuple[bytes, ...], start_key: bytes, end_key: bytes, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        within = [key for key in keys if key >= start_key and (not end_key or key < end_key)]
        for key in sorted(within, reverse=reverse):
            value = self.get(CF_LOCK, key)
            if value is not None:
                yield key, value

    def close(self) -> None:
        self._snapshots = {}
        self._views = {}


def _walk(view: _View, path: str, start_key: bytes, end_key: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
    """Iterate over a range. No cursor in between halves the cost of imports, checksums, exports and scans."""
    it, token = view.it, object()
    key, value, step = it.key, it.value, it.prev if reverse else it.next
    if reverse:
        _seek_below(it, end_key)
    else:
        it.seek(start_key)
    view.user = token
    at = key()
    while at is not None:
        if at < start_key if reverse else end_key and at >= end_key:
            return
        yield at, value()
        if view.user is not token:  # a cursor has moved it since
            it.seek(at)
            view.user = token
        step()
        at = key()
    try:
        it.status()
    except Exception as error:
        raise _mapped(error, path) from error


def _seek_below(it: RdictIter, end_key: bytes) -> None:
    """Go to the last key below `end_key`; the empty one: to the last key."""
    if not end_key:
        it.seek_to_last()
        return
    it.seek_for_prev(end_key)
    if it.key() == end_key:
        it.prev()


class RocksEngine:
    """The engine on disk. See the module's docstring; the methods are those of `Engine`."""

    def __init__(self, path: str) -> None:
        """Open the store at `path`, making it where it is missing. Raises StorageError: in use (naming the process),
        not a directory, not writable, damaged (naming the file), written by a newer RocksDB.
        """
        self.path = path
        self._lock = mutex()
        self._ticket = 0
        self._failure: StorageError | None = None
        self._is_closed = False
        self._closed_text = "the engine is closed"
        self._path_lock = PathLock(path)
        try:
            cache = Cache(_BLOCK_CACHE_BYTES)
            self._db = Rdict(path, _options(cache), {cf: _options(cache) for cf in CFS})
            self._cfs = {cf: self._db.get_column_family(cf) for cf in CFS}
            self._handles: dict[str, Any] = {cf: self._db.get_column_family_handle(cf) for cf in CFS}
        except Exception as error:
            self._path_lock.release()
            raise _mapped(error, path) from error
        self._lock_keys = LockKeys()
        self._commit = GroupCommit(self._flush_wal, lambda: self._ticket)
        _open_engines.add(self)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _source(self, cf: str) -> Rdict:
        try:
            return self._cfs[cf]
        except KeyError:
            message = self._closed_text if self._is_closed else f"there is no column family {cf!r}"
            raise StorageError(message) from None

    def getter(self, cf: str) -> Callable[[bytes], bytes | None]:
        """Return rocksdict's own `get`."""
        return self._source(cf).get

    def seeker(self, cf: str) -> Callable[[bytes], tuple[bytes, bytes] | None]:
        """Return `first` without what guards it."""
        iterator = self._source(cf).iter

        def first(key: bytes) -> tuple[bytes, bytes] | None:
            it = iterator()
            it.seek(key)
            found = it.key()
            if found is not None:
                return found, it.value()
            it.status()
            return None

        return first

    def error(self, exception: Exception) -> Exception:
        """Return the StorageError for an exception of a `getter` or `seeker`."""
        return _mapped(exception, self.path)

    def get(self, cf: str, key: bytes) -> bytes | None:
        """Return the value of `key` or None."""
        try:
            value: bytes | None = self._cfs[cf].get(key)
        except Exception as error:
            self._source(cf)  # tells a missing column family and a closed engine apart
            raise _mapped(error, self.path) from error
        return value

    def multi_get(self, cf: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key or None. RocksDB reads them from one moment."""
        if not keys:
            return []
        try:
            values: Any = self._source(cf).get(list(keys))
        except Exception as error:
            raise _mapped(error, self.path) from error
        return list(values)

    def first(self, cf: str, key: bytes) -> tuple[bytes, bytes] | None:
        """Return the first pair at or above `key`."""
        try:
            return self.seeker(cf)(key)
        except Exception as error:
            raise _mapped(error, self.path) from error

    def snapshot(self) -> Snapshot:
        """Return a snapshot of the data column families, all taken while no write is under way."""
        with self._lock:
            sources = {cf: self._source(cf) for cf in _DATA_CFS}
            views = {cf: _View(source.iter()) for cf, source in sources.items()}
            snapshots = {cf: source.snapshot() for cf, source in sources.items()}
            return _Snapshot(self.path, snapshots, views, self._lock_keys.few(self._present_locks))

    def _present_locks(self) -> Iterator[bytes]:
        return (key for key, _ in self.scan(CF_LOCK))

    def cursor(self, cf: str, start_key: bytes = b"", end_key: bytes = b"") -> _Cursor:
        """Return a cursor over `[start_key, end_key)`."""
        return _Cursor(_View(self._iter(cf)), self.path, start_key, end_key)

    def _iter(self, cf: str) -> RdictIter:
        source = self._source(cf)
        try:
            return source.iter()
        except Exception as error:
            raise _mapped(error, self.path) from error

    def scan(
        self, cf: str, start_key: bytes = b"", end_key: bytes = b"", *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over `[start_key, end_key)`."""
        return _walk(_View(self._iter(cf)), self.path, start_key, end_key, reverse)

    # --- writing ------------------------------------------------------------------------------------------------------

    def put(self, cf: str, key: bytes, value: bytes) -> int:
        """Set one key."""
        with self._lock:
            if self._failure is not None:
                raise self._refusal()
            try:
                self._cfs[cf].put(key, value)
            except Exception as error:
                raise self._write_failed(cf, error) from error
            if cf == CF_LOCK:
                self._lock_keys.apply(((PUT, cf, key, value),))
            self._ticket += 1
            return self._ticket

    def delete(self, cf: str, key: bytes) -> int:
        """Remove one key."""
        with self._lock:
            if self._failure is not None:
                raise self._refusal()
            try:
                self._cfs[cf].delete(key)
            except Exception as error:
                raise self._write_failed(cf, error) from error
            if cf == CF_LOCK:
                self._lock_keys.apply(((DELETE, cf, key, b""),))
            self._ticket += 1
            return self._ticket

    def write(self, batch: WriteBatch, *, sync: bool = False) -> int:
        """Apply a batch."""
        with self._lock:
            if self._failure is not None:
                raise self._refusal()
            modifies = batch.modifies
            if len(modifies) == 1 and modifies[0][0] == PUT:  # what it is made of costs more than the batch
                _, cf, key, value = modifies[0]
                change = partial(self._source(cf).put, key, value)
            else:
                change = partial(self._db.write, self._native(batch))
            try:
                change()
            except Exception as error:
                raise self._write_failed("default", error) from error
            self._lock_keys.apply(modifies)
            self._ticket += 1
            ticket = self._ticket
        if sync:
            self.flush(ticket)
        return ticket

    def _native(self, batch: WriteBatch) -> RocksBatch:
        native = RocksBatch(raw_mode=True)
        handles = self._handles
        for kind, cf, key, value in batch.modifies:
            if cf not in handles:
                self._source(cf)
            if kind == PUT:
                native.put(key, value, handles[cf])
            elif kind == DELETE:
                native.delete(key, handles[cf])
            else:
                end_key = value or self._behind_all(cf, batch)
                if key < end_key:
                    native.delete_range(key, end_key, handles[cf])
        return native

    def _behind_all(self, cf: str, batch: WriteBatch) -> bytes:
        """Return a key behind every key that there is or that `batch` puts: RocksDB's range deletions need an end."""
        cursor = self.cursor(cf)
        last = cursor.key() if cursor.seek_to_last() else b""
        put = [key for kind, to, key, _ in batch.modifies if kind == PUT and to == cf]
        return max([last, *put]) + b"\x00"

    def flush(self, ticket: int | None = None) -> None:
        """Block until the change is durable."""
        if self._is_closed:
            raise StorageError(self._closed_text)
        self._commit.wait(self._ticket if ticket is None else ticket)

    def _flush_wal(self) -> None:
        try:
            self._db.flush_wal(True)
        except Exception as error:
            mapped = _mapped(error, self.path)
            self._failure = self._failure or mapped
            raise StorageError(f"the flush failed: {mapped}", outcome=Outcome.UNDETERMINED) from error

    def _write_failed(self, cf: str, error: Exception) -> StorageError:
        if cf not in self._cfs or isinstance(error, (TypeError, DbClosedError)):
            self._source(cf)
            return _mapped(error, self.path)
        self._failure = _mapped(error, self.path)
        self._lock_keys.forget()  # what was written is not known
        return StorageError(str(self._failure), outcome=Outcome.UNDETERMINED)

    def _refusal(self) -> StorageError:
        return StorageError(f"read-only after a failed write: {self._failure}")

    @property
    def ticket(self) -> int:
        """The ticket of the last change."""
        return self._ticket

    @property
    def durable_ticket(self) -> int:
        """Changes up to here are durable."""
        return self._commit.durable

    @property
    def flushes(self) -> int:
        """How many flushes there were: tickets divided by this is the size of a group."""
        return self._commit.flushes

    def exclusive(self) -> AbstractContextManager[object]:
        """Keep other writers out."""
        return self._lock

    # --- upkeep -------------------------------------------------------------------------------------------------------

    def approximate_size(self, cf: str, start_key: bytes = b"", end_key: bytes = b"") -> int:
        """Return about how many bytes lie in the range: the files within it, and the buffers' part by their share.

        rocksdict has no GetApproximateSizes, so files count whole when they touch the range.
        """
        try:
            buffered = self._source(cf).property_int_value("rocksdb.cur-size-all-mem-tables") or 0
            files = [file for file in self._db.live_files() if self._touches(file, start_key, end_key)]
        except Exception as error:
            raise _mapped(error, self.path) from error
        return buffered + sum(int(file["size"]) for file in files)

    @staticmethod
    def _touches(file: dict[str, Any], start_key: bytes, end_key: bytes) -> bool:
        first, last = file["start_key"] or b"", file["end_key"] or b""
        return last >= start_key and (not end_key or first < end_key)

    def approximate_keys(self, cf: str) -> int:
        """Return RocksDB's estimate."""
        return self._source(cf).property_int_value("rocksdb.estimate-num-keys") or 0

    def number(self, cf: str, name: str) -> int | None:
        """Return a property of RocksDB's."""
        value: int | None = self._source(cf).property_int_value(name)
        return value

    def compact(self, cf: str) -> None:
        """Compact the whole column family."""
        try:
            self._source(cf).compact_range(None, None)
        except Exception as error:
            raise _mapped(error, self.path) from error

    def close(self) -> None:
        """Flush, close RocksDB and release the directory."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            cfs, self._cfs, self._handles = self._cfs, {}, {}
        with contextlib.suppress(Exception):  # a failed disk was reported when it failed
            self._db.flush_wal(True)
        for cf in cfs.values():
            cf.close()
        self._db.close()
        # RocksDB closes when the last reference goes; cursors and snapshots still out there hold some.
        del cfs
        gc.collect(0)
        self._path_lock.release()

    def _abandon(self) -> None:
        """Give the engine up in a forked child: refuse everything, free nothing."""
        for part in (self._db, *self._cfs.values(), *self._handles.values()):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(part))
        self._cfs, self._handles = {}, {}
        self._is_closed = True
        self._closed_text = "the engine belongs to the process that this one was forked from"


def _abandon_all() -> None:
    for engine in list(_open_engines):
        engine._abandon()


os.register_at_fork(after_in_child=_abandon_all)
