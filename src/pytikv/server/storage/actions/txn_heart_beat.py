"""TxnHeartBeat: keep a transaction's primary lock alive. The TTL never shrinks.

A pipelined transaction also tells its least commit timestamp this way, so that readers need not push it; on other locks
that is ignored.

Source: TiKV src/storage/txn/commands/txn_heart_beat.rs.
"""

from __future__ import annotations

import dataclasses

from pytikv.server.mvcc.errors import PrimaryMismatchError, TxnNotFoundError
from pytikv.server.mvcc.keys import wire_key
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import Lock
from pytikv.server.mvcc.txn import MvccTxn

__all__ = ["txn_heart_beat"]


def txn_heart_beat(txn: MvccTxn, reader: MvccReader, key: bytes, advise_ttl_ms: int, min_commit_ts: int = 0) -> Lock:
    """Raise the TTL of the transaction's lock on `key`; return the lock as it is then.

    Raises TxnNotFoundError without such a lock, PrimaryMismatchError for a shared one.
    """
    lock = reader.load_lock(key)
    if lock is not None and lock.is_shared and lock.member(txn.start_ts) is not None:
        raise PrimaryMismatchError(lock.info(wire_key(key)))
    if lock is None or lock.start_ts != txn.start_ts:
        raise TxnNotFoundError(txn.start_ts, wire_key(key))
    beaten = dataclasses.replace(lock, ttl_ms=max(lock.ttl_ms, advise_ttl_ms))
    if lock.generation and not lock.use_async_commit:
        beaten.min_commit_ts = max(lock.min_commit_ts, min_commit_ts)
    if beaten != lock:
        txn.put_lock(key, beaten, is_new=False)
    return beaten
