"""Clients report while somebody listens, and are what they were otherwise: raw and transactional, blocking and not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Callable

import pytest

import pytikv
from pytikv.client.observed import ObservedRaw
from pytikv.client.txn.observed import ObservedSnapshot, ObservedTransaction
from pytikv.client.txn.transaction import AsyncTransaction
from pytikv.errors import WrongType
from pytikv.observe import telemetry

from .conftest import Ear

RAW = [
    (lambda c: c.put(b"k", b"v"), "raw_put"),
    (lambda c: c.get(b"k"), "raw_get"),
    (lambda c: c.exists(b"k"), "raw_scan"),
    (lambda c: c.delete(b"k"), "raw_delete"),
    (lambda c: c.batch_put({b"a": b"1", b"b": b"2"}), "raw_batch_put"),
    (lambda c: c.batch_get([b"a", b"b"]), "raw_batch_get"),
    (lambda c: c.batch_delete([b"a", b"b"]), "raw_batch_delete"),
    (lambda c: c.get_ttl(b"k"), "raw_get_ttl"),
    (lambda c: c.put_if_absent(b"k", b"v"), "raw_compare_and_swap"),
    (lambda c: c.delete_range(b"a", b"b"), "raw_delete_range"),
    (lambda c: c.checksum(), "raw_checksum"),
]


@pytest.mark.parametrize(("operation", "method"), RAW)
def test_raw_operations_of_an_embedded_store(ear: Ear, operation: Callable[..., object], method: str) -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as client:
        operation(client)
    (record,) = ear.ended
    assert ear.begun == [record]
    assert (record.method, record.status, record.error) == (method, "ok", None)
    assert record.ended is not None
    assert record.ended >= record.began
    keys = 2 if "batch" in method else None
    assert (record.attributes or {}).get("keys") == keys


def test_every_page_of_a_scan_is_a_call(ear: Ear) -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as client:
        client.batch_put({b"%d" % i: b"" for i in range(5)})
        ear.clear()
        assert len(list(client.scan(batch_size=2))) == 5
    assert ear.methods() == ["raw_scan"] * 3


def test_the_error_of_a_call(ear: Ear) -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as client:
        with pytest.raises(pytikv.UnsupportedByServer):
            client.coprocessor("x", "^1.0", [(b"a", b"b")], b"")
        with pytest.raises(WrongType):
            client.get("text")  # type: ignore[arg-type]
    (record,) = ear.ended
    assert (record.method, record.status) == ("raw_coprocessor", "UnsupportedByServer")
    assert ear.errors == ["UnsupportedByServer"]
    assert record.error is None  # let go of


def test_a_part_of_a_batch_that_failed_is_the_call_s_failure(ear: Ear) -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as client, pytest.raises(pytikv.BatchError):
        client.batch_put({b"k": b"v", b"x" * 70_000: b"v"})
    (record,) = ear.ended
    assert record.status == "KeyTooLarge"
    assert ear.errors == ["KeyTooLarge"]


def test_open_clients_are_substituted_and_put_back() -> None:
    ear = Ear()
    with pytikv.RawClient.connect("embedded://:memory:") as client:
        view = client.with_options(timeout=1.0)
        plain, plain_view = client._core._backend, view._core._backend
        telemetry.install(ear)
        try:
            made = view.with_options(timeout=2.0)
            for one in (client, view, made):
                assert isinstance(one._core._backend, ObservedRaw)
                one.get(b"k")
            assert ear.methods() == ["raw_get"] * 3
            assert made.config.timeout == 2.0
        finally:
            telemetry.remove(ear)
        assert client._core._backend is plain
        assert view._core._backend is plain_view
        assert not isinstance(made._core._backend, ObservedRaw)
        client.get(b"k")
        assert len(ear.ended) == 3
        assert client._core._connection.telemetry is None


def test_a_second_sink_changes_nothing_but_that_it_hears(ear: Ear) -> None:
    second = Ear()
    with pytikv.RawClient.connect("embedded://:memory:") as client:
        before = client._core._backend
        telemetry.install(second)
        assert client._core._backend is before
        client.get(b"k")
        telemetry.remove(second)
        client.get(b"k")
    assert (len(ear.ended), len(second.ended)) == (2, 1)


def test_closed_clients_stay_closed() -> None:
    ear = Ear()
    client = pytikv.RawClient.connect("embedded://:memory:")
    view = client.with_options(timeout=1.0)
    view.close()
    telemetry.install(ear)
    try:
        client.get(b"k")
        with pytest.raises(pytikv.ClientClosed):
            view.get(b"k")
        client.close()
    finally:
        telemetry.remove(ear)
    with pytest.raises(pytikv.ClientClosed):
        client.get(b"k")
    assert ear.methods() == ["raw_get"]


def use_transactions(db: pytikv.TransactionClient) -> None:
    with db.begin() as txn:
        txn.put(b"a", b"1")
        assert txn.get(b"b") is None
        txn.batch_get([b"a", b"c"])
        list(txn.scan(batch_size=2))
    with contextlib.suppress(KeyError), db.begin(pessimistic=True) as txn:
        txn.put(b"a", b"2")
        txn.get_for_update(b"a")
        raise KeyError
    snapshot = db.snapshot()
    assert snapshot.get(b"a") == b"1"
    snapshot.batch_get([b"a"])
    list(snapshot.scan())
    db.current_timestamp()
    db.gc_state()


def test_transactions_of_an_embedded_store(ear: Ear) -> None:
    with pytikv.TransactionClient.connect("embedded://:memory:") as db:
        use_transactions(db)
    assert [(r.method, (r.attributes or {}).get("mode"), (r.attributes or {}).get("keys")) for r in ear.ended] == [
        ("txn_begin", "optimistic", None),
        ("txn_get", "optimistic", None),
        ("txn_batch_get", "optimistic", 2),
        ("txn_scan", "optimistic", None),
        ("txn_scan", "optimistic", None),
        ("txn_commit", "optimistic", 1),
        ("txn_begin", "pessimistic", None),
        ("txn_lock", "pessimistic", 1),
        ("txn_lock", "pessimistic", 1),
        ("txn_rollback", "pessimistic", None),
        ("snapshot_begin", None, None),
        ("snapshot_get", None, None),
        ("snapshot_batch_get", None, 1),
        ("snapshot_scan", None, None),
        ("snapshot_scan", None, None),
        ("client_current_timestamp", None, None),
        ("client_gc_state", None, None),
    ]
    commit = next(record for record in ear.ended if record.method == "txn_commit")
    assert commit.attributes is not None
    assert commit.attributes["start_ts"] > 0


def test_attempts_and_run_report_their_tries(ear: Ear) -> None:
    with pytikv.TransactionClient.connect("embedded://:memory:") as db:
        for txn in db.attempts(3):
            with txn:
                txn.put(b"a", b"1")
        db.run(lambda txn: txn.put(b"a", b"2"))
    assert ear.methods() == ["txn_begin", "txn_commit"] * 2


def test_asynchronous_clients(ear: Ear) -> None:
    async def use() -> None:
        async with await pytikv.AsyncRawClient.connect("embedded://:memory:") as client:
            await asyncio.gather(client.put(b"a", b"1"), client.get(b"b"))
        async with await pytikv.AsyncTransactionClient.connect("embedded://:memory:") as db:
            async with db.begin() as txn:
                assert type(txn) is ObservedTransaction
                await txn.put(b"k", b"v")
            snapshot = db.snapshot()
            assert type(snapshot) is ObservedSnapshot
            assert await snapshot.get(b"k") == b"v"
            async for txn in db.attempts(2):
                async with txn:
                    assert await txn.get(b"k") == b"v"
        assert telemetry.current_record() is None

    asyncio.run(use())
    assert sorted(ear.methods()[:2]) == ["raw_get", "raw_put"]
    assert ear.methods()[2:] == [
        "txn_begin",
        "txn_commit",
        "snapshot_begin",
        "snapshot_get",
        "txn_begin",
        "txn_get",
        "txn_commit",
    ]
    begin = next(record for record in ear.ended if record.method == "snapshot_begin")
    assert begin.parent is not None
    assert begin.parent.method == "snapshot_get"


def test_a_cancelled_call_is_told_as_such(ear: Ear) -> None:
    async def hang(_: object) -> None:
        await asyncio.Event().wait()

    async def use() -> None:
        async with await pytikv.AsyncRawClient.connect("embedded://:memory:") as client:
            observed = client._backend
            assert isinstance(observed, ObservedRaw)
            observed.inner.get = hang  # type: ignore[method-assign, assignment]
            task = asyncio.ensure_future(client.get(b"k"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(use())
    assert [(record.method, record.status) for record in ear.ended] == [("raw_get", "cancelled")]


def test_transactions_are_plain_where_nobody_listens() -> None:
    async def use() -> None:
        async with await pytikv.AsyncTransactionClient.connect("embedded://:memory:") as db:
            assert type(db.begin()) is AsyncTransaction

    asyncio.run(use())


def test_the_context_of_the_caller_is_in_the_record(ear: Ear) -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as client:
        with pytikv.context(tenant_id="acme"):
            client.get(b"k")
        client.get(b"k")
    first, second = ear.ended
    assert first.context is not None
    assert first.context.tenant_id == "acme"
    assert second.context is None


class Broken(Ear):
    """Fails in all it does."""

    def on_begin(self, record: telemetry.CallRecord) -> None:
        raise RuntimeError("broken")

    on_end = on_begin


def test_a_sink_that_fails_hurts_nobody(ear: Ear, caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken()
    telemetry.install(broken)
    try:
        with pytikv.RawClient.connect("embedded://:memory:") as client:
            client.put(b"k", b"v")
            assert client.get(b"k") == b"v"
    finally:
        telemetry.remove(broken)
    assert ear.methods() == ["raw_put", "raw_get"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "Broken failed" in caplog.text


@pytest.mark.filterwarnings("error")
def test_calls_that_never_begin_leave_nothing_behind(ear: Ear) -> None:
    db = pytikv.TransactionClient.connect("embedded://:memory:")
    txn, snapshot = db.begin(), db.snapshot()
    txn.put(b"k", b"v")
    ear.clear()
    db.close()
    for call in (txn.commit, lambda: snapshot.get(b"k"), lambda: list(txn.scan()), lambda: txn.get(b"k")):
        with pytest.raises(pytikv.ClientClosed):
            call()
    txn.rollback()
    gc.collect()
    assert ear.methods() == []


def test_a_transaction_that_failed_is_let_go_of_at_once(ear: Ear) -> None:
    with pytikv.TransactionClient.connect("embedded://:memory:") as db:
        first, second = db.begin(), db.begin()
        for one in (first, second):
            one.put(b"k", b"v")
        first.commit()
        gc.disable()
        try:
            with pytest.raises(pytikv.WriteConflict):
                second.commit()
            core = weakref.ref(second._core)
            del one, second
            assert core() is None
        finally:
            gc.enable()
