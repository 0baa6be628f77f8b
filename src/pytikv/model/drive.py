"""One core for both kinds of clients: work is a coroutine, and here is decided where it runs.

With a blocking transaction or client it is driven in the calling thread, and its answer returned; with an asynchronous
one the coroutine itself is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pytikv.client.txn.blocking import Snapshot, Transaction, TransactionClient
from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.client.txn.snapshot import AsyncSnapshot
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import WrongType

__all__ = ["AsyncReader", "BlockingReader", "in_client", "in_transaction", "in_writer", "no_transaction"]

T = TypeVar("T")

BlockingReader = Transaction | Snapshot
AsyncReader = AsyncTransaction | AsyncSnapshot


def in_transaction(txn: Any, work: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Any:
    """Do work in a transaction or snapshot: in the calling thread where it is blocking, else as a coroutine."""
    if isinstance(txn, (Transaction, Snapshot)):
        return txn._rt.run(work(txn._core, *args))
    if isinstance(txn, (AsyncTransaction, AsyncSnapshot)):
        return work(txn, *args)
    raise no_transaction(txn)


def in_writer(txn: Any, work: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Any:
    """As `in_transaction`, for work that writes. Raises WrongType for a snapshot."""
    if isinstance(txn, (Snapshot, AsyncSnapshot)):
        raise WrongType("a snapshot is read only: write in a transaction, as with db.begin() as txn")
    return in_transaction(txn, work, *args)


def no_transaction(found: Any) -> WrongType:
    """Return the error about something that is no transaction."""
    return WrongType(f"the first argument is a transaction or a snapshot, not {type(found).__name__}")


def in_client(db: Any, work: Callable[..., Coroutine[Any, Any, T]], *args: Any, **options: Any) -> Any:
    """Do work of a client: in the calling thread where it is blocking, else as a coroutine."""
    if isinstance(db, TransactionClient):
        return db._rt.run(work(db._core, *args, **options))
    if isinstance(db, AsyncTransactionClient):
        return work(db, *args, **options)
    raise WrongType(f"the first argument is a transaction client, not {type(db).__name__}")
