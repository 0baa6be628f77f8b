"""One flush for all that wait; a failed one fails all."""

from __future__ import annotations

import threading

import pytest

from pytikv.server.engine.group_commit import GroupCommit


class Disk:
    """A disk whose flushes the test lets through one by one."""

    def __init__(self) -> None:
        self.written = 0
        self.entered = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.failure: Exception | None = None

    def flush(self) -> None:
        self.entered.release()
        assert self.go_on.acquire(timeout=10)
        if self.failure is not None:
            raise self.failure


def waiter(commit: GroupCommit, ticket: int, outcomes: list[object]) -> threading.Thread:
    def run() -> None:
        try:
            commit.wait(ticket)
            outcomes.append(ticket)
        except OSError as error:
            outcomes.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def until(condition) -> None:
    deadline = threading.Event()
    for _ in range(1000):
        if condition():
            return
        deadline.wait(0.005)
    raise AssertionError("the condition was not met")


def test_those_who_come_during_a_flush_share_the_next() -> None:
    disk = Disk()
    commit = GroupCommit(disk.flush, lambda: disk.written)
    outcomes: list[object] = []
    disk.written = 1
    threads = [waiter(commit, 1, outcomes)]
    assert disk.entered.acquire(timeout=10)
    for ticket in range(2, 12):
        disk.written = ticket
        threads.append(waiter(commit, ticket, outcomes))
    until(lambda: len(commit._waiting) == 10)
    disk.go_on.release()
    assert disk.entered.acquire(timeout=10)
    until(lambda: outcomes == [1])
    disk.go_on.release()
    for thread in threads:
        thread.join(10)
    assert sorted(outcomes) == list(range(1, 12))
    assert commit.flushes == 2
    assert commit.durable == 11
    commit.wait(5)  # durable already: no flush


def test_a_failed_flush_fails_all_and_for_good() -> None:
    disk = Disk()
    commit = GroupCommit(disk.flush, lambda: disk.written)
    outcomes: list[object] = []
    disk.written = 1
    threads = [waiter(commit, 1, outcomes)]
    assert disk.entered.acquire(timeout=10)
    disk.written = 3
    threads += [waiter(commit, ticket, outcomes) for ticket in (2, 3)]
    until(lambda: len(commit._waiting) == 2)
    disk.failure = OSError("broken")
    disk.go_on.release()
    for thread in threads:
        thread.join(10)
    assert outcomes == [disk.failure] * 3
    with pytest.raises(OSError, match="broken"):
        commit.wait(4)
    assert commit.durable == 0
