"""What programs get wrong with transactions, embedded and served: each mistake has a clear error, and leaves nothing.

A message names what is wrong and what to do; no lock stays behind; the outcome says NOT_APPLIED.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

import pytikv
from pytikv import InvalidArgument, Outcome, TransactionTooLarge

MIB = 1 << 20
TWO_PC = {"async_commit": False, "one_pc": False}
KINDS: dict[str, dict[str, Any]] = {
    "1PC": {},
    "async commit": {"one_pc": False},
    "2PC": TWO_PC,
    "pessimistic": {"pessimistic": True},
    "pipelined": {"pipelined": True},
}


@pytest.fixture(params=["memory", "server v1", "server v2"])
def target(request: pytest.FixtureRequest, serving: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if request.param == "memory":
        yield f"embedded://:memory:{uuid.uuid4().hex}", {}
        return
    with serving(request.param[-1], {}) as server:
        yield server.url, {"api_version": server.api_version}


@pytest.fixture
def db(target: tuple[str, dict[str, Any]]) -> Iterator[pytikv.TransactionClient]:
    url, options = target
    with pytikv.TransactionClient.connect(url, **options) as client:
        yield client


def write(txn: pytikv.Transaction, key: bytes, value: bytes) -> None:
    txn.put(key, value)  # pessimistic and pipelined ones learn of it here
    txn.commit()


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_entry_over_the_store_s_limit(db: pytikv.TransactionClient, kind: str) -> None:
    txn = db.begin(max_entry_bytes=32 * MIB, **KINDS[kind])
    txn.put(b"small", b"1")
    with pytest.raises(TransactionTooLarge, match=r"key b'big' and its value have 94371\d\d bytes.*limit") as caught:
        write(txn, b"big", b"x" * (9 * MIB))
    assert (caught.value.key, caught.value.outcome, txn.outcome) == (b"big", Outcome.NOT_APPLIED, Outcome.NOT_APPLIED)
    txn.rollback()
    with pytikv.deadline(5), db.begin(**TWO_PC) as other:  # no lock is in the way for long
        other.put(b"big", b"1")
        other.put(b"small", b"2")
    assert dict(db.snapshot().scan()) == {b"big": b"1", b"small": b"2"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_entry_over_the_own_limit(db: pytikv.TransactionClient, kind: str) -> None:
    txn = db.begin(**KINDS[kind])
    with pytest.raises(TransactionTooLarge, match=r"key b'big' .* max_entry_bytes=6291456"):
        txn.put(b"big", b"x" * (9 * MIB))
    txn.put(b"big", b"fits")  # it goes on
    txn.commit()
    assert txn.outcome is Outcome.APPLIED
    assert db.snapshot().get(b"big") == b"fits"


def test_no_option_lets_through_what_no_message_holds(db: pytikv.TransactionClient) -> None:
    with pytest.raises(InvalidArgument, match="max_entry_bytes"):
        db.begin(max_entry_bytes=64 * MIB)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_is_too_long(db: pytikv.TransactionClient, kind: str) -> None:
    txn = db.begin(**KINDS[kind])
    with pytest.raises(InvalidArgument, match=r"key b'KKK.*\(8000 bytes\) is too long.*max-key-size") as caught:
        write(txn, b"K" * 8000, b"1")
    assert (caught.value.outcome, txn.outcome) == (Outcome.NOT_APPLIED, Outcome.NOT_APPLIED)
    txn.rollback()
    assert list(db.snapshot().scan()) == []


def test_redacted_keys_stay_hidden_in_refusals(db: pytikv.TransactionClient) -> None:
    pytikv.redact_keys(True)
    try:
        for key, size in ((b"secret", 9 * MIB), (b"secret" * 1500, 1)):
            txn = db.begin(max_entry_bytes=32 * MIB)
            txn.put(key, b"x" * size)
            with pytest.raises(pytikv.TikvError) as caught:
                txn.commit()
            assert "secret" not in str(caught.value)
            assert "key ?" in str(caught.value)
            assert "limit" in str(caught.value)
    finally:
        pytikv.redact_keys(False)


# --- timestamps of the future -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_ts_of_the_future(db: pytikv.TransactionClient, kind: str) -> None:
    later = db.current_timestamp() + (3_600_000 << 18)
    with pytest.raises(InvalidArgument, match="future"):
        db.begin(start_ts=later, **KINDS[kind])
    with db.begin() as txn:
        txn.put(b"k", b"1")
    assert db.snapshot().get(b"k") == b"1"


# --- a snapshot is read only ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["put", "insert", "delete", "lock_keys", "get_for_update", "commit", "savepoint"])
def test_writing_in_a_snapshot(db: pytikv.TransactionClient, name: str) -> None:
    snapshot: Any = db.snapshot()
    with pytest.raises(InvalidArgument, match=f"snapshot is read only.*{name}.*begin") as caught:
        getattr(snapshot, name)(b"k", b"v")
    assert caught.value.code == "InvalidArgument"
    assert not hasattr(snapshot, name)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = snapshot.nonsense
    assert isinstance(db._core.snapshot(), pytikv.AsyncSnapshot)
    with pytest.raises(InvalidArgument, match="read only"):
        getattr(db._core.snapshot(), name)


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_none_waits_as_long_as_a_call_may_take(db: pytikv.TransactionClient) -> None:
    holder = db.begin(pessimistic=True)
    holder.lock_keys([b"k"])
    waiting = db.with_options(timeout=0.3).begin(pessimistic=True)
    began = time.monotonic()
    with pytest.raises(pytikv.LockTimeout):
        waiting.lock_keys([b"k"])
    assert time.monotonic() - began < 1.5
    began = time.monotonic()
    with pytest.raises(pytikv.LockTimeout):
        waiting.lock_keys([b"k"], wait=0.6)  # a wait that was asked for may be longer
    assert 0.55 < time.monotonic() - began < 2
    waiting.rollback()
    holder.rollback()


@pytest.mark.parametrize("kind", ["pessimistic", "pipelined"])
def test_locks_are_given_back_though_the_time_is_over(db: pytikv.TransactionClient, kind: str) -> None:
    options = {"flush_keys": 1, "flush_bytes": 1} if kind == "pipelined" else {}
    for end in ("rollback", "exception"):
        txn = db.begin(**KINDS[kind], **options)
        txn.put(b"k", b"v")
        if end == "rollback":
            with pytikv.deadline(0):
                txn.rollback()
        else:
            with contextlib.suppress(pytikv.DeadlineExceeded), pytikv.deadline(0), txn:
                txn.get(b"other")
        assert (txn.outcome, txn.is_open) == (Outcome.NOT_APPLIED, False)
        with db.begin(pessimistic=True) as other:
            other.lock_keys([b"k"], wait=5)  # their TTL is 20 s


# --- what functions and keys are --------------------------------------------------------------------------------------


def test_run_needs_a_plain_function(db: pytikv.TransactionClient) -> None:
    async def work(txn: pytikv.AsyncTransaction) -> None:
        await txn.put(b"k", b"v")

    with pytest.raises(pytikv.WrongType, match="AsyncTransactionClient"):
        db.run(work)
    with pytest.raises(pytikv.WrongType, match="function"):
        db.run(None)  # type: ignore[arg-type]
    assert list(db.snapshot().scan()) == []


def test_one_key_instead_of_several(db: pytikv.TransactionClient) -> None:
    with db.begin() as txn:
        for wrong in (b"k", "k", bytearray(b"k"), memoryview(b"k")):
            for ask in (txn.batch_get, txn.lock_keys, txn.batch_get_for_update):
                with pytest.raises(pytikv.WrongType, match=f"iterable of bytes, not {type(wrong).__name__}"):
                    ask(wrong)  # type: ignore[arg-type]


def test_a_range_without_a_start_is_not_destroyed_in_v1(db: pytikv.TransactionClient) -> None:
    if db.config.api_version == 1:
        with pytest.raises(InvalidArgument, match=r"start.*API v1"):
            db.unsafe_destroy_range(None, b"z")
    else:
        db.unsafe_destroy_range(None, b"z")


# --- where transactions are not to be had -----------------------------------------------------------------------------


def test_stores_for_raw_data_alone(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving("1ttl", {}) as server:
        with pytest.raises(pytikv.ConfigError, match=r"v1ttl.*raw data alone.*API v2"):
            pytikv.TransactionClient.connect(server.url)
        with pytikv.RawClient.connect(server.url) as kv:
            kv.put(b"k", b"v", ttl=60)

        async def unknown(*_: object, **__: object) -> None:  # its status address may be out of reach
            pass

        monkeypatch.setattr("pytikv.client.store_config.StoreConfigs.check_version", unknown)
        with pytikv.TransactionClient.connect(server.url) as db:
            for work in (lambda: db.snapshot().get(b"k"), lambda: db.run(lambda txn: txn.put(b"k", b"v"))):
                with pytest.raises(pytikv.ConfigError, match="raw data alone: transactions need another cluster"):
                    work()


def test_regions_that_were_cut_for_raw_data(serving: Any) -> None:
    with serving("1", {}) as server:
        server.split(b"user_5")
        with pytikv.TransactionClient.connect(server.url) as db:
            for work in (lambda: list(db.snapshot().scan()), lambda: db.snapshot().batch_get([b"a", b"z"]), db.gc):
                with pytest.raises(pytikv.ConfigError, match=r"raw data.*cluster of their own.*API v2"):
                    work()


def test_a_keyspace_that_nobody_made(serving: Any) -> None:
    with serving("2", {}) as server, pytest.raises(pytikv.ConfigError, match=r"'nobodys'.*pytikv serve --keyspace"):
        pytikv.TransactionClient.connect(server.url, api_version=2, keyspace="nobodys")


# --- after the end of the client --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_that_outlives_its_client(target: tuple[str, dict[str, Any]], kind: str) -> None:
    url, options = target
    keeper = pytikv.TransactionClient.connect(url, **options)
    db = pytikv.TransactionClient.connect(url, **options)
    txn = db.begin(**KINDS[kind])

    def block() -> None:
        with txn:
            txn.put(b"k", b"v")
            db.close()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # what ends the block is not replaced
        block()
    txn.rollback()
    assert (txn.outcome, txn.is_open) == (Outcome.NOT_APPLIED, False)
    keeper.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_that_outlives_its_client_on_a_loop(target: tuple[str, dict[str, Any]], kind: str) -> None:
    url, options = target

    async def program() -> None:
        db = await pytikv.AsyncTransactionClient.connect(url, **options)
        txn = db.begin(**KINDS[kind])
        with contextlib.suppress(ZeroDivisionError):
            async with txn:
                await txn.put(b"k", b"v")
                await db.close()
                raise ZeroDivisionError
        await txn.rollback()
        assert (txn.outcome, txn.is_open) == (Outcome.NOT_APPLIED, False)

    asyncio.run(program())


def test_a_commit_after_close_is_refused(target: tuple[str, dict[str, Any]]) -> None:
    url, options = target
    db = pytikv.TransactionClient.connect(url, **options)
    txn = db.begin()

    def block() -> None:
        with txn:
            txn.put(b"k", b"v")
            db.close()

    with pytest.raises(pytikv.ClientClosed):
        block()
    assert txn.outcome is Outcome.NOT_APPLIED
    txn.rollback()
