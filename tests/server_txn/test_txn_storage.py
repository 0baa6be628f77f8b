"""The commands on an engine: what is refused and where, waits from both sides, steps over many locks."""

from __future__ import annotations

from typing import Any

import pytest
from txn_client import (
    DELETE,
    FIRST_TS,
    FORCE_LOCK,
    INSERT,
    LOCK,
    PESSIMISTIC_LOCK,
    PUT,
    Txns,
    answer_of,
)

from pytikv.codec import memcomparable
from pytikv.errors import StorageError, UnsupportedByServer
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.server.engine.interface import CF_DEFAULT, CF_LOCK, CF_WRITE, WriteBatch
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.mvcc.errors import KeyIsLocked
from pytikv.server.storage.concurrency import InvalidMaxTsUpdate
from pytikv.server.storage.errors import InvalidKeyRanges, KeyTooLarge, RaftEntryTooLarge
from pytikv.server.storage.lock_waiting import WAKE_UP_DELAY_S
from pytikv.server.storage.txn_storage import Done, Waiting
from pytikv.types import KeyRange

encode = memcomparable.encode
CONSTRAINT = kvrpcpb.PrewriteRequest().for_update_ts_constraints.add(index=1)


@pytest.fixture
def txns() -> Txns:
    return Txns()


# --- requests that kill a real TiKV, and limits -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("KvPrewrite", kvrpcpb.PrewriteRequest(start_version=FIRST_TS)),
        ("KvFlush", kvrpcpb.FlushRequest(start_ts=FIRST_TS, generation=1)),
        ("KvCommit", kvrpcpb.CommitRequest(start_version=FIRST_TS, commit_version=FIRST_TS + 1)),
        ("KvBatchRollback", kvrpcpb.BatchRollbackRequest(start_version=FIRST_TS)),
        ("KvCheckSecondaryLocks", kvrpcpb.CheckSecondaryLocksRequest(start_version=FIRST_TS)),
        ("KvPessimisticLock", kvrpcpb.PessimisticLockRequest(start_version=FIRST_TS)),
    ],
)
def test_a_request_without_keys_is_an_error(txns: Txns, name: str, request_: Any) -> None:
    answer = txns.call(name, request_)
    error = answer.errors[0] if hasattr(answer, "errors") else answer.error
    assert "without keys" in error.abort


def mutations(*pairs: tuple[int, bytes]) -> list[kvrpcpb.Mutation]:
    return [kvrpcpb.Mutation(op=op, key=key, value=b"v") for op, key in pairs]


@pytest.mark.parametrize(
    ("name", "request_", "text"),
    [
        (
            "KvPrewrite",
            kvrpcpb.PrewriteRequest(mutations=mutations((PUT, b"a"), (DELETE, b"a")), start_version=FIRST_TS),
            "twice",
        ),
        (
            "KvFlush",
            kvrpcpb.FlushRequest(mutations=mutations((PUT, b"a"), (PUT, b"a")), start_ts=FIRST_TS, generation=1),
            "twice",
        ),
        (
            "KvPrewrite",
            kvrpcpb.PrewriteRequest(mutations=mutations((PESSIMISTIC_LOCK, b"a")), start_version=FIRST_TS),
            "no mutation",
        ),
        (
            "KvPessimisticLock",
            kvrpcpb.PessimisticLockRequest(mutations=mutations((PUT, b"a")), start_version=FIRST_TS),
            "no pessimistic lock",
        ),
        (
            "KvPrewrite",
            kvrpcpb.PrewriteRequest(
                mutations=mutations((PUT, b"a")),
                start_version=FIRST_TS,
                for_update_ts=FIRST_TS,
                for_update_ts_constraints=[CONSTRAINT],
            ),
            "index 1",
        ),
    ],
)
def test_bad_mutations_are_errors(txns: Txns, name: str, request_: Any, text: str) -> None:
    answer = txns.call(name, request_)
    assert text in answer.errors[0].abort
    assert txns.locks() == []


