"""Final statuses of transactions, by start_ts: what the lock resolver learnt and need not ask again.

Final means committed or rolled back, which never changes, so an entry is never outdated. Bounded: past `MAX_STATUSES`
the oldest goes. Two different final statuses of one transaction are a broken store or a bug, never to be papered over.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from pytikv.client.txn.lock_decisions import TxnStatus
from pytikv.errors import ServerError
from pytikv.rt.locks import mutex

__all__ = ["MAX_STATUSES", "TxnStatusCache"]

MAX_STATUSES: Final = 2048  # as client-go, txnkv/txnlock/lock_resolver.go


class TxnStatusCache:
    """Safe for many threads."""

    def __init__(self) -> None:
        self._lock = mutex()
        self._statuses: OrderedDict[int, TxnStatus] = OrderedDict()

    def get(self, start_ts: int) -> TxnStatus | None:
        """Return the final status, None where it is not known."""
        return self._statuses.get(start_ts)

    def put(self, start_ts: int, status: TxnStatus) -> None:
        """Keep a status; one that is not final is passed over. Raises ServerError when another is known."""
        if not status.is_final:
            return
        with self._lock:
            known = self._statuses.setdefault(start_ts, status)
            if len(self._statuses) > MAX_STATUSES:
                self._statuses.popitem(last=False)
        if (known.fate, known.commit_ts) != (status.fate, status.commit_ts):
            raise ServerError(
                f"transaction {start_ts} was {known.fate.value} at {known.commit_ts}, and now is said to be "
                f"{status.fate.value} at {status.commit_ts}"
            )

    def __len__(self) -> int:
        return len(self._statuses)
