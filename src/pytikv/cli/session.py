"""Opening the client that a command works with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytikv import RawClient, TransactionClient

__all__ = ["raw_client", "transaction_client"]


@contextlib.contextmanager
def raw_client(url: str, **options: Any) -> Iterator[RawClient]:
    """Connect to `url` for the length of the block."""
    import pytikv

    with pytikv.RawClient.connect(url, **options) as client:
        yield client


@contextlib.contextmanager
def transaction_client(url: str, **options: Any) -> Iterator[TransactionClient]:
    """Connect to `url`, for transactions, for the length of the block."""
    import pytikv

    with pytikv.TransactionClient.connect(url, **options) as client:
        yield client