def test_limits_are_raised(txns: Txns) -> None:
    with pytest.raises(KeyTooLarge):
        txns.prewrite(txns.ts(), {b"k" * 8000: b""})
    with pytest.raises(KeyTooLarge):
        txns.lock(txns.ts(), b"k" * 8000)
    with pytest.raises(RaftEntryTooLarge):
        txns.prewrite(txns.ts(), {b"a": b"v" * (9 << 20)}, try_one_pc=True)
    assert len(txns.storage.concurrency) == 0, "a refused 1PC takes its memory locks back"
    with pytest.raises(InvalidMaxTsUpdate):
        txns.get(b"a", txns.ts() + (61_000 << 18))
    with pytest.raises(UnsupportedByServer, match="KvGC"):
        txns.storage.execute("KvGC", kvrpcpb.GCRequest())
    for start, end in ((b"", b"z"), (b"a", b"")):
        with pytest.raises(InvalidKeyRanges):
            txns.call("UnsafeDestroyRange", kvrpcpb.UnsafeDestroyRangeRequest(start_key=start, end_key=end))
    assert txns.locks() == []


def test_what_a_failed_prewrite_published_is_taken_back(txns: Txns) -> None:
    old = txns.ts()
    txns.put({b"b": b"newer"})
    answer = txns.prewrite(old, {b"a": b"1", b"b": b"2"}, use_async_commit=True, secondaries=[b"b"])
    assert answer.errors[0].HasField("conflict")
    assert len(txns.storage.concurrency) == 0
    ahead = txns.ts()
    other = txns.ts()
    assert not txns.prewrite(other, {b"a": b"1"}).errors
    assert txns.prewrite(ahead, {b"c": b"1", b"a": b"2"}, try_one_pc=True).errors[0].HasField("locked")
    assert len(txns.storage.concurrency) == 0
    txns.rollback(other, [b"a"])


def test_a_failing_engine_leaves_no_memory_lock() -> None:
    class Failing(MemoryEngine):
        fails = False

        def write(self, batch: WriteBatch, *, sync: bool = False) -> int:
            if self.fails:
                raise StorageError("no space left")
            return super().write(batch, sync=sync)

    engine = Failing()
    txns = Txns(engine)
    engine.fails = True
    with pytest.raises(StorageError, match="no space"):
        txns.prewrite(txns.ts(), {b"a": b"1"}, try_one_pc=True)
    engine.fails = False
    assert len(txns.storage.concurrency) == 0
    txns.put({b"a": b"1"})


# --- reads and memory locks -------------------------------------------------------------------------------------------


def test_an_async_commit_lies_above_every_read_before_it(txns: Txns) -> None:
    start_ts = txns.ts()
    read_ts = txns.ts() + 1000
    assert txns.get(b"a", read_ts).not_found
    answer = txns.prewrite(start_ts, {b"a": b"1"}, use_async_commit=True)
    assert answer.min_commit_ts == read_ts + 1
    with pytest.raises(KeyIsLocked):
        txns.storage.get(b"a", read_ts + 1)
    assert txns.storage.get(b"a", read_ts) is None
    txns.commit(start_ts, [b"a"], answer.min_commit_ts)
    assert txns.storage.get(b"a", read_ts) is None
    assert txns.storage.get(b"a", answer.min_commit_ts) == b"1"


@pytest.mark.parametrize("op", [INSERT, kvrpcpb.Op.CheckNotExists])
def test_a_check_for_absence_is_a_read(txns: Txns, op: int) -> None:
    other = txns.ts()
    start_ts = txns.ts() + 500
    request = kvrpcpb.PrewriteRequest(mutations=mutations((op, b"a")), primary_lock=b"a", start_version=start_ts)
    assert not txns.call("KvPrewrite", request).errors
    txns.rollback(start_ts, [b"a"])
    assert txns.prewrite(other, {b"b": b"1"}, try_one_pc=True).one_pc_commit_ts > start_ts


def test_a_large_batch_of_new_keys_is_written_without_looking_at_each(txns: Txns) -> None:
    keys = {b"new/%03d" % i: b"v" for i in range(40)}
    txns.put({b"new": b"just outside", b"new0": b"outside, too"})
    txns.put(keys)
    old = txns.ts()
    txns.put({b"new/020": b"newer"})
    answer = txns.prewrite(old, keys)
    assert answer.errors[0].conflict.key == b"new/020"


# --- waits ------------------------------------------------------------------------------------------------------------


def waits(outcome: Done | Waiting) -> Waiting:
    assert isinstance(outcome, Waiting)
    return outcome


