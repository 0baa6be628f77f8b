"""The least client that a transaction on a `TxnStorage` needs: it names the commands, and waits in its thread."""

from __future__ import annotations

import itertools
import threading
from typing import Any

from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.engine.interface import Engine
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.storage.api_version import ApiVersion
from pytikv.server.storage.txn_storage import Done, TxnStorage, Waiting

FIRST_TS = 1 << 40
PUT, DELETE, LOCK, INSERT = kvrpcpb.Op.Put, kvrpcpb.Op.Del, kvrpcpb.Op.Lock, kvrpcpb.Op.Insert
PESSIMISTIC_LOCK = kvrpcpb.Op.PessimisticLock
FORCE_LOCK = kvrpcpb.PessimisticLockWakeUpMode.WakeUpModeForceLock
DO_CHECK = kvrpcpb.PrewriteRequest.PessimisticAction.DO_PESSIMISTIC_CHECK


class Clock:
    """An oracle that counts, and a clock that the test moves."""

    def __init__(self) -> None:
        self._ts = itertools.count(FIRST_TS)
        self.now_s = 0.0

    def ts(self) -> int:
        return next(self._ts)

    def now(self) -> float:
        return self.now_s


class Txns:
    """A `TxnStorage` with short names for its commands. Safe for threads."""

    def __init__(self, engine: Engine | None = None, version: ApiVersion = ApiVersion.V1) -> None:
        self.clock = Clock()
        self.engine = engine or MemoryEngine()
        self.storage = TxnStorage(self.engine, version, now_s=self.clock.now, current_ts=self.clock.ts)

    def ts(self) -> int:
        return self.clock.ts()

    def call(self, name: str, request: Any) -> Any:
        """Carry out a command that does not wait; return its answer."""
        done = self.storage.execute(name, request)
        assert isinstance(done, Done), f"{name} waits"
        return done.response

    def get(self, key: bytes, ts: int, **context: Any) -> Any:
        return self.call("KvGet", kvrpcpb.GetRequest(context=kvrpcpb.Context(**context), key=key, version=ts))

    def prewrite(self, start_ts: int, values: dict[bytes, bytes], primary: bytes = b"", **fields: Any) -> Any:
        mutations = [kvrpcpb.Mutation(op=PUT, key=key, value=value) for key, value in values.items()]
        request = kvrpcpb.PrewriteRequest(
            mutations=mutations,
            primary_lock=primary or next(iter(values)),
            start_version=start_ts,
            lock_ttl=3000,
            **fields,
        )
        return self.call("KvPrewrite", request)

    def commit(self, start_ts: int, keys: list[bytes], commit_ts: int) -> Any:
        request = kvrpcpb.CommitRequest(start_version=start_ts, keys=keys, commit_version=commit_ts)
        return self.call("KvCommit", request)

    def put(self, values: dict[bytes, bytes]) -> int:
        """Commit `values`; return the commit_ts."""
        start_ts = self.ts()
        assert not self.prewrite(start_ts, values).errors
        commit_ts = self.ts()
        assert not self.commit(start_ts, list(values), commit_ts).HasField("error")
        return commit_ts

    def rollback(self, start_ts: int, keys: list[bytes]) -> Any:
        return self.call("KvBatchRollback", kvrpcpb.BatchRollbackRequest(start_version=start_ts, keys=keys))

    def pessimistic_rollback(self, start_ts: int, keys: list[bytes], for_update_ts: int) -> Any:
        request = kvrpcpb.PessimisticRollbackRequest(start_version=start_ts, for_update_ts=for_update_ts, keys=keys)
        return self.call("KVPessimisticRollback", request)

    def lock(self, start_ts: int, key: bytes, for_update_ts: int = 0, **fields: Any) -> Done | Waiting:
        """Ask for a pessimistic lock; waits the store's default time unless `wait_timeout` says otherwise."""
        request = kvrpcpb.PessimisticLockRequest(
            mutations=[kvrpcpb.Mutation(op=PESSIMISTIC_LOCK, key=key)],
            primary_lock=fields.pop("primary", key),
            start_version=start_ts,
            for_update_ts=for_update_ts or start_ts,
            lock_ttl=3000,
            **fields,
        )
        return self.storage.execute("KvPessimisticLock", request)

    def locked(self, start_ts: int, key: bytes, **fields: Any) -> Any:
        """As `lock`, for a lock that is free."""
        done = self.lock(start_ts, key, **fields)
        assert isinstance(done, Done)
        return done.response

    def locks(self) -> list[tuple[bytes, int]]:
        """Return all locks: key and start_ts."""
        answer = self.call("KvScanLock", kvrpcpb.ScanLockRequest(max_version=self.ts()))
        return [(lock.key, lock.lock_version) for lock in answer.locks]


def answer_of(outcome: Done | Waiting) -> Any:
    """Return the answer, waiting for it in this thread as long as the store allows."""
    if isinstance(outcome, Done):
        return outcome.response
    answers: list[Done] = []
    told = threading.Event()

    def tell(done: Done) -> None:
        answers.append(done)
        told.set()

    outcome.on_done(tell)
    if not told.wait(outcome.deadline_s):
        outcome.expire()
        assert told.wait(10)
    return answers[0].response
