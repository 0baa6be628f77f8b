"""Which keys are locked at present: a set beside the lock family, so that scans need not look for locks on the disk.

What costs in looking is not the locks that there are, which are few, but those that there were: RocksDB's iterators
step over each deleted key until a compaction has removed it.

Invariant: the set holds every key of the lock family. It is changed where the family is, after the write has succeeded
and before anyone else may read (the engine's write mutex is held). After a failed write nobody knows what the family
holds, and the set is *unknown* for good, as the engine is read-only for good. It is filled by the first question, by
one walk, so that opening costs nothing; until then it is unknown as well, which costs writers nothing. A key is held in
memory for each lock; the locks of one transaction are in memory elsewhere already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pytikv.errors import StorageError
from pytikv.server.engine.interface import CF_LOCK, DELETE, PUT, Modify

__all__ = ["FEW", "LockKeys"]

FEW: Final = 256
"""With more locks than this their keys are not copied for each snapshot, and an iterator has to look for them."""


class LockKeys:
    """See the module's docstring. All methods are called with the engine's write mutex held."""

    __slots__ = ("_is_lost", "_keys", "_were_many")

    def __init__(self) -> None:
        self._keys: set[bytes] | None = None
        self._is_lost = False
        self._were_many = False

    def few(self, present: Callable[[], Iterable[bytes]]) -> tuple[bytes, ...] | None:
        """Return the keys of all locks where these are few and known, else None.

        `present` walks over the keys of the lock family as it is now. Where that fails, None: who scans is told.
        """
        if self._keys is None:
            if self._is_lost:
                return None
            try:
                self._keys = set(present())
            except StorageError:
                self.forget()
                return None
            self._were_many = len(self._keys) > FEW
        if len(self._keys) > FEW:
            return None
        if self._were_many:
            self._keys, self._were_many = set(self._keys), False  # one that has shrunk is walked at its former size
        return tuple(self._keys)

    def apply(self, modifies: Sequence[Modify]) -> None:
        """Take note of changes that were written, of whatever families."""
        keys = self._keys
        if keys is None:
            return
        for kind, cf, key, value in modifies:
            if cf != CF_LOCK:
                continue
            if kind == PUT:
                keys.add(key)
            elif kind == DELETE:
                keys.discard(key)
            else:
                keys -= {held for held in keys if held >= key and (not value or held < value)}
            if len(keys) > FEW:
                self._were_many = True

    def forget(self) -> None:
        """A write or the walk has failed: it is not known any more what is locked."""
        self._keys, self._is_lost = None, True