def test_a_waiter_in_normal_mode_is_told_of_a_conflict(txns: Txns) -> None:
    holder, one, two = txns.ts(), txns.ts(), txns.ts()
    assert not txns.locked(holder, b"a").errors
    second = waits(txns.lock(two, b"a", wait_timeout=300))
    first = waits(txns.lock(one, b"a"))
    assert (first.deadline_s, second.deadline_s) == (1.0, 0.3)
    told: list[str] = []
    first.on_done(lambda done: told.append("first"))
    second.on_done(lambda done: told.append("second"))
    txns.pessimistic_rollback(holder, [b"a"], holder)
    assert told == ["first", "second"], "without timers everybody is woken at once, the oldest first"
    conflict = answer_of(first).errors[0].conflict
    assert (conflict.conflict_ts, conflict.reason) == (holder, kvrpcpb.WriteConflict.Reason.PessimisticRetry)
    first.expire()
    assert answer_of(first).errors[0].HasField("conflict"), "answered once"
    assert txns.locks() == []


def test_timers_delay_the_wake_up_of_the_others(txns: Txns) -> None:
    later: list[tuple[float, Any]] = []
    txns.storage.use_timers(lambda seconds, callback: later.append((seconds, callback)))
    holder, one, two = txns.ts(), txns.ts(), txns.ts()
    txns.locked(holder, b"a")
    first, second = waits(txns.lock(one, b"a")), waits(txns.lock(two, b"a"))
    told: list[str] = []
    second.on_done(lambda done: told.append("second"))
    txns.pessimistic_rollback(holder, [b"a"], holder)
    assert answer_of(first).errors
    assert told == []
    ((seconds, callback),) = later
    assert seconds == WAKE_UP_DELAY_S
    txns.clock.now_s += seconds
    callback()
    assert told == ["second"]


def test_an_expired_waiter_gets_the_lock_that_it_met(txns: Txns) -> None:
    holder, one = txns.ts(), txns.ts()
    txns.locked(holder, b"a")
    waiting = waits(txns.lock(one, b"a"))
    waiting.expire()
    assert answer_of(waiting).errors[0].locked.lock_version == holder
    forced = waits(txns.lock(one, b"a", wake_up_mode=FORCE_LOCK))
    forced.expire()
    answer = answer_of(forced)
    assert answer.errors[0].locked.lock_version == holder
    assert answer.results[0].type == kvrpcpb.PessimisticLockKeyResultType.LockResultFailed


def test_a_cancelled_waiter_is_never_told(txns: Txns) -> None:
    holder, one = txns.ts(), txns.ts()
    txns.locked(holder, b"a")
    waiting = waits(txns.lock(one, b"a"))
    told: list[Done] = []
    waiting.on_done(told.append)
    waiting.cancel()
    txns.pessimistic_rollback(holder, [b"a"], holder)
    assert told == []
    assert len(txns.storage.runner.queues) == 0


def test_force_lock_waiters_get_the_lock_in_turn_and_one_that_fails_passes_it_on(txns: Txns) -> None:
    holder, rolled_back, last = txns.ts(), txns.ts(), txns.ts()
    txns.locked(holder, b"a")
    txns.call("KvCleanup", kvrpcpb.CleanupRequest(key=b"a", start_version=rolled_back))
    failing = waits(txns.lock(rolled_back, b"a", wake_up_mode=FORCE_LOCK))
    getting = waits(txns.lock(last, b"a", wake_up_mode=FORCE_LOCK))
    assert [(wait.txn, wait.wait_for_txn) for wait in txns.storage.runner.queues.waits()] == [
        (rolled_back, holder),
        (last, holder),
    ]
    txns.pessimistic_rollback(holder, [b"a"], holder)
    failed = answer_of(failing)
    assert "RolledBack" in failed.errors[0].abort
    assert failed.results[0].type == kvrpcpb.PessimisticLockKeyResultType.LockResultFailed
    assert answer_of(getting).results[0].type == kvrpcpb.PessimisticLockKeyResultType.LockResultNormal
    assert txns.locks() == [(b"a", last)]
    assert len(txns.storage.runner.queues._detector) == 0


