"""A lease, or distributed lock: one holder at a time, for a time, with a fencing token.

    free --acquire--> held until its end --renew--> held for longer
    held --release, or its end--> free

Time is the cluster's: a lease's end is compared with the start_ts of the transaction that looks at it, so clocks of
programs do not matter. Each acquisition gets a *token*, larger than all before.

Guarantees: of all transactions that `guard` a lease with the token of a holder, none commits after another holder has
acquired it: `guard` reads the lease's row and locks it, and an acquisition writes that row. That is what makes work
under a lease safe, even of a holder who slept past its end. For things outside this store, pass the token along, and
let them refuse one that is smaller than they saw before.

Nothing runs in the background: whoever wants to keep a lease renews it, a third of `ttl_s` before its end say.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final, overload

from pytikv.client.txn.blocking import Transaction, TransactionClient
from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import InvalidArgument, TransactionError
from pytikv.model.drive import in_client, in_transaction
from pytikv.model.patterns.names import name_key
from pytikv.model.tuples import decode, encode

__all__ = ["Lease", "LeaseLost"]

_MIN_TTL_S: Final = 0.1
_MAX_TTL_S: Final = 86_400.0


class LeaseLost(TransactionError):
    """Another one holds the lease, or it has ended. Nothing was written. `token`: of the last holder."""

    def __init__(self, message: str = "", *, token: int = 0, key: bytes | None = None) -> None:
        super().__init__(message, key=key)
        self.token = token


class Lease:
    """A named lease as one contender sees it.

    ttl_s: seconds that an acquisition or renewal holds, 0.1 to 86400. owner: a text for people who look at it.
    """

    def __init__(self, name: str, *, ttl_s: float = 10.0, owner: str = "", prefix: bytes = b"") -> None:
        if isinstance(ttl_s, bool) or not isinstance(ttl_s, (int, float)) or not _MIN_TTL_S <= ttl_s <= _MAX_TTL_S:
            raise InvalidArgument(f"ttl_s is {_MIN_TTL_S:g} to {_MAX_TTL_S:g} seconds, not {ttl_s!r}")
        self.name = name
        self.owner = owner
        self.token = 0
        """The fencing token of the present holding; 0 while not held."""
        self._key = name_key("lease", name, prefix)
        self._ttl_ms = int(ttl_s * 1000)

    @overload
    def acquire(self, db: TransactionClient) -> bool: ...
    @overload
    def acquire(self, db: AsyncTransactionClient) -> Coroutine[Any, Any, bool]: ...
    def acquire(self, db: Any) -> Any:
        """Acquire the lease if it is free or has ended. True: it is held now."""
        return in_client(db, self._acquire)

    @overload
    def renew(self, db: TransactionClient) -> None: ...
    @overload
    def renew(self, db: AsyncTransactionClient) -> Coroutine[Any, Any, None]: ...
    def renew(self, db: Any) -> Any:
        """Hold on for another ttl_s from now. Raises LeaseLost where it has ended or another holds it."""
        return in_client(db, self._renew)

    @overload
    def release(self, db: TransactionClient) -> None: ...
    @overload
    def release(self, db: AsyncTransactionClient) -> Coroutine[Any, Any, None]: ...
    def release(self, db: Any) -> Any:
        """Give the lease up; without effect where it is not held any more."""
        return in_client(db, self._release)

    @overload
    def guard(self, txn: Transaction) -> None: ...
    @overload
    def guard(self, txn: AsyncTransaction) -> Coroutine[Any, Any, None]: ...
    def guard(self, txn: Any) -> Any:
        """Make a transaction commit only if the lease is still held then. Raises LeaseLost at once where it is not."""
        return in_transaction(txn, self._guard)

    async def _read(self, txn: AsyncTransaction) -> tuple[int, int, str]:
        """Return token, end in cluster milliseconds, and owner; locked in a pessimistic transaction."""
        stored = await txn.get_for_update(self._key) if txn.is_pessimistic else await txn.get(self._key)
        if stored is None:
            return 0, 0, ""
        token, end_ms, owner = decode(stored)
        return token, end_ms, owner

    async def _write(self, txn: AsyncTransaction, token: int, end_ms: int) -> None:
        await txn.put(self._key, encode((token, end_ms, self.owner)))

    async def _acquire(self, db: AsyncTransactionClient) -> bool:
        async def work(txn: AsyncTransaction) -> int:
            token, end_ms, _ = await self._read(txn)
            now_ms = txn.start_ts.physical_ms
            if now_ms < end_ms:
                return 0
            await self._write(txn, token + 1, now_ms + self._ttl_ms)
            return token + 1

        self.token = 0
        self.token = await db.run(work, attempts=20)
        return self.token != 0

    async def _renew(self, db: AsyncTransactionClient) -> None:
        async def work(txn: AsyncTransaction) -> None:
            await self._check(txn)
            await self._write(txn, self.token, txn.start_ts.physical_ms + self._ttl_ms)

        await db.run(work, attempts=20)

    async def _release(self, db: AsyncTransactionClient) -> None:
        mine, self.token = self.token, 0

        async def work(txn: AsyncTransaction) -> None:
            token, _, _ = await self._read(txn)
            if mine and token == mine:
                await self._write(txn, token, 0)

        await db.run(work, attempts=20)

    async def _guard(self, txn: AsyncTransaction) -> None:
        await self._check(txn)
        await txn.lock_keys([self._key])

    async def _check(self, txn: AsyncTransaction) -> None:
        token, end_ms, owner = await self._read(txn)
        if self.token and token == self.token and txn.start_ts.physical_ms < end_ms:
            return
        who = f"{owner or 'another one'} (token {token})" if token != self.token else "nobody, it has ended"
        raise LeaseLost(f"lease {self.name!r} is held by {who}", token=token, key=self._key)
