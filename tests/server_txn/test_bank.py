"""Threads that transfer money in every way a transaction can be made: no snapshot ever shows another total."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from txn_client import DO_CHECK, FORCE_LOCK, Txns, answer_of

from pytikv.server.engine.interface import Engine
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.rocks import RocksEngine

ACCOUNTS = [b"account/%d" % i for i in range(8)]
EACH = 100
TOTAL = EACH * len(ACCOUNTS)
TRANSFERS = 60
Transfer = Callable[["Bank", bytes, bytes, int], bool]


class Bank:
    """One thread's way to the money. A transfer tells whether it was made; if not, it may be tried again."""

    def __init__(self, txns: Txns, rng: random.Random) -> None:
        self.txns = txns
        self.rng = rng

    def read(self, key: bytes, ts: int) -> int:
        """Read a balance at a timestamp, again and again while it is locked: its owner is at work."""
        while True:
            answer = self.txns.get(key, ts)
            if not answer.HasField("error"):
                return int(answer.value)
            self.look_after(answer.error.locked, ts)

    def look_after(self, lock: object, ts: int) -> None:
        """What a reader does about a lock: nothing, since all owners are alive."""

    def balances(self, source: bytes, target: bytes, amount: int, ts: int) -> dict[bytes, bytes]:
        return {
            source: b"%d" % (self.read(source, ts) - amount),
            target: b"%d" % (self.read(target, ts) + amount),
        }

    def in_two_phases(self, source: bytes, target: bytes, amount: int) -> bool:
        start_ts = self.txns.ts()
        values = self.balances(source, target, amount, start_ts)
        if self.txns.prewrite(start_ts, values, source).errors:
            self.txns.rollback(start_ts, [source, target])
            return False
        commit_ts = self.txns.ts()
        assert not self.txns.commit(start_ts, [source], commit_ts).HasField("error")
        assert not self.txns.commit(start_ts, [target], commit_ts).HasField("error")
        return True

    def in_one_phase(self, source: bytes, target: bytes, amount: int) -> bool:
        start_ts = self.txns.ts()
        values = self.balances(source, target, amount, start_ts)
        answer = self.txns.prewrite(start_ts, values, source, try_one_pc=True, use_async_commit=True)
        assert bool(answer.one_pc_commit_ts) is not bool(answer.errors)
        return not answer.errors

    def by_async_commit(self, source: bytes, target: bytes, amount: int) -> bool:
        start_ts = self.txns.ts()
        values = self.balances(source, target, amount, start_ts)
        first = self.txns.prewrite(
            start_ts, {source: values[source]}, source, use_async_commit=True, secondaries=[target]
        )
        second = (
            None
            if first.errors
            else self.txns.prewrite(start_ts, {target: values[target]}, source, use_async_commit=True)
        )
        if second is None or second.errors:
            self.txns.rollback(start_ts, [source, target])
            return False
        commit_ts = max(first.min_commit_ts, second.min_commit_ts)
        assert not self.txns.commit(start_ts, [target], commit_ts).HasField("error")
        assert not self.txns.commit(start_ts, [source], commit_ts).HasField("error")
        return True

    def pessimistically(self, source: bytes, target: bytes, amount: int, **mode: object) -> bool:
        start_ts = self.txns.ts()
        for_update_ts = start_ts
        values = {}
        for key, change in ((source, -amount), (target, amount)):
            outcome = self.txns.lock(
                start_ts, key, for_update_ts, primary=source, return_values=True, is_first_lock=key == source, **mode
            )
            answer = answer_of(outcome)
            if answer.errors:
                self.txns.pessimistic_rollback(start_ts, [source, target], 1 << 62)
                return False
            value = answer.results[0].value if mode else answer.values[0]
            for_update_ts = max(for_update_ts, *(result.locked_with_conflict_ts for result in answer.results), 0)
            values[key] = b"%d" % (int(value) + change)
        answer = self.txns.prewrite(
            start_ts, values, source, for_update_ts=for_update_ts, pessimistic_actions=[DO_CHECK, DO_CHECK]
        )
        assert not answer.errors
        commit_ts = self.txns.ts()
        assert not self.txns.commit(start_ts, [source, target], commit_ts).HasField("error")
        return True

    def fairly(self, source: bytes, target: bytes, amount: int) -> bool:
        return self.pessimistically(source, target, amount, wake_up_mode=FORCE_LOCK)

    def audit(self) -> int:
        ts = self.txns.ts()
        return sum(self.read(key, ts) for key in ACCOUNTS)


@pytest.fixture(params=["memory", "rocks"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    made: Engine = MemoryEngine() if request.param == "memory" else RocksEngine(str(tmp_path / "db"))
    yield made
    made.close()


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns after microseconds, so that they meet in all places."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


MIXED = ["in_two_phases", "in_one_phase", "by_async_commit", "pessimistically", "fairly"]


@pytest.mark.parametrize("ways", [["pessimistically"] * 4, ["fairly"] * 4, MIXED], ids=["locks", "fair locks", "mixed"])
def test_money_is_conserved(engine: Engine, ways: list[str], switching: None) -> None:
    txns = Txns(engine)
    txns.put(dict.fromkeys(ACCOUNTS, b"%d" % EACH))
    failures: list[BaseException] = []
    audits: list[int] = []
    working = threading.Event()
    working.set()

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)
                working.clear()

        return run

    def transfer(way: str, seed: int) -> None:
        bank = Bank(txns, random.Random(seed))
        made = 0
        while made < TRANSFERS and working.is_set():
            source, target = bank.rng.sample(ACCOUNTS, 2)
            made += getattr(bank, way)(source, target, bank.rng.randrange(10))

    def audit() -> None:
        bank = Bank(txns, random.Random(0))
        while working.is_set():
            audits.append(bank.audit())

    workers = [threading.Thread(target=guarded(lambda w=way, n=n: transfer(w, n))) for n, way in enumerate(ways)]
    auditor = threading.Thread(target=guarded(audit))
    for thread in (*workers, auditor):
        thread.start()
    for thread in workers:
        thread.join(120)
    working.clear()
    auditor.join(30)
    assert failures == []
    assert set(audits) <= {TOTAL}
    assert Bank(txns, random.Random(0)).audit() == TOTAL
    assert txns.locks() == []
    assert len(txns.storage.runner.queues) == len(txns.storage.concurrency) == 0