def test_hundreds_of_waiters_in_turn_need_no_stack(txns: Txns) -> None:
    holder = txns.ts()
    txns.locked(holder, b"a")
    count = 1500
    answers: list[Any] = []
    for _ in range(count):
        start_ts = txns.ts()
        txns.call("KvCleanup", kvrpcpb.CleanupRequest(key=b"a", start_version=start_ts))
        waits(txns.lock(start_ts, b"a", wake_up_mode=FORCE_LOCK)).on_done(lambda done: answers.append(done.response))
    txns.pessimistic_rollback(holder, [b"a"], holder)
    assert len(answers) == count
    assert all("RolledBack" in answer.errors[0].abort for answer in answers)


def test_a_deadlock_is_answered_at_once(txns: Txns) -> None:
    one, two = txns.ts(), txns.ts()
    txns.locked(one, b"a")
    txns.locked(two, b"b")
    waiting = waits(txns.lock(one, b"b"))
    answer = txns.locked(two, b"a")
    assert [edge.key for edge in answer.errors[0].deadlock.wait_chain] == [b"b", b"a"]
    waiting.cancel()


# --- what the store remembers -----------------------------------------------------------------------------------------


def test_a_commit_below_what_was_broadcast_is_refused(txns: Txns) -> None:
    start_ts = txns.ts()
    txns.prewrite(start_ts, {b"a": b"1"})
    status = kvrpcpb.TxnStatus(start_ts=start_ts, min_commit_ts=start_ts + 100)
    tell = lambda one: txns.call("BroadcastTxnStatus", kvrpcpb.BroadcastTxnStatusRequest(txn_status=[one]))  # noqa: E731
    tell(status)
    assert txns.commit(start_ts, [b"a"], start_ts + 99).error.commit_ts_expired.min_commit_ts == start_ts + 100
    tell(kvrpcpb.TxnStatus(start_ts=start_ts, rolled_back=True, is_completed=True))
    tell(kvrpcpb.TxnStatus(start_ts=start_ts, is_completed=True))  # kills a TiKV
    assert txns.commit(start_ts, [b"a"], start_ts + 99).commit_version == start_ts + 99


def test_a_late_pessimistic_prewrite_of_a_committed_transaction_is_a_repetition(txns: Txns) -> None:
    start_ts = txns.ts()
    txns.locked(start_ts, b"p")
    skip = kvrpcpb.PrewriteRequest.PessimisticAction.SKIP_PESSIMISTIC_CHECK
    both = {b"p": b"1", b"index": b"1"}
    request: dict[str, Any] = {"for_update_ts": start_ts, "pessimistic_actions": [skip + 1, skip]}
    txns.prewrite(start_ts, both, b"p", **request)
    commit_ts = txns.ts()
    txns.commit(start_ts, [b"p", b"index"], commit_ts)
    late = txns.prewrite(start_ts, {b"index": b"1"}, b"p", for_update_ts=start_ts, pessimistic_actions=[skip])
    assert not late.errors
    assert txns.locks() == [], "the lock is not written once more"


# --- many keys --------------------------------------------------------------------------------------------------------


def test_region_wide_commands_go_over_all_locks_of_the_region_and_no_others(txns: Txns) -> None:
    start_ts, other = txns.ts(), txns.ts()
    keys = [b"%04d" % i for i in range(1000)]
    txns.prewrite(start_ts, dict.fromkeys(keys, b"v"), keys[0])
    txns.locked(other, b"other")
    commit_ts = txns.ts()
    txns.commit(start_ts, [keys[0]], commit_ts)
    request = kvrpcpb.ResolveLockRequest(start_version=start_ts, commit_version=commit_ts)
    done = txns.storage.execute("KvResolveLock", request, KeyRange(encode(keys[100]), encode(keys[900])))
    assert isinstance(done, Done)
    assert done.ticket == txns.engine.ticket
    assert len(txns.locks()) == 99 + 100 + 1
    infos = [kvrpcpb.TxnInfo(txn=start_ts, status=commit_ts), kvrpcpb.TxnInfo(txn=1, status=0)]
    assert not txns.call("KvResolveLock", kvrpcpb.ResolveLockRequest(txn_infos=infos)).HasField("error")
    assert txns.locks() == [(b"other", other)]
    assert all(txns.get(key, commit_ts).value == b"v" for key in keys[::97])


