"""Transactions in any order against a twin: a dict of versions that knows of commits, and nothing of locks.

Clients begin transactions of all kinds, send their requests one key at a time, in any interleaving, send old ones
again, lose pessimistic locks and vanish; readers resolve what they meet as clients do. The twin learns of a commit at
the moment that decides it: the primary's commit, the last prewrite of an async commit, the answer of 1PC. What must
hold:

* a reader sees the twin's value at its timestamp, and no later commit comes to lie at or below a timestamp read at;
* of two transactions that write a key, the second one knew of the first (no lost update);
* a committed transaction is never rolled back, a dead one never committed, a retry changes nothing;
* in the end all locks can be resolved, and the records are the twin's versions, neither more nor less.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
from actions_transcript import Store, enc
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pytikv.codec import memcomparable
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.engine.interface import CF_DEFAULT, CF_LOCK, CF_WRITE, WriteBatch
from pytikv.server.mvcc.consistency import check_consistency
from pytikv.server.mvcc.errors import (
    CommitTsExpiredError,
    MvccError,
    TxnLockNotFoundError,
    TxnNotFoundError,
)
from pytikv.server.mvcc.keys import TS_MAX, split_data_key
from pytikv.server.mvcc.reader import MvccReader
from pytikv.server.mvcc.records import Lock, LockType, WriteType, decode_lock, decode_write
from pytikv.server.storage.actions.acquire_pessimistic_lock import KeyToLock, PessimisticLockParameters
from pytikv.server.storage.actions.check_secondary_locks import check_secondary_locks
from pytikv.server.storage.actions.check_txn_status import StatusKind, StatusQuery, check_txn_status
from pytikv.server.storage.actions.cleanup import rollback_all
from pytikv.server.storage.actions.commands import lock_all, prewrite_all
from pytikv.server.storage.actions.commit import commit_all
from pytikv.server.storage.actions.model import (
    DO_CONSTRAINT_CHECK,
    DO_PESSIMISTIC_CHECK,
    SKIP_PESSIMISTIC_CHECK,
    CommitKind,
    Mutation,
    TransactionProperties,
)
from pytikv.server.storage.actions.pessimistic_rollback import pessimistic_rollback_all
from pytikv.server.storage.actions.resolve_lock import resolve_lock_lite, resolve_locks, scan_locks_to_resolve
from pytikv.server.storage.actions.txn_heart_beat import txn_heart_beat

T = TypeVar("T")
KEYS = [enc(word) for word in ("a", "b", "c")]
TTL_MS = 3
LONG = b"long" * 80


Source = st.DataObject | random.Random


def _pick(source: Source, choices: Sequence[T]) -> T:
    return source.choice(choices) if isinstance(source, random.Random) else source.draw(st.sampled_from(choices))


@dataclasses.dataclass
class Txn:
    """A transaction as its client and the twin know it."""

    start_ts: int
    kind: CommitKind
    pessimistic: bool
    writes: dict[bytes, tuple[kvrpcpb.Op, bytes | None]]
    primary: bytes
    locked: dict[bytes, int] = dataclasses.field(default_factory=dict)
    forced: set[bytes] = dataclasses.field(default_factory=set)
    prewritten: dict[bytes, int] = dataclasses.field(default_factory=dict)
    """min_commit_ts by key; 0: in two phases."""
    wanted_commit_ts: int = 0
    """What the client has got from PD for the commit; readers may push the transaction above it before the commit."""
    commit_ts: int = 0
    dead: bool = False
    ended: bool = False
    """Dead, and its primary says so."""
    gave_up: bool = False
    """Rolled back by its own client, without protection."""

    @property
    def secondaries(self) -> tuple[bytes, ...] | None:
        if self.kind is not CommitKind.ASYNC:
            return None
        return tuple(memcomparable.decode(key)[0] for key in self.writes if key != self.primary)

    @property
    def wire_primary(self) -> bytes:
        return memcomparable.decode(self.primary)[0]


class Twin:
    """What is committed: `versions[key][commit_ts]` is (start_ts, value or None), and what has been read."""

    def __init__(self) -> None:
        self.versions: dict[bytes, dict[int, tuple[int, kvrpcpb.Op, bytes | None]]] = {key: {} for key in KEYS}
        self.reads: dict[bytes, int] = dict.fromkeys(KEYS, 0)

    def commit(self, txn: Txn, commit_ts: int) -> None:
        assert not txn.dead, "a dead transaction was committed"
        if txn.commit_ts:
            assert txn.commit_ts == commit_ts, "committed twice"
            return
        txn.commit_ts = commit_ts
        for key, (op, value) in txn.writes.items():
            if op != kvrpcpb.Op.Lock:
                assert self.reads[key] < commit_ts, "a snapshot that was read changed afterwards"
            self.versions[key][commit_ts] = (txn.start_ts, op, value)

    def kill(self, txn: Txn, *, ended: bool = True) -> None:
        assert not txn.commit_ts, "a committed transaction was rolled back"
        txn.dead = True
        txn.ended = txn.ended or ended

    def value(self, key: bytes, at: int) -> bytes | None:
        data = [ts for ts, (_, op, _) in self.versions[key].items() if ts <= at and op != kvrpcpb.Op.Lock]
        return self.versions[key][max(data)][2] if data else None

    def newest(self, key: bytes, but: Txn) -> int:
        return max([ts for ts, (start_ts, _, _) in self.versions[key].items() if start_ts != but.start_ts], default=0)


class Transactions(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.twin = Twin()
        self.now = 10 << 18
        self.txns: list[Txn] = []
        self.sent: list[Callable[[], None]] = []

    # --- the clients' requests ----------------------------------------------------------------------------------------

    def tick(self, ms: int = 0) -> int:
        self.now += (ms << 18) + 1
        return self.now

    @rule(
        kind=st.sampled_from([CommitKind.TWO_PC, CommitKind.TWO_PC, CommitKind.ASYNC, CommitKind.ONE_PC]),
        pessimistic=st.booleans(),
        keys=st.lists(st.sampled_from(KEYS), min_size=1, unique=True),
        ops=st.lists(st.sampled_from(["Put", "Put", "Del", "Lock"]), min_size=3, max_size=3),
        long=st.booleans(),
    )
    def begin(self, kind: CommitKind, pessimistic: bool, keys: list[bytes], ops: list[str], long: bool) -> None:
        start_ts = self.tick()
        writes = {}
        for key, op in zip(keys, ops, strict=False):
            value = b"%d" % start_ts + (LONG if long else b"")
            writes[key] = (kvrpcpb.Op.Value(op), value if op == "Put" else None)
        self.txns.append(Txn(start_ts, kind, pessimistic, writes, keys[0]))

    def _txn(self, data: Source, *, of: Callable[[Txn], bool] = lambda _: True) -> Txn | None:
        txns = [txn for txn in self.txns[-4:] if of(txn)]
        return _pick(data, txns) if txns else None

    @precondition(lambda self: self.txns)
    @rule(data=st.data(), steps=st.integers(1, 8), force=st.booleans())
    def go_on(self, data: Source, steps: int, force: bool) -> None:
        """A client does what comes next, a few times: locks, prewrites, commits."""
        txn = self._txn(data, of=lambda txn: not txn.gave_up)
        for _ in range(steps if txn is not None else 0):
            assert txn is not None
            wanted = [key for key in txn.writes if key not in txn.locked] if txn.pessimistic else []
            left = [key for key in txn.writes if key not in txn.prewritten and not txn.commit_ts]
            if wanted and not txn.prewritten and not txn.commit_ts:
                key, for_update_ts = wanted[0], self.tick()
                self._send(lambda key=key, ts=for_update_ts: self._lock(txn, key, ts, force))
            elif left:
                keys = left[:1] if txn.kind is CommitKind.TWO_PC or force else left
                self._send(lambda keys=keys: self._prewrite(txn, keys, 0, False, txn.kind))
            elif txn.wanted_commit_ts:
                commit_ts = txn.commit_ts or txn.wanted_commit_ts
                self._send(lambda ts=commit_ts: self._commit(txn, ts))
            else:
                txn.wanted_commit_ts = self.tick()

    @precondition(lambda self: self.txns)
    @rule(data=st.data(), force=st.booleans())
    def lock(self, data: Source, force: bool) -> None:
        txn = self._txn(data, of=lambda txn: txn.pessimistic and not txn.prewritten and not txn.commit_ts)
        if txn is not None:
            key = _pick(data, list(txn.writes))
            for_update_ts = _pick(data, [txn.start_ts, self.tick()])
            self._send(lambda: self._lock(txn, key, for_update_ts, force))

    def _lock(self, txn: Txn, key: bytes, for_update_ts: int, force: bool) -> None:
        if force:  # from now on the client says at which for_update_ts it knows the lock: this one may come late
            txn.forced.add(key)
        params = PessimisticLockParameters(
            txn.start_ts, txn.wire_primary, for_update_ts, TTL_MS, txn.start_ts + 1, allow_lock_with_conflict=force
        )
        result = self.store.run(txn.start_ts, lambda tx, rd: lock_all(tx, rd, [KeyToLock(key)], params))
        if result.blocked is not None:
            assert result.blocked.error.lock_info.lock_version != txn.start_ts
            return
        locked_ts = result.keys[0].locked_with_conflict_ts or for_update_ts
        if txn.commit_ts or txn.dead or txn.prewritten:
            return  # an old request: nobody hears the answer
        if locked_ts >= txn.locked.get(key, 0):
            assert self.twin.newest(key, txn) <= locked_ts, "locked beneath a newer version"
            txn.locked[key] = locked_ts

    @precondition(lambda self: self.txns)
    @rule(data=st.data(), retry=st.booleans())
    def prewrite(self, data: Source, retry: bool) -> None:
        txn = self._txn(data, of=lambda txn: not txn.gave_up and (not txn.pessimistic or bool(txn.locked)))
        if txn is not None:
            left = [key for key in txn.writes if key not in txn.prewritten] or list(txn.writes)
            one_pc = txn.kind is CommitKind.ONE_PC and not txn.prewritten
            keys = list(txn.writes) if one_pc else [_pick(data, left)]
            limit = _pick(data, [0, self.now + 5])
            self._send(lambda: self._prewrite(txn, keys, limit, retry, CommitKind.ONE_PC if one_pc else txn.kind))

    def _prewrite(self, txn: Txn, keys: list[bytes], limit: int, retry: bool, kind: CommitKind) -> None:
        if txn.gave_up and any(txn.start_ts in self.twin.versions[key] for key in keys):
            return  # its record may be overwritten by a commit at its start_ts: its client sends nothing any more
        if kind is CommitKind.ONE_PC and len(keys) < len(txn.writes):
            kind = CommitKind.TWO_PC
        for_update_ts = max([txn.start_ts, *txn.locked.values()]) if txn.pessimistic else 0
        props = TransactionProperties(
            txn.start_ts,
            txn.wire_primary,
            for_update_ts=for_update_ts,
            commit_kind=kind,
            max_commit_ts=limit,
            lock_ttl_ms=TTL_MS,
            min_commit_ts=txn.start_ts + 1,
            is_retry_request=retry,
        )
        mutations = [self._mutation(txn, key) for key in keys]
        try:
            result = self.store.run(
                txn.start_ts,
                lambda tx, rd: prewrite_all(tx, rd, props, mutations, txn.secondaries, self.store.publish),
            )
        except MvccError:
            assert not txn.commit_ts, "a repetition of what is committed failed"
            return
        if result.locks:
            assert not txn.commit_ts, "a repetition of what is committed failed"
            assert all(error.lock_info.lock_version != txn.start_ts for error in result.locks)
            return
        self._prewritten(txn, keys, result.min_commit_ts, result.one_pc_commit_ts)

    def _mutation(self, txn: Txn, key: bytes) -> Mutation:
        op, value = txn.writes[key]
        if not txn.pessimistic:
            return Mutation(op, key, value, pessimistic_action=SKIP_PESSIMISTIC_CHECK)
        if key not in txn.locked:
            return Mutation(op, key, value, pessimistic_action=DO_CONSTRAINT_CHECK)
        expected = txn.locked[key] if key in txn.forced else None
        return Mutation(op, key, value, pessimistic_action=DO_PESSIMISTIC_CHECK, expected_for_update_ts=expected)

    def _prewritten(self, txn: Txn, keys: list[bytes], min_commit_ts: int, one_pc_commit_ts: int) -> None:
        if txn.commit_ts:
            return
        for key in keys:
            known_ts = txn.locked.get(key, txn.start_ts)
            assert self.twin.newest(key, txn) <= known_ts, "a lost update"
        if one_pc_commit_ts:
            self.twin.commit(txn, one_pc_commit_ts)
            return
        if txn.dead:
            assert not txn.ended or txn.primary not in keys, "the primary of a dead transaction was locked again"
            return
        for key in keys:
            txn.prewritten[key] = min_commit_ts
        if txn.kind is CommitKind.ASYNC and len(txn.prewritten) == len(txn.writes) and all(txn.prewritten.values()):
            self.twin.commit(txn, max(txn.prewritten.values()))

    @precondition(lambda self: self.txns)
    @rule(data=st.data())
    def commit(self, data: Source) -> None:
        txn = self._txn(data, of=lambda txn: not txn.gave_up and len(txn.prewritten) == len(txn.writes))
        if txn is not None:
            commit_ts = txn.commit_ts or self.tick()
            self._send(lambda: self._commit(txn, commit_ts))

    def _commit(self, txn: Txn, commit_ts: int) -> None:
        try:
            self.store.run(txn.start_ts, lambda tx, rd: commit_all(tx, rd, [txn.primary], commit_ts))
        except TxnLockNotFoundError:
            assert not txn.commit_ts or txn.commit_ts != commit_ts
        except CommitTsExpiredError:
            assert not txn.commit_ts
            txn.wanted_commit_ts = 0
        else:
            self.twin.commit(txn, txn.commit_ts or commit_ts)

    @precondition(lambda self: any(txn.commit_ts for txn in self.txns))
    @rule(data=st.data(), by_scan=st.booleans())
    def commit_secondaries(self, data: Source, by_scan: bool) -> None:
        txn = self._txn(data, of=lambda txn: txn.commit_ts > 0)
        if txn is not None:
            self._end(txn, list(txn.writes), txn.commit_ts, by_scan=by_scan)

    @precondition(lambda self: self.txns)
    @rule(data=st.data())
    def roll_back(self, data: Source) -> None:
        """The client gives up, which it does only while it knows that nothing is committed."""
        txn = self._txn(data, of=lambda txn: not txn.commit_ts)
        if txn is not None:
            self.store.run(txn.start_ts, lambda tx, rd: rollback_all(tx, rd, txn.writes))
            self.twin.kill(txn)
            txn.gave_up = True

    @precondition(lambda self: self.txns)
    @rule(data=st.data())
    def unlock(self, data: Source) -> None:
        txn = self._txn(data, of=lambda txn: txn.pessimistic and not txn.prewritten and not txn.commit_ts)
        if txn is not None:
            for_update_ts = max(txn.locked.values(), default=0)
            self.store.run(txn.start_ts, lambda tx, rd: pessimistic_rollback_all(tx, rd, txn.writes, for_update_ts))
            txn.locked.clear()

    @precondition(lambda self: self.txns)
    @rule(data=st.data())
    def heartbeat(self, data: Source) -> None:
        txn = self._txn(data)
        if txn is not None:
            ttl_ms = TTL_MS + 2
            with contextlib.suppress(TxnNotFoundError):
                self.store.run(txn.start_ts, lambda tx, rd: txn_heart_beat(tx, rd, txn.primary, ttl_ms))

    # --- faults -------------------------------------------------------------------------------------------------------

    def _send(self, request: Callable[[], None]) -> None:
        self.sent.append(request)
        with contextlib.suppress(MvccError):  # the client may try again, or not
            request()

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def an_old_request_arrives_again(self, data: Source) -> None:
        request = _pick(data, self.sent[-8:] or [lambda: None])
        with contextlib.suppress(MvccError):
            request()

    @rule(key=st.sampled_from(KEYS))
    def lose_pessimistic_lock(self, key: bytes) -> None:
        lock = MvccReader(self.store.engine).load_lock(key)
        if lock is not None and lock.is_pessimistic_lock:
            batch = WriteBatch()
            batch.delete(CF_LOCK, key)
            self.store.engine.write(batch)

    @rule()
    def time_passes(self) -> None:
        self.tick(TTL_MS + 1)

    # --- readers ------------------------------------------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS), back=st.sampled_from([0, 0, 1, 2, 5]))
    def read(self, key: bytes, back: int) -> None:
        at = self.now - back
        self.store.max_ts = max(self.store.max_ts, at)
        lock = MvccReader(self.store.engine).load_lock(key)
        if lock is not None and self._blocks(lock, at) and not self._resolve(key, lock, at):
            return
        value = MvccReader(self.store.engine).get(key, at, at)
        assert value == self.twin.value(key, at)
        self.twin.reads[key] = max(self.twin.reads[key], at)

    @staticmethod
    def _blocks(lock: Lock, at: int) -> bool:
        changes = lock.lock_type in (LockType.PUT, LockType.DELETE)
        return changes and lock.start_ts <= at and lock.min_commit_ts <= at

    def _resolve(self, key: bytes, lock: Lock, caller: int) -> bool:
        """Do what a client does about a lock; True: the reader may go on."""
        txn = next(one for one in self.txns if one.start_ts == lock.start_ts)
        expired = (lock.start_ts >> 18) + lock.ttl_ms < self.now >> 18
        query = StatusQuery(
            caller, self.now, expired, resolving_pessimistic_lock=lock.is_pessimistic_lock, verify_is_primary=True
        )
        self.store.max_ts = max(self.store.max_ts, query.max_ts(lock.start_ts))
        primary = memcomparable.encode(lock.primary)
        try:
            status = self.store.run(lock.start_ts, lambda tx, rd: check_txn_status(tx, rd, primary, query))
        except TxnNotFoundError:
            assert not txn.commit_ts
            return False
        if status.kind is StatusKind.COMMITTED:
            assert status.commit_ts == txn.commit_ts
            self._end(txn, [key], status.commit_ts)
        elif status.kind is StatusKind.UNCOMMITTED:
            assert status.lock is not None
            if status.lock.use_async_commit and expired:
                return self._resolve_async(txn, status.lock)
            return status.min_commit_ts_pushed and not status.lock.is_pessimistic_lock
        elif status.kind in (StatusKind.PESSIMISTIC_ROLLBACK, StatusKind.LOCK_NOT_EXIST_DO_NOTHING):
            self.store.run(txn.start_ts, lambda tx, rd: pessimistic_rollback_all(tx, rd, [key], TS_MAX))
        else:
            self.twin.kill(txn)
            self._end(txn, [key], 0)
        return True

    def _resolve_async(self, txn: Txn, primary_lock: Lock) -> bool:
        commit_ts = primary_lock.min_commit_ts
        for secondary in primary_lock.secondaries:
            key = memcomparable.encode(secondary)
            status = self.store.run(txn.start_ts, lambda tx, rd, key=key: check_secondary_locks(tx, rd, [key]))
            if status.commit_ts:
                commit_ts = status.commit_ts
                break
            if not status.locks:
                dies = self.now % 2 > 0  # before it ends what it has decided
                self.twin.kill(txn, ended=not dies)
                if dies:
                    return False
                self._end(txn, list(txn.writes), 0)
                return True
            if not status.locks[0][1].use_async_commit:
                return self._resolve_fallen_back(txn)
            commit_ts = max(commit_ts, status.locks[0][1].min_commit_ts)
        assert commit_ts == txn.commit_ts
        self._end(txn, list(txn.writes), commit_ts)
        return True

    def _resolve_fallen_back(self, txn: Txn) -> bool:
        query = StatusQuery(0, self.now, True, force_sync_commit=True, verify_is_primary=True)
        status = self.store.run(txn.start_ts, lambda tx, rd: check_txn_status(tx, rd, txn.primary, query))
        if status.kind is StatusKind.UNCOMMITTED:
            return False
        if status.kind is StatusKind.COMMITTED:
            assert status.commit_ts == txn.commit_ts
        else:
            self.twin.kill(txn)
        self._end(txn, list(txn.writes), status.commit_ts)
        return True

    def _end(self, txn: Txn, keys: list[bytes], commit_ts: int, *, by_scan: bool = False) -> None:
        if by_scan or not commit_ts:
            status = {txn.start_ts: commit_ts}
            found, _ = scan_locks_to_resolve(MvccReader(self.store.engine), status, b"", b"")
            self.store.run(0, lambda tx, rd: resolve_locks(tx, rd, status, found))
            return
        for key in keys:
            lock = MvccReader(self.store.engine).load_lock(key)
            if lock is not None and lock.start_ts == txn.start_ts:
                self.store.run(txn.start_ts, lambda tx, rd, key=key: resolve_lock_lite(tx, rd, [key], commit_ts))

    # --- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def records_make_sense(self) -> None:
        engine = self.store.engine
        report = check_consistency(engine)
        assert not report.problems, str(report)
        locks = {key: decode_lock(data) for key, data in engine.scan(CF_LOCK)}
        values = {split_data_key(stored) for stored, _ in engine.scan(CF_DEFAULT)}
        used = {(key, lock.start_ts) for key, lock in locks.items() if lock.short_value is None}
        for stored, data in engine.scan(CF_WRITE):
            key, commit_ts = split_data_key(stored)
            write = decode_write(data)
            if write.write_type is WriteType.ROLLBACK:
                assert write.start_ts == commit_ts
                continue
            assert self.twin.versions[key][commit_ts][0] == write.start_ts, "a record that nobody committed"
            if write.write_type is WriteType.PUT and write.short_value is None:
                assert (key, write.start_ts) in values, "a value is missing"
                used.add((key, write.start_ts))
            lock = locks.get(key)
            if lock is not None and lock.start_ts == write.start_ts:
                assert lock.is_pessimistic_lock, "a committed key is still prewritten"
        assert values <= used, "a value that belongs to nothing"

    def teardown(self) -> None:
        """Every lock can be resolved, and what is there then is what the twin says."""
        for _ in range(3):
            self.tick(100)
            for key, data in list(self.store.engine.scan(CF_LOCK)):
                lock = MvccReader(self.store.engine).load_lock(key)
                if lock is not None:
                    self._resolve(key, decode_lock(data), 0)
        left = [decode_lock(data) for _, data in self.store.engine.scan(CF_LOCK)]
        assert not left
        for key in KEYS:
            records = {
                commit_ts: (write.start_ts, write.write_type.name)
                for commit_ts, write in MvccReader(self.store.engine).writes(key)
                if write.write_type is not WriteType.ROLLBACK
            }
            names: dict[Any, str] = {kvrpcpb.Op.Put: "PUT", kvrpcpb.Op.Del: "DELETE", kvrpcpb.Op.Lock: "LOCK"}
            assert records == {ts: (start, names[op]) for ts, (start, op, _) in self.twin.versions[key].items()}
            assert MvccReader(self.store.engine).get(key, TS_MAX) == self.twin.value(key, TS_MAX)


TestTransactions = Transactions.TestCase
TestTransactions.settings = settings(max_examples=60, stateful_step_count=60)


def _step(machine: Transactions, dice: random.Random) -> None:
    """One step by the dice; busier with few transactions at a time than Hypothesis is."""
    if not machine.txns or dice.random() < 0.15:
        kinds = [CommitKind.TWO_PC, CommitKind.TWO_PC, CommitKind.ASYNC, CommitKind.ASYNC, CommitKind.ONE_PC]
        ops = dice.choices(["Put", "Put", "Put", "Del", "Lock"], k=3)
        keys = dice.sample(KEYS, dice.randint(1, 3))
        machine.begin(dice.choice(kinds), dice.random() < 0.5, keys, ops, dice.random() < 0.2)
        return
    steps: list[tuple[int, Callable[[], None]]] = [
        (8, lambda: machine.go_on(dice, dice.randint(1, 4), dice.random() < 0.3)),
        (2, lambda: machine.lock(dice, dice.random() < 0.4)),
        (2, lambda: machine.prewrite(dice, dice.random() < 0.5)),
        (1, lambda: machine.commit(dice)),
        (1, lambda: machine.commit_secondaries(dice, dice.random() < 0.5)),
        (1, lambda: machine.roll_back(dice)),
        (1, lambda: machine.unlock(dice)),
        (1, lambda: machine.heartbeat(dice)),
        (5, lambda: machine.an_old_request_arrives_again(dice)),
        (1, lambda: machine.lose_pessimistic_lock(dice.choice(KEYS))),
        (2, machine.time_passes),
        (8, lambda: machine.read(dice.choice(KEYS), dice.choice([0, 0, 1, 2, 5]))),
    ]
    weights, choices = zip(*steps, strict=True)
    dice.choices(choices, weights)[0]()


@pytest.mark.parametrize("seed", range(20))
def test_transactions_by_dice(seed: int) -> None:
    dice = random.Random(seed)
    machine = Transactions()
    for _ in range(200):
        _step(machine, dice)
        machine.records_make_sense()
    machine.teardown()
