"""Workloads run on real stores: what they do, what they count, and that nothing is left."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pytikv
from pytikv.bench import crews
from pytikv.bench.pacing import Pace
from pytikv.bench.running import Load, collect, new_prefix, run
from pytikv.bench.stores import RawStore, TxnStore, drive
from pytikv.bench.tpcb import TpcB, balance, row
from pytikv.bench.workloads import YCSB, Records, ycsb
from pytikv.errors import ConfigError
from pytikv.testing.server import ServerProcess

RUNTIMES = [pytest.param(False, id="threads"), pytest.param(True, id="asyncio")]
APIS = ["raw", "txn"]


@pytest.fixture
def url() -> Iterator[str]:
    """A store in memory that outlives the runs of a test."""
    url = "embedded://:memory:bench"
    with pytikv.RawClient.connect(url):
        yield url


def everything(url: str) -> list[bytes]:
    with pytikv.RawClient.connect(url) as raw, pytikv.TransactionClient.connect(url) as db:
        return [key for key, _ in raw.scan()] + [key for key, _ in db.snapshot().scan()]


@pytest.mark.parametrize("use_asyncio", RUNTIMES)
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("letter", sorted(YCSB))
def test_ycsb(url: str, letter: str, api: str, use_asyncio: bool) -> None:
    prefix = new_prefix()
    workload = ycsb(letter, prefix, records=50, fields=2, field_bytes=10, scan_length=5)
    load = Load(Pace(operations=120), workers=3, use_asyncio=use_asyncio, api=api)
    report = run(url, workload, prefix, load)
    assert set(report.operations) == set(YCSB[letter].shares)
    assert sum(one.count for one in report.operations.values()) == 120
    assert report.error_count == 0
    shares = {name: one.count / 120 for name, one in report.operations.items()}
    assert all(abs(shares[name] - share) < 0.2 for name, share in YCSB[letter].shares.items())
    assert report.intervals[-1].end_s == pytest.approx(report.seconds, abs=0.01)
    assert (report.interrupted, report.missed, report.check) == (False, 0, None)
    assert everything(url) == []


@pytest.mark.parametrize("use_asyncio", RUNTIMES)
@pytest.mark.parametrize(("api", "pessimistic"), [("raw", False), ("txn", False), ("txn", True)])
def test_the_books_balance_with_every_transfer_in_conflict(
    url: str, api: str, pessimistic: bool, use_asyncio: bool
) -> None:
    prefix = new_prefix()
    load = Load(Pace(operations=100), workers=8, use_asyncio=use_asyncio, api=api, pessimistic=pessimistic)
    seen: list[int] = []

    class Watched(TpcB):
        def check(self, store: Any) -> Any:
            sound = yield from super().check(store)
            lines = yield from store.read_all(self.prefix + b"history/", self.prefix + b"history0")
            seen.append(len(lines))
            return sound

    report = run(url, Watched(prefix, accounts_a_branch=2), prefix, load)
    assert report.check is not None
    assert report.check["is_sound"], report.check["text"]
    assert report.operations["transfer"].count == 100
    assert seen == [100]
    assert "account 0," not in report.check["text"]
    assert everything(url) == []


def test_books_that_do_not_balance_are_found() -> None:
    with pytikv.TransactionClient.connect("embedded://:memory:") as db:
        store, bank = TxnStore(db, list), TpcB(b"bank/", accounts_a_branch=3)
        drive(store.load(bank.pairs()))
        worker = bank.worker(0, store)
        for _ in range(5):
            drive(worker.next()[1])
        check = drive(bank.check(store))
        assert check is not None
        assert check.is_sound
        key = bank.key("teller", 4)
        drive(store.change({key: lambda value: row(balance(value or b"") + 1)}, {}))
        check = drive(bank.check(store))
        assert check is not None
        assert not check.is_sound
        assert "DO NOT BALANCE" in check.text


def test_remote_accounts_are_of_other_branches() -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as kv:
        bank = TpcB(b"bank/", scale=3, accounts_a_branch=10)
        worker = bank.worker(0, RawStore(kv, list))
        remote = 0
        for _ in range(400):
            name, steps = worker.next()
            drive(steps)
            assert name == "transfer"
        for key, _ in kv.scan_prefix(b"bank/account/"):
            assert int(key[-10:]) < 30
            remote += 1
        assert remote == 30


def test_conflicts_are_counted_as_repeated_tries(url: str) -> None:
    prefix = new_prefix()
    with pytikv.TransactionClient.connect(url) as db:
        store = TxnStore(db, list)
        key = prefix + b"k"
        steps = store.change({key: lambda value: (value or b"") + b"x"}, {})
        question = next(steps)  # begun
        question = steps.send(question)  # read
        db.run(lambda txn: txn.put(key, b"other "))
        assert drive(_continued(steps, question)) == ("WriteConflict",)
        assert db.snapshot().get(key) == b"other x"
        drive(store.clear(prefix))
    assert everything(url) == []


def _continued(steps: Any, answer: Any) -> Any:
    try:
        while True:
            answer = yield steps.send(answer)
    except StopIteration as stop:
        return stop.value


def test_missing_records_are_errors_by_code(url: str) -> None:
    prefix = new_prefix()
    workload = ycsb("c", prefix, records=10)
    half = dataclasses.replace(workload)
    object.__setattr__(half, "numbers", Records(20))  # chooses among records of which half were never written
    report = run(url, half, prefix, Load(Pace(operations=200)))
    read = report.operations["read"]
    assert read.errors["NotFound"] > 0
    assert read.count + read.errors["NotFound"] == 200


def test_inserts_are_read_when_all_before_are_there() -> None:
    records = Records(5)
    assert [records.begin() for _ in range(3)] == [5, 6, 7]
    records.acknowledge(6)
    assert records.count == 5
    records.acknowledge(5)
    assert records.count == 7
    records.acknowledge(7)
    assert records.count == 8


@pytest.mark.parametrize("use_asyncio", RUNTIMES)
def test_what_is_no_error_of_the_store_ends_the_run(url: str, use_asyncio: bool) -> None:
    class Broken(TpcB):
        def worker(self, number: int, store: Any) -> Any:
            worker = super().worker(number, store)
            if number == 1:
                worker.next = lambda: 1 / 0
            return worker

    prefix = new_prefix()
    with pytest.raises(ZeroDivisionError):
        run(
            url,
            Broken(prefix, accounts_a_branch=5),
            prefix,
            Load(Pace(duration_s=60), workers=3, use_asyncio=use_asyncio),
        )
    assert everything(url) == []


@pytest.mark.parametrize("use_asyncio", RUNTIMES)
@pytest.mark.parametrize("rate", [None, 0.5])
def test_interrupted(url: str, use_asyncio: bool, rate: float | None) -> None:
    """Ctrl-C arrives in the thread that listens: workers end, also those that wait for their time; all is deleted."""
    prefix, seen = new_prefix(), []

    class Sink:
        def take(self, samples: list[Any]) -> None:
            seen.extend(samples)
            if seen:
                raise KeyboardInterrupt

        def close_interval(self, now_s: float, at_least_s: float) -> None:
            return None

    class Once(Sink):
        def take(self, samples: list[Any]) -> None:
            if not seen:
                super().take(samples)

    load = Load(Pace(duration_s=600, rate=rate), workers=2, use_asyncio=use_asyncio, interval_s=0.05)
    done = collect(url, ycsb("a", prefix, records=10), prefix, load, Once())
    assert done.interrupted
    assert done.seconds < 60
    assert everything(url) == []


@pytest.mark.parametrize("use_asyncio", RUNTIMES)
def test_interrupted_while_workers_are_started(url: str, use_asyncio: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    crew = crews.LoopCrew if use_asyncio else crews.ThreadCrew
    start = crew.start

    def interrupted(self: Any, *args: Any) -> None:
        start(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(crew, "start", interrupted)
    prefix = new_prefix()
    load = Load(Pace(duration_s=600), workers=3, use_asyncio=use_asyncio)
    report = run(url, ycsb("a", prefix, records=10), prefix, load)
    assert report.interrupted
    assert report.seconds < 60
    assert everything(url) == []


def test_seeded(url: str) -> None:
    """The same seed does the same: the stores end alike."""
    states = []
    for seed in (1, 1, 2):
        with pytikv.RawClient.connect("embedded://:memory:") as kv:
            workload, store = ycsb("d", b"p/", records=20, fields=1, seed=seed), RawStore(kv, list)
            drive(store.load(workload.pairs()))
            worker = workload.worker(0, store)
            for _ in range(200):
                drive(worker.next()[1])
            states.append(list(kv.scan()))
    assert states[0] == states[1] != states[2]
    assert len(states[0]) > 20


@pytest.mark.parametrize(
    "make",
    [
        lambda: ycsb("g", b"p/"),
        lambda: ycsb("a", b"p/", records=0),
        lambda: ycsb("a", b"p/", distribution="normal"),
        lambda: TpcB(b"p/", scale=0),
        lambda: Load(Pace(operations=1), api="sql"),
        lambda: Load(Pace(operations=1), workers=0),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


@pytest.mark.process
def test_ctrl_c_on_the_command_line_cleans_up(tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    with ServerProcess() as server:
        command = [sys.executable, "-m", "pytikv", "bench", "ycsb", "a", "--url", server.url, "--duration", "600"]
        command += ["--threads", "2", "--records", "200", "--warmup", "0", "--report", str(report)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            with server.client() as kv:
                loaded: dict[bytes, bytes] = {}
                while len(loaded) < 200 or loaded == dict(kv.scan()):  # until the workers have changed what was loaded
                    assert process.poll() is None
                    loaded = loaded if len(loaded) == 200 else dict(kv.scan())
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "ycsb-a" in out
        assert '"interrupted": true' in report.read_text()
        with server.client() as kv:
            assert list(kv.scan()) == []