def test_region_wide_pessimistic_rollback(txns: Txns) -> None:
    start_ts = txns.ts()
    for i in range(600):
        txns.locked(start_ts, b"%03d" % i)
    txns.prewrite(start_ts, {b"prewritten": b"v"})
    txns.pessimistic_rollback(start_ts, [], start_ts)
    assert txns.locks() == [(b"prewritten", start_ts)]


def test_a_wrong_resolve_ends_with_an_error_and_keeps_the_locks(txns: Txns) -> None:
    start_ts = txns.ts()
    txns.prewrite(start_ts, {b"a": b"1"})
    request = kvrpcpb.ResolveLockRequest(start_version=start_ts, commit_version=start_ts)
    assert "InvalidTxnTso" in txns.call("KvResolveLock", request).error.abort
    assert txns.locks() == [(b"a", start_ts)]
    assert "start_version" in txns.call("KvResolveLock", kvrpcpb.ResolveLockRequest(keys=[b"a"])).error.abort


def test_deleting_a_range_takes_locks_versions_and_values(txns: Txns) -> None:
    for key in (b"a", b"b", b"c"):
        txns.put({key: b"v" * 300})
    txns.prewrite(txns.ts(), {b"b": b"x"})
    request = kvrpcpb.DeleteRangeRequest(start_key=b"a", end_key=b"c")
    txns.call("KvDeleteRange", kvrpcpb.DeleteRangeRequest(start_key=b"a", end_key=b"z", notify_only=True))
    txns.call("KvDeleteRange", request)
    for cf, left in ((CF_LOCK, 0), (CF_WRITE, 1), (CF_DEFAULT, 1)):
        assert len(list(txns.engine.scan(cf))) == left
    txns.call("UnsafeDestroyRange", kvrpcpb.UnsafeDestroyRangeRequest(start_key=b"c", end_key=b"d"))
    assert not list(txns.engine.scan(CF_WRITE))


def test_gc_goes_in_steps_and_keeps_what_the_safe_point_sees(txns: Txns) -> None:
    stamps = [txns.put({b"a": b"%d" % i * 300, b"b": b"%d" % i}) for i in range(10)]
    position: bytes | None = b""
    steps = 0
    while position is not None:
        position = txns.storage.gc_step(stamps[7], position, limit=4)
        steps += 1
    assert steps > 3
    assert len(list(txns.engine.scan(CF_WRITE))) == 2 * 3
    assert len(list(txns.engine.scan(CF_DEFAULT))) == 3
    for i in (7, 8, 9):
        assert txns.get(b"b", stamps[i]).value == b"%d" % i
    assert txns.storage.check_consistency().is_sound


# --- safe timestamps --------------------------------------------------------------------------------------------------


def test_a_lock_holds_the_safe_timestamp_back(txns: Txns) -> None:
    everything = KeyRange(b"", b"")
    assert txns.storage.ranges.safe_ts(everything) >= FIRST_TS
    start_ts = txns.ts()
    txns.prewrite(start_ts, {b"m": b"1"})
    txns.locked(txns.ts(), b"p")  # a pessimistic lock says nothing of data yet
    assert txns.storage.ranges.safe_ts(everything) == start_ts
    assert txns.storage.ranges.safe_ts(KeyRange(encode(b"n"), b"")) > start_ts
    status = kvrpcpb.TxnStatus(start_ts=start_ts, min_commit_ts=start_ts + 50)
    txns.call("BroadcastTxnStatus", kvrpcpb.BroadcastTxnStatusRequest(txn_status=[status]))
    assert txns.storage.ranges.safe_ts(everything) == start_ts + 49
    early = txns.ts()
    safe_ts = txns.storage.ranges.safe_ts(KeyRange(encode(b"n"), b""))
    answer = txns.prewrite(early, {b"x": b"1"}, try_one_pc=True)
    assert answer.one_pc_commit_ts > safe_ts, "nothing may appear below a safe timestamp any more"


def test_lock_mutations_count_as_locks_and_leave_no_value(txns: Txns) -> None:
    start_ts = txns.ts()
    request = kvrpcpb.PrewriteRequest(mutations=mutations((LOCK, b"a")), primary_lock=b"a", start_version=start_ts)
    assert not txns.call("KvPrewrite", request).errors
    assert txns.storage.ranges.safe_ts(KeyRange(b"", b"")) == start_ts
    txns.commit(start_ts, [b"a"], txns.ts())
    assert txns.get(b"a", txns.ts()).not_found
