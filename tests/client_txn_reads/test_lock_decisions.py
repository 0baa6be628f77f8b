"""What follows from locks and statuses, as tables."""

import pytest

from pytikv.client.txn.lock_decisions import (
    Fate,
    FellBack,
    ReadVerdict,
    SecondaryCheck,
    TxnStatus,
    expires_in_ms,
    group_locks,
    read_verdict,
    status_of,
)
from pytikv.client.txn.txn_status_cache import MAX_STATUSES, TxnStatusCache
from pytikv.errors import ServerError
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.types import MAX_TIMESTAMP, Timestamp

Answer = kvrpcpb.CheckTxnStatusResponse
Lock = kvrpcpb.LockInfo


@pytest.mark.parametrize(
    ("answer", "fate", "is_final"),
    [
        (Answer(commit_version=7), Fate.COMMITTED, True),
        (Answer(), Fate.ROLLED_BACK, True),
        (Answer(action=kvrpcpb.LockNotExistRollback), Fate.ROLLED_BACK, True),
        (Answer(action=kvrpcpb.TTLExpireRollback), Fate.ROLLED_BACK, True),
        (Answer(action=kvrpcpb.TTLExpirePessimisticRollback), Fate.LOCK_GONE, False),
        (Answer(action=kvrpcpb.LockNotExistDoNothing), Fate.LOCK_GONE, False),
        (Answer(lock_ttl=5, action=kvrpcpb.MinCommitTSPushed), Fate.PUSHED, False),
        (Answer(lock_ttl=5), Fate.ALIVE, False),
    ],
)
def test_status(answer: Answer, fate: Fate, is_final: bool) -> None:
    status = status_of(answer)
    assert (status.fate, status.is_final) == (fate, is_final)
    assert status.is_alive == (fate in (Fate.PUSHED, Fate.ALIVE))
    assert not status.is_async_commit


def test_async_commit_is_told_by_the_primary() -> None:
    answer = Answer(lock_ttl=5, lock_info=Lock(use_async_commit=True))
    assert status_of(answer).is_async_commit
    answer.lock_ttl, answer.commit_version = 0, 9
    assert not status_of(answer).is_async_commit


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (TxnStatus.final(10), ReadVerdict.ACCESS),
        (TxnStatus.final(9), ReadVerdict.ACCESS),
        (TxnStatus.final(11), ReadVerdict.IGNORE),
        (TxnStatus.final(0), ReadVerdict.IGNORE),
        (TxnStatus(Fate.PUSHED), ReadVerdict.IGNORE),
        (TxnStatus(Fate.ALIVE), ReadVerdict.WAIT),
        (TxnStatus(Fate.LOCK_GONE), ReadVerdict.WAIT),
    ],
)
def test_what_a_reader_at_10_does(status: TxnStatus, verdict: ReadVerdict) -> None:
    assert read_verdict(status, 10) is verdict


@pytest.mark.parametrize(("age_ms", "left_ms"), [(0, 101), (99, 2), (100, 1), (101, 0), (5000, 0)])
def test_expiry(age_ms: int, left_ms: int) -> None:
    start = Timestamp.compose(1_000_000, 77)
    assert expires_in_ms(start, 100, Timestamp.compose(1_000_000 + age_ms, 3)) == left_ms


def test_grouping() -> None:
    locks = [
        Lock(key=b"a", primary_lock=b"p", lock_version=1, txn_size=5),
        Lock(key=b"b", primary_lock=b"p", lock_version=1, txn_size=600),
        Lock(key=b"a", primary_lock=b"p", lock_version=1, txn_size=5),
        Lock(key=b"c", primary_lock=b"q", lock_version=1, lock_type=kvrpcpb.PessimisticLock, lock_for_update_ts=8),
        Lock(key=b"q", primary_lock=b"q", lock_version=1, lock_type=kvrpcpb.PessimisticLock, lock_for_update_ts=9),
        Lock(key=b"d", primary_lock=b"p", lock_version=2),
    ]
    groups = group_locks(locks)
    assert [(group.start_ts, group.primary, group.is_pessimistic, list(group.locks)) for group in groups] == [
        (1, b"p", False, [b"a", b"b"]),
        (1, b"q", True, [b"c", b"q"]),
        (2, b"p", False, [b"d"]),
    ]
    assert [group.is_large for group in groups] == [True, False, False]
    assert groups[1].by_for_update_ts() == {8: [b"c"]}, "the look at the primary has rolled that one back"


