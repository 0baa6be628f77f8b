"""What the store remembers of transactions without looking at data.

*Committed lately*: start_ts and commit_ts of the last `MAX_COMMITTED` transactions that were seen to commit. A prewrite
of a pessimistic transaction that comes late, after the commit, must be treated as a repetition: it may not skip checks.

*Told by clients* (BroadcastTxnStatus, pipelined transactions): the least commit timestamp of a large transaction that
is under way. Nobody may commit it below, since resolved timestamps count on it. An entry goes when the client says that
the transaction is over, or when `MAX_LARGE` others were told since.

Safe for threads. Source: TiKV src/storage/txn/txn_status_cache.rs.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.rt.locks import mutex

__all__ = ["MAX_COMMITTED", "MAX_LARGE", "TxnStatusCache"]

MAX_COMMITTED: Final = 16_384
MAX_LARGE: Final = 4096


class TxnStatusCache:
    """The cache of one store."""

    def __init__(self) -> None:
        self._mutex = mutex()
        self._committed: OrderedDict[int, int] = OrderedDict()
        self._large: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._committed) + len(self._large)

    def note_committed(self, start_ts: int, commit_ts: int) -> None:
        """Remember that a transaction is committed."""
        with self._mutex:
            _put(self._committed, start_ts, commit_ts, MAX_COMMITTED)

    def committed_at(self, start_ts: int) -> int:
        """Return the commit_ts of a transaction that committed lately, 0 when none is known."""
        return self._committed.get(start_ts, 0)

    def min_commit_ts(self, start_ts: int) -> int:
        """Return what clients told of a large transaction, 0 when nothing."""
        return self._large.get(start_ts, 0)

    def tell(self, status: kvrpcpb.TxnStatus) -> None:
        """Take in what a client tells. An end that is neither commit nor rollback (it kills TiKV) tells nothing."""
        with self._mutex:
            if status.commit_ts:
                _put(self._committed, status.start_ts, status.commit_ts, MAX_COMMITTED)
            if status.is_completed or status.commit_ts or status.rolled_back:
                self._large.pop(status.start_ts, None)
            else:
                least = max(status.min_commit_ts, self._large.get(status.start_ts, 0))
                _put(self._large, status.start_ts, least, MAX_LARGE)


def _put(entries: OrderedDict[int, int], key: int, value: int, limit: int) -> None:
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > limit:
        entries.popitem(last=False)
