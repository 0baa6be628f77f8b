"""One core for both kinds of clients: where work runs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pytikv.client.txn.blocking import Snapshot, Transaction, TransactionClient
from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.client.txn.snapshot import AsyncSnapshot
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import WrongType
from pytikv.model.tuples import encode

__all__ = ["BlockingReader", "in_client", "in_transaction", "name_key"]

T = TypeVar("T")

BlockingReader = Transaction | Snapshot


def in_transaction(txn: Any, work: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Any:
    """Do work in a transaction or snapshot: in the calling thread where it is blocking, else as a coroutine."""
    if isinstance(txn, (Transaction, Snapshot)):
        return txn._rt.run(work(txn._core, *args))
    if isinstance(txn, (AsyncTransaction, AsyncSnapshot)):
        return work(txn, *args)
    raise WrongType(f"the first argument is a transaction or a snapshot, not {type(txn).__name__}")


def in_client(db: Any, work: Callable[..., Coroutine[Any, Any, T]], *args: Any, **options: Any) -> Any:
    """Do work of a client: in the calling thread where it is blocking, else as a coroutine."""
    if isinstance(db, TransactionClient):
        return db._rt.run(work(db._core, *args, **options))
    if isinstance(db, AsyncTransactionClient):
        return work(db, *args, **options)
    raise WrongType(f"the first argument is a transaction client, not {type(db).__name__}")


def name_key(kind: str, name: str, prefix: bytes) -> bytes:
    """Return the bytes that a named thing's keys begin with. Raises WrongType for a name that is no text."""
    if not isinstance(name, str) or not name:
        raise WrongType(f"the name of a {kind} is a str that is not empty, not {name!r}")
    if not isinstance(prefix, bytes):
        raise WrongType(f"prefix is bytes, not {type(prefix).__name__}")
    return prefix + encode((f"~{kind}", name))
