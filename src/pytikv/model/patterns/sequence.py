"""Ids in blocks: a sequence in the store gives out ranges, programs hand out the ids of theirs without asking.

Guarantees: no id is given out twice, by whatever program, thread or task; the ids of one `Sequence` object ascend. Not
guaranteed: that no id is left out (a program that ends loses the rest of its block), nor any order between programs.

One transaction a block, in a transaction of its own: an id that was taken stays taken whatever becomes of the
transaction that uses it. A commit whose answer was lost loses its block.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final, overload

from pytikv.client.arguments import check_count
from pytikv.client.txn.blocking import TransactionClient
from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import CommitUndetermined, StorageError
from pytikv.model.drive import in_client
from pytikv.model.patterns.names import name_key
from pytikv.model.tuples import decode, encode
from pytikv.rt.locks import mutex

__all__ = ["Sequence"]

_MAX_BLOCK: Final = 1 << 31


class Sequence:
    """A named sequence. first: its first id. block: ids fetched at once, 1 to 2**31. Safe for all threads and tasks."""

    def __init__(self, name: str, *, first: int = 1, block: int = 100, prefix: bytes = b"") -> None:
        check_count("block", block, low=1, high=_MAX_BLOCK)
        check_count("first", first, low=0, high=1 << 62)
        self.name = name
        self._key = name_key("sequence", name, prefix)
        self._first = first
        self._block = block
        self._lock = mutex()
        self._next = self._end = 0

    @overload
    def next(self, db: TransactionClient) -> int: ...
    @overload
    def next(self, db: AsyncTransactionClient) -> Coroutine[Any, Any, int]: ...
    def next(self, db: Any) -> Any:
        """Return an id that nobody has had. With an asynchronous client a coroutine."""
        return in_client(db, self._take, 1, first_only=True)

    @overload
    def next_many(self, db: TransactionClient, count: int) -> list[int]: ...
    @overload
    def next_many(self, db: AsyncTransactionClient, count: int) -> Coroutine[Any, Any, list[int]]: ...
    def next_many(self, db: Any, count: int) -> Any:
        """Return `count` ids that nobody has had, ascending, as a list."""
        check_count("count", count, low=1, high=_MAX_BLOCK)
        return in_client(db, self._take, count, first_only=False)

    async def _take(self, db: AsyncTransactionClient, count: int, *, first_only: bool) -> Any:
        ids: list[int] = []
        while True:
            with self._lock:
                had = min(count - len(ids), self._end - self._next)
                ids += range(self._next, self._next + had)
                self._next += had
            if len(ids) == count:
                return ids[0] if first_only else ids
            begin, end = await self._fetch(db, max(self._block, count - len(ids)))
            with self._lock:
                # Another thread may have fetched meanwhile: the block that begins later is kept, so that ids ascend.
                if begin >= self._end:
                    self._next, self._end = begin, end

    async def _fetch(self, db: AsyncTransactionClient, size: int) -> tuple[int, int]:
        """Take a block from the store."""

        async def take(txn: AsyncTransaction) -> tuple[int, int]:
            stored = await txn.get(self._key)
            begin = self._first if stored is None else decode(stored)[0]
            if not isinstance(begin, int):
                raise StorageError(f"sequence {self.name!r} holds something else than a number")
            await txn.put(self._key, encode((begin + size,)))
            return begin, begin + size

        while True:
            try:
                return await db.run(take, attempts=50)
            except CommitUndetermined:
                continue  # that block may be taken: leave it, take another
