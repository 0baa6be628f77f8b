"""What the store itself says about a history of transactions: its write records are the truth to compare with.

Histories know what clients were told. The store's `write` column family knows what was done: for each version the
start_ts and commit_ts of its writer. Put side by side:

* a committed transaction has a record, with the commit_ts that the client was told, on every key that it wrote;
* an aborted one has none;
* an undetermined one has one on all of its keys, with one commit_ts, or on none: which of the two is then known, and
  the history is completed with it (`settle`), so that checkers need not guess.

Garbage collection removes records: `RecordingEngine` remembers those that are deleted. Locks must be gone: settle a
history after everything was read once more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from pytikv.codec import memcomparable
from pytikv.server.engine.interface import CF_WRITE, DELETE, DELETE_RANGE, WriteBatch
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.mvcc.records import WriteType, decode_write, split_data_key
from pytikv.testing.isolation import Anomaly, Finding, Txn, TxnHistory, TxnStatus

__all__ = ["RecordingEngine", "commit_records", "settle"]

Commits = Mapping[int, Mapping[bytes, int]]
"""For each start_ts the commit_ts by key."""


class RecordingEngine(MemoryEngine):
    """An engine in memory that remembers which write records were deleted, also beyond a crash."""

    def __init__(self, *, keep_durable: bool = True) -> None:
        super().__init__(keep_durable=keep_durable)
        self.deleted: dict[bytes, bytes] = {}

    def write(self, batch: WriteBatch, *, sync: bool = False) -> int:
        """Apply a batch."""
        for kind, cf, key, _ in batch.modifies:
            if cf == CF_WRITE and kind == DELETE:
                self._remember(key)
            assert cf != CF_WRITE or kind != DELETE_RANGE, "a range of write records was destroyed"
        return super().write(batch, sync=sync)

    def delete(self, cf: str, key: bytes) -> int:
        """Remove one key."""
        if cf == CF_WRITE:
            self._remember(key)
        return super().delete(cf, key)

    def _remember(self, key: bytes) -> None:
        value = self.get(CF_WRITE, key)
        if value is not None:
            self.deleted[key] = value

    def after_crash(self) -> RecordingEngine:
        """Return an engine with what the last flush had, and the same memory of what was deleted."""
        survivor = super().after_crash()
        assert isinstance(survivor, RecordingEngine)
        survivor.deleted = self.deleted
        return survivor


def commit_records(engine: RecordingEngine, user_key: Callable[[bytes], bytes]) -> Commits:
    """Return what the engine's records say, present and deleted ones. `user_key` turns wire keys into users' keys."""
    found: dict[int, dict[bytes, int]] = defaultdict(dict)
    for record_key, value in (*engine.deleted.items(), *engine.scan(CF_WRITE)):
        write = decode_write(value)
        if write.write_type in (WriteType.PUT, WriteType.DELETE):
            encoded, commit_ts = split_data_key(record_key)
            found[write.start_ts][user_key(memcomparable.decode_border(encoded))] = commit_ts
    return found


def settle(history: TxnHistory, commits: Commits) -> list[Finding]:
    """Compare a history with the store's records, and settle what is undetermined in it. Returns what does not fit."""
    # A snapshot of the past may have the start_ts of a transaction of that moment: it has no records of its own.
    return [finding for txn in history if not txn.stale for finding in _settle(txn, commits)]


def _settle(txn: Txn, commits: Commits) -> Iterator[Finding]:
    written = txn.writes()
    found = commits.get(txn.start_ts, {}) if txn.start_ts is not None else {}
    # A key that was deleted, or inserted and deleted again, may have no record of its own.
    needed = {key for key, values in written.items() if values[-1] is not None}
    stamps = set(found.values())
    if txn.status is TxnStatus.UNDETERMINED:
        txn.status = TxnStatus.COMMITTED if found else TxnStatus.ABORTED
        txn.commit_ts = min(stamps, default=None)
    if txn.status is TxnStatus.ABORTED:
        if found:
            yield _finding(txn, f"was not committed, but the store has it at {sorted(stamps)} on {sorted(found)}")
        return
    if missing := needed - found.keys():
        yield _finding(txn, f"was committed, but the store has no record of it on {sorted(missing)}")
    if unknown := found.keys() - written.keys():
        yield _finding(txn, f"never wrote {sorted(unknown)}, but the store has records of it there")
    if found and stamps != {txn.commit_ts}:
        yield _finding(txn, f"was committed at {txn.commit_ts}, but the store has it at {sorted(stamps)}")


def _finding(txn: Txn, text: str) -> Finding:
    return Finding(Anomaly.STORE, f"{txn.name} {text}", (txn,))
