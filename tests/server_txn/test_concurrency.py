"""max_ts and the locks in memory."""

from __future__ import annotations

import threading

import pytest

from pytikv.errors import Outcome
from pytikv.server.mvcc.keys import TS_MAX
from pytikv.server.mvcc.records import Lock, LockType
from pytikv.server.storage.concurrency import MAX_DRIFT_MS, ConcurrencyManager, InvalidMaxTsUpdate

MINUTE = MAX_DRIFT_MS << 18


def lock(start_ts: int = 1, min_commit_ts: int = 0) -> Lock:
    return Lock(LockType.PUT, b"p", start_ts, min_commit_ts=min_commit_ts, use_async_commit=True)


def test_max_ts_only_grows() -> None:
    manager = ConcurrencyManager(lambda: 100)
    assert manager.max_ts == 100
    for ts, expected in ((50, 100), (150, 150), (TS_MAX, 150), (0, 150)):
        manager.update_max_ts(ts)
        assert manager.max_ts == expected


def test_a_timestamp_from_the_future_is_refused_unless_pd_confirms_it() -> None:
    clock = [100]
    manager = ConcurrencyManager(lambda: clock[0])
    manager.update_max_ts(100 + MINUTE)
    with pytest.raises(InvalidMaxTsUpdate) as caught:
        manager.update_max_ts(101 + MINUTE)
    assert "invalid max_ts update" in str(caught.value)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert manager.max_ts == 100 + MINUTE
    clock[0] = 200
    manager.update_max_ts(101 + MINUTE)
    clock[0] = 150  # a clock that falls back takes no limit back
    manager.update_max_ts(200 + MINUTE)
    assert manager.max_ts == 200 + MINUTE


def test_a_published_lock_is_above_all_reads_and_at_least_what_it_asked() -> None:
    manager = ConcurrencyManager(lambda: 100)
    assert manager.publish(b"a", lock()) == 101
    assert manager.publish(b"b", lock(min_commit_ts=500)) == 500
    manager.update_max_ts(600)
    c = lock(min_commit_ts=500)
    assert manager.publish(b"c", c) == c.min_commit_ts == 601
    assert manager.lock_of(b"c") is c
    assert manager.lock_of(b"d") is None
    assert [key for key, _ in manager.locks_in(b"a", b"c")] == [b"a", b"b"]
    assert [key for key, _ in manager.locks_in(b"b", b"")] == [b"b", b"c"]
    manager.retract([b"b", b"a", b"never"])
    assert [key for key, _ in manager.locks_in(b"", b"")] == [b"c"]
    manager.retract([b"c"])
    assert len(manager) == 0
    assert manager.locks_in(b"", b"") == []


def test_a_reader_meets_the_lock_or_is_below_it() -> None:
    """The point of it all: never both a read at ts and a commit at or below ts that the read did not see."""
    manager = ConcurrencyManager(lambda: 0)
    broken: list[int] = []
    commits = [0]

    def read() -> None:
        for i in range(3000):
            ts = commits[0] + i % 3
            manager.update_max_ts(ts)
            met = manager.lock_of(b"k")
            if met is None and commits[0] < ts:
                later = manager.publish(b"r", lock())
                manager.retract([b"r"])
                if later <= ts:
                    broken.append(ts)

    def write() -> None:
        for _ in range(3000):
            commits[0] = max(commits[0], manager.publish(b"k", lock()))
            manager.retract([b"k"])

    threads = [threading.Thread(target=target) for target in (read, write, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert broken == []
    assert len(manager) == 0