def test_a_shared_lock_is_the_locks_of_its_holders() -> None:
    holders = [Lock(key=b"k", primary_lock=b"%d" % n, lock_version=n, lock_type=kvrpcpb.SharedLock) for n in (4, 5)]
    groups = group_locks([Lock(key=b"k", lock_type=kvrpcpb.SharedLock, lock_version=99, shared_lock_infos=holders)])
    assert [(group.start_ts, group.primary) for group in groups] == [(4, b"4"), (5, b"5")]
    bare = Lock(primary_lock=b"x", lock_version=6)
    assert list(group_locks([Lock(key=b"k", shared_lock_infos=[bare])])[0].locks) == [b"k"]


def async_lock(key: bytes, min_commit_ts: int, *, version: int = 5, is_async: bool = True) -> Lock:
    return Lock(key=key, lock_version=version, min_commit_ts=min_commit_ts, use_async_commit=is_async)


def test_all_secondaries_locked_is_a_commit() -> None:
    check = SecondaryCheck(5, 20)
    check.take([async_lock(b"a", 21), async_lock(b"b", 10)], 2, 0)
    check.take([async_lock(b"c", 30)], 1, 0)
    assert (check.commit_ts, check.keys) == (30, [b"a", b"b", b"c"])


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("commit_ts", [0, 30])
def test_a_missing_secondary_settles_it(first: bool, commit_ts: int) -> None:
    check = SecondaryCheck(5, 20)
    answers = [([async_lock(b"a", 25)], 1, 0), ([], 1, commit_ts)]
    for answer in answers if first else reversed(answers):
        check.take(*answer)
    assert (check.commit_ts, check.keys) == (commit_ts, [b"a"])


def test_no_secondaries() -> None:
    assert SecondaryCheck(5, 20).commit_ts == 20


def test_a_secondary_without_the_mark() -> None:
    with pytest.raises(FellBack):
        SecondaryCheck(5, 20).take([async_lock(b"a", 0, is_async=False)], 1, 0)


@pytest.mark.parametrize(
    "answers",
    [
        [([], 1, 30), ([], 1, 31)],
        [([], 1, 0), ([], 1, 31)],
        [([], 1, 19)],
        [([async_lock(b"a", 25, version=6)], 1, 0)],
    ],
)
def test_contradictions_are_errors(answers: list) -> None:
    check = SecondaryCheck(5, 20)
    for answer in answers[:-1]:
        check.take(*answer)
    with pytest.raises(ServerError):
        check.take(*answers[-1])


def test_statuses_are_kept_within_bounds() -> None:
    cache = TxnStatusCache()
    for start_ts in range(1, MAX_STATUSES + 11):
        cache.put(start_ts, TxnStatus.final(start_ts + 1))
    assert len(cache) == MAX_STATUSES
    assert cache.get(10) is None
    assert cache.get(11) == TxnStatus.final(12)


def test_what_may_change_is_not_kept() -> None:
    cache = TxnStatusCache()
    for fate in (Fate.ALIVE, Fate.PUSHED, Fate.LOCK_GONE):
        cache.put(1, TxnStatus(fate))
    assert cache.get(1) is None
    cache.put(1, TxnStatus.final(0))
    cache.put(1, TxnStatus.final(0))
    with pytest.raises(ServerError, match="rolled back"):
        cache.put(1, TxnStatus.final(MAX_TIMESTAMP))
