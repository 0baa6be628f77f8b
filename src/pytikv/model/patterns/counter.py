"""A counter that many may add to at once: its value is the sum of `shards` parts, and each addition takes one of them.

Guarantees: an addition counts exactly once if its transaction commits and not at all otherwise; the sum at a snapshot
is that of all additions committed before it. Additions to one part conflict, so with s parts and n writers at once
about n/s meet; such a transaction is repeated as any other (`db.run`, or `add_now`).

Reading costs `shards` keys in one request. The number of parts may be raised later, never lowered.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final, overload

from pytikv.client.arguments import check_count
from pytikv.client.txn.blocking import Transaction, TransactionClient
from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import WrongType
from pytikv.model.drive import BlockingReader, in_client, in_transaction
from pytikv.model.patterns.names import name_key
from pytikv.model.rows import Reader
from pytikv.model.tuples import decode, encode

__all__ = ["Counter"]

_MAX_SHARDS: Final = 1024


class Counter:
    """A named counter. shards: parts, 1 to 1024. prefix: before its keys. Holds nothing; safe for all threads."""

    def __init__(self, name: str, *, shards: int = 16, prefix: bytes = b"") -> None:
        check_count("shards", shards, low=1, high=_MAX_SHARDS)
        self._head = name_key("counter", name, prefix)
        self._keys = [self._head + encode((shard,)) for shard in range(shards)]
        self.name = name

    @overload  # this one first: so `db.run(counter.add, 3)` is understood with both kinds of clients
    def add(self, txn: AsyncTransaction, amount: int = 1) -> Coroutine[Any, Any, None]: ...
    @overload
    def add(self, txn: Transaction, amount: int = 1) -> None: ...
    def add(self, txn: Any, amount: int = 1) -> Any:
        """Add `amount`, which may be negative, in a transaction. With an asynchronous one a coroutine."""
        if isinstance(amount, bool) or not isinstance(amount, int):
            raise WrongType(f"a counter counts in ints, not {type(amount).__name__}")
        return in_transaction(txn, self._add, amount)

    @overload
    def add_now(self, db: TransactionClient, amount: int = 1) -> None: ...
    @overload
    def add_now(self, db: AsyncTransactionClient, amount: int = 1) -> Coroutine[Any, Any, None]: ...
    def add_now(self, db: Any, amount: int = 1) -> Any:
        """Add `amount` in a transaction of its own, repeated where others are faster."""
        if isinstance(amount, bool) or not isinstance(amount, int):
            raise WrongType(f"a counter counts in ints, not {type(amount).__name__}")
        return in_client(db, self._add_now, amount)

    @overload
    def value(self, txn: BlockingReader) -> int: ...
    @overload
    def value(self, txn: Reader) -> Coroutine[Any, Any, int]: ...
    def value(self, txn: Any) -> Any:
        """Return the sum, as a transaction or snapshot sees it. With an asynchronous one a coroutine."""
        return in_transaction(txn, self._value)

    async def _add(self, txn: AsyncTransaction, amount: int) -> None:
        key = self._keys[txn._backend.rt.rng.randrange(len(self._keys))]
        stored = await txn.get_for_update(key) if txn.is_pessimistic else await txn.get(key)
        before = 0 if stored is None else decode(stored)[0]
        await txn.put(key, encode((before + amount,)))

    async def _add_now(self, db: AsyncTransactionClient, amount: int) -> None:
        await db.run(self._add, amount, attempts=50)

    async def _value(self, txn: Reader) -> int:
        found = await txn.batch_get(self._keys)
        return sum(decode(value)[0] for value in found.values())
