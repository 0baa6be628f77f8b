"""txn, mvcc, gc: what they print, where, and how they exit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import pytikv

Run = Callable[..., Any]


def test_a_transaction_writes_and_reads(run: Run) -> None:
    done = run("txn", "put", "a", "1", "insert", "b", r"\x00", "get", "a")
    assert (done.code, done.out) == (0, "a\t1\n")
    assert done.err.startswith("committed at 4")
    assert run("txn", "delete", "a", "scan", "").out == "b\t\\x00\n"
    assert run("txn", "get", "b", "--raw").raw == b"b\t\x00\n"
    done = run("txn", "get", "a", "get", "b")
    assert (done.code, done.out, done.err) == (1, "b\t\\x00\n", "not found: a\n")


def test_json(run: Run) -> None:
    done = run("txn", "put", "a", "1", "--json")
    written = done.json()
    assert (done.code, done.err) == (0, "")
    assert written["commit_ts"] > written["start_ts"]
    read = run("txn", "get", "a", "get", "x", "--json")
    assert read.code == 1
    assert read.json_lines()[:2] == [{"key": "a", "value": "1"}, {"key": "x", "value": None}]
    assert read.json_lines()[2]["commit_ts"] is None
    run("txn", "put", "a", "2")
    old = run("txn", "--at", str(written["commit_ts"]), "get", "a", "--json")
    assert old.json_lines() == [{"key": "a", "value": "1"}, {"ts": written["commit_ts"]}]


def test_operations_from_standard_input(run: Run) -> None:
    program = 'put "a key" \'two words\'  # a remark\n\nput back\\x2dslash \\\\ get "a key"\n'
    done = run("txn", "-", "get", r"back\x2dslash", stdin=program)
    assert (done.code, done.out) == (0, "a key\ttwo words\nback-slash\t\\\\\n")


def test_all_or_nothing(run: Run) -> None:
    run("txn", "put", "a", "1")
    done = run("txn", "put", "b", "2", "insert", "a", "3")
    assert done.code == 1
    assert done.out == ""
    assert "exists" in done.err
    assert run("txn", "scan", "").out == "a\t1\n"


def test_pessimistic(run: Run) -> None:
    run("txn", "put", "a", "1")
    assert run("txn", "--pessimistic", "lock", "a", "put", "a", "2").out == "a\t1\n"
    assert run("txn", "get", "a").out == "a\t2\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["gett", "a"], "'gett' is no operation"),
        (["put", "a"], "put takes KEY and VALUE"),
        (["-"], "no operation is given"),
        (["--at", "5", "put", "a", "1"], "--at reads the past"),
        (["get", "\\q"], "begins no escape"),
    ],
)
def test_bad_programs(run: Run, words: list[str], text: str) -> None:
    done = run("txn", *words)
    assert (done.code, done.out) == (2, "")
    assert text in done.err


def test_mvcc_shows_all_versions(run: Run) -> None:
    for value in ("1", "2"):
        run("txn", "put", "k", value)
    run("txn", "delete", "k")
    lines = [line.split("\t") for line in run("mvcc", "k").out.splitlines()]
    assert [(line[0], line[4]) for line in lines] == [("Del", ""), ("Put", "2"), ("Put", "1")]
    record = run("mvcc", "k", "--json").json()
    assert record["lock"] is None
    assert [one["value"] for one in record["versions"]] == [None, "2", "1"]
    start_ts = record["versions"][0]["start_ts"]
    assert run("mvcc", "--start-ts", str(start_ts), "--json").json() == record
    done = run("mvcc", "nobody")
    assert (done.code, done.out, done.err) == (1, "", "nothing is there: nobody\n")
    assert run("mvcc").code == 2
    assert run("mvcc", "k", "--check").code == 2


def test_mvcc_shows_a_lock(run: Run, url: str) -> None:
    run("txn", "put", "k", "1")
    with pytikv.TransactionClient.connect(url) as db:
        txn = db.begin(pessimistic=True)
        txn.lock_keys([b"k"])
        row = run("mvcc", "k").out.splitlines()[0].split("\t")
        lock = run("mvcc", "k", "--json").json()["lock"]
        txn.rollback()
    assert row[:2] == ["LOCKED for PessimisticLock", str(txn.start_ts)]
    assert "primary k" in row[5]
    assert (lock["kind"], lock["start_ts"], lock["primary"]) == ("PessimisticLock", txn.start_ts, "k")


def test_mvcc_checks_a_store(run: Run, url: str) -> None:
    run("txn", "put", "k", "x" * 1000)
    assert run("mvcc", "--check").out == "1 keys with 0 locks, 1 records, 1 long values: 0 damaged, 0 leftovers\n"
    with pytikv.RawClient.connect(url) as kv:
        engine = kv._core._backend._engine
        for key, _ in list(engine.scan("default", b"x")):
            engine.delete("default", key)
    done = run("mvcc", "--check", "--json")
    assert done.code == 1
    assert done.json()["damage"] == 1
    assert len(done.json()["problems"]) == 1


def test_gc(run: Run) -> None:
    for value in ("1", "2"):
        run("txn", "put", "k", value)
    done = run("gc", "--life-time", "0", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json()["safe_point"] == done.json()["target"]
    assert len(run("mvcc", "k", "--json").json()["versions"]) == 1
    done = run("gc")  # ten minutes, which is less than was collected already
    assert done.out.startswith("safe point ")
    assert "0 locks settled" in done.out
    assert run("gc", "--life-time", "-1").code == 2


def test_gc_tells_what_holds_it_back(run: Run, url: str) -> None:
    with pytikv.TransactionClient.connect(url) as db:
        db.set_gc_barrier("backup", db.current_timestamp(), 60)
    done = run("gc", "--life-time", "0")
    assert done.code == 0
    assert "held back by" in done.err
    assert "backup" in done.err


def test_gc_every_so_often(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    failing = threading.Event()

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    def sometimes(self: Any, *arguments: Any, **options: Any) -> Any:
        if len(naps) == 1:
            failing.set()
            raise pytikv.Overloaded("busy")
        return real(self, *arguments, **options)

    real = pytikv.TransactionClient.gc
    monkeypatch.setattr(pytikv.TransactionClient, "gc", sometimes)
    monkeypatch.setattr("pytikv.cli.gc.time.sleep", sleep)
    done = run("gc", "--every", "5", "--json")
    assert naps == [5, 5, 5]
    assert failing.is_set()
    assert done.code == 130
    assert len(done.json_lines()) == 2
    assert "failed, to be tried again: busy" in done.err
