"""The embedded store through the public clients: same answers as elsewhere, shared per place, safe from everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
import uuid
import warnings

import pytest

import pytikv
from pytikv import ConfigError, InvalidArgument, StorageError, UnsupportedByServer, WrongType


@pytest.mark.parametrize(("version", "ttl"), [(2, None), (1, True)])
def test_ttl(version: int, ttl: bool | None) -> None:
    with pytikv.RawClient.connect("embedded://:memory:", api_version=version, ttl=ttl) as kv:
        kv.put(b"k", b"v", ttl=100)
        kv.batch_put([(b"a", b"1", 50), (b"b", b"2")])
        assert kv.get_ttl(b"k") in (99, 100)
        assert kv.get_ttl(b"a") in (49, 50)
        assert kv.get_ttl(b"b") is None
        assert kv.get_ttl(b"none") is None
        kv.compare_and_swap(b"k", b"v", b"w", ttl=pytikv.KEEP)
        assert kv.get_ttl(b"k") in (98, 99, 100)
        kv.compare_and_swap(b"k", b"w", b"x")
        assert kv.get_ttl(b"k") is None


def test_no_ttl_in_plain_v1() -> None:
    with pytikv.RawClient.connect("embedded://:memory:?api_version=1") as kv:
        with pytest.raises(UnsupportedByServer):
            kv.put(b"k", b"v", ttl=1)
        with pytest.raises(UnsupportedByServer):
            kv.get_ttl(b"k")
        kv.put(b"k", b"v", ttl=0)


def test_column_families() -> None:
    with pytikv.RawClient.connect("embedded://:memory:", api_version=1) as kv:
        other = kv.with_options(cf="write")
        other.put(b"k", b"w")
        assert kv.get(b"k") is None
        assert other.get(b"k") == b"w"
        with pytest.raises(InvalidArgument):
            kv.with_options(cf="nope").get(b"k")
    with pytikv.RawClient.connect("embedded://:memory:") as kv, pytest.raises(ConfigError, match="column families"):
        kv.with_options(cf="write")
    with pytest.raises(ConfigError):
        pytikv.RawClient.connect("embedded://:memory:", cf="default")


def test_keyspaces_are_apart(tmp_path) -> None:
    target = f"embedded://{tmp_path}/db"
    with pytikv.RawClient.connect(target) as default, pytikv.RawClient.connect(target, keyspace="shop") as shop:
        default.put(b"k", b"1")
        shop.put(b"k", b"2")
        assert (default.get(b"k"), shop.get(b"k")) == (b"1", b"2")
        shop.delete_range(None, None)
        assert (default.get(b"k"), shop.get(b"k")) == (b"1", None)
    with pytest.raises(ConfigError, match="keyspace"):
        pytikv.RawClient.connect("embedded://:memory:", keyspace="no spaces")
    with pytest.raises(ConfigError, match="API v2"):
        pytikv.RawClient.connect("embedded://:memory:", keyspace="shop", api_version=1)


# --- places -----------------------------------------------------------------------------------------------------------


def test_memory_is_private_unless_named() -> None:
    name = uuid.uuid4().hex
    one, two = (pytikv.RawClient.connect("embedded://:memory:") for _ in range(2))
    shared, again = (pytikv.RawClient.connect(f"embedded://:memory:{name}") for _ in range(2))
    one.put(b"k", b"1")
    shared.put(b"k", b"2")
    assert two.get(b"k") is None
    shared.close()
    assert again.get(b"k") == b"2"
    for client in (one, two, again):
        client.close()
    with pytikv.RawClient.connect(f"embedded://:memory:{name}") as fresh:
        assert fresh.get(b"k") is None


def test_a_path_is_shared_and_lasts(tmp_path) -> None:
    target = f"embedded://{tmp_path}/db"
    one = pytikv.RawClient.connect(target)
    two = pytikv.RawClient.connect(f"embedded://{tmp_path}/../{tmp_path.name}/db")
    one.put(b"k", b"1")
    assert two.get(b"k") == b"1"
    one.close()
    two.put(b"k", b"2")
    two.close()
    with pytikv.RawClient.connect(target) as three:
        assert three.get(b"k") == b"2"


def test_a_path_keeps_its_version(tmp_path) -> None:
    target = f"embedded://{tmp_path}/db"
    with pytikv.RawClient.connect(target, api_version=1) as kv:
        kv.put(b"k", b"v")
        with pytest.raises(ConfigError, match="api_version"):
            pytikv.RawClient.connect(target, api_version=2)
    with pytikv.RawClient.connect(target) as kv:
        assert kv.config.api_version == 1
        assert kv.get(b"k") == b"v"
    with pytest.raises(ConfigError, match="api_version"):
        pytikv.RawClient.connect(target, api_version=2)
    with pytest.raises(ConfigError, match="ttl"):
        pytikv.RawClient.connect(target, ttl=True)


def test_another_process_is_told_who_holds_it(tmp_path) -> None:
    target = f"embedded://{tmp_path}/db"
    with pytikv.RawClient.connect(target):
        code = f"import pytikv; pytikv.RawClient.connect({target!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"StorageError: {tmp_path}/db is in use by process {os.getpid()}" in done.stderr


def test_places_that_cannot_be(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file, not a directory"):
        pytikv.RawClient.connect(f"embedded://{tmp_path}/file")
    with pytest.raises(StorageError):
        pytikv.RawClient.connect(f"embedded://{tmp_path}/file/below")


# --- many users -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_threads_and_tasks_at_once(tmp_path, where: str) -> None:
    target = f"embedded://:memory:{uuid.uuid4().hex}" if where == "memory" else f"embedded://{tmp_path}/db"
    blocking = pytikv.RawClient.connect(target)
    failures: list[BaseException] = []

    def count_up() -> None:
        try:
            for _ in range(40):
                while True:
                    present = blocking.get(b"counter")
                    if blocking.compare_and_swap(b"counter", present, b"%d" % (int(present or 0) + 1)).swapped:
                        break
        except BaseException as error:
            failures.append(error)

    async def tasks() -> None:
        async with await pytikv.AsyncRawClient.connect(target) as kv:

            async def one(number: int) -> None:
                for step in range(20):
                    await kv.put(b"task-%d" % number, b"%d" % step)
                while True:
                    present = await kv.get(b"counter")
                    if (await kv.compare_and_swap(b"counter", present, b"%d" % (int(present or 0) + 1))).swapped:
                        return

            await asyncio.gather(*(one(number) for number in range(16)))
            assert [key async for key, _ in kv.scan_prefix(b"task-", keys_only=True)] == sorted(
                b"task-%d" % number for number in range(16)
            )

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(tasks())
    for thread in threads:
        thread.join(60)
    assert not failures
    assert blocking.get(b"counter") == b"%d" % (4 * 40 + 16)
    blocking.close()


def test_writes_of_one_loop_share_flushes(tmp_path) -> None:
    async def body() -> int:
        async with await pytikv.AsyncRawClient.connect(f"embedded://{tmp_path}/db") as kv:
            engine = kv._backend._engine
            before = engine.flushes
            await asyncio.gather(*(kv.put(b"%d" % n, b"v") for n in range(200)))
            assert engine.durable_ticket >= engine.ticket - 1
            return engine.flushes - before

    assert asyncio.run(body()) < 20


def test_cleaning_bounds_the_garbage(monkeypatch) -> None:
    monkeypatch.setattr("pytikv.embedded_store._CLEAN_EVERY", 64)
    with pytikv.RawClient.connect("embedded://:memory:") as kv:
        store = kv._core._backend._store
        store.clean_at = 64
        monkeypatch.setattr(kv._core._backend, "_clean", lambda: store.begin_cleaning() and store.clean())
        for n in range(5000):
            kv.put(b"k%d" % (n % 10), b"%d" % n)
        entries = sum(1 for _ in store.engine.scan("default"))
        assert entries < 300
        assert kv.get(b"k9") == b"4999"
        kv.batch_delete([b"k%d" % n for n in range(10)])
        for _ in range(3):
            store.clean()
        assert sum(1 for _ in store.engine.scan("default")) == 0


def test_cleaning_that_meets_the_end_of_the_store_is_silent() -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as kv:
        kv.put(b"k", b"v")
        store = kv._core._backend._store
        assert store.begin_cleaning()
    store.clean()
    assert store.begin_cleaning()  # it counts as done


# --- life -------------------------------------------------------------------------------------------------------------


def test_close(tmp_path) -> None:
    kv = pytikv.RawClient.connect(f"embedded://{tmp_path}/db")
    view = kv.with_options(atomic=True)
    other = kv.with_options(timeout=1.0)
    other.close()
    with pytest.raises(pytikv.ClientClosed):
        other.get(b"k")
    view.put(b"k", b"v")
    pages = kv.scan(batch_size=1)
    next(pages)
    kv.close()
    kv.close()
    for call in (lambda: kv.get(b"k"), lambda: view.put(b"k", b"v"), lambda: kv.with_options(), lambda: next(pages)):
        with pytest.raises(pytikv.ClientClosed):
            call()


def test_forgotten_clients_warn_and_let_go(tmp_path) -> None:
    target = f"embedded://{tmp_path}/db"
    kv = pytikv.RawClient.connect(target)
    kv.put(b"k", b"v")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del kv
        gc.collect()
    assert any(issubclass(w.category, ResourceWarning) and "not closed" in str(w.message) for w in caught)
    code = f"import pytikv; print(pytikv.RawClient.connect({target!r}).get(b'k'))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "b'v'\n", done.stderr


def test_a_forked_child_gets_an_error_and_no_hang(tmp_path) -> None:
    code = f"""
import os, pytikv
kv = pytikv.RawClient.connect("embedded://{tmp_path}/db")
kv.put(b"k", b"v")
pid = os.fork()
if pid == 0:
    try:
        kv.get(b"k")
    except pytikv.ClientClosed as error:
        assert "fork" in str(error), error
        kv.close()
        os.write(1, b"closed ")
    try:
        pytikv.RawClient.connect("embedded://{tmp_path}/db")
    except pytikv.StorageError:
        os.write(1, b"refused ")
    raise SystemExit(0)
assert os.waitpid(pid, 0)[1] == 0
assert kv.get(b"k") == b"v"
kv.put(b"k", b"w")
kv.close()
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "closed refused done\n", done.stderr


def test_deadlines(tmp_path) -> None:
    with pytikv.RawClient.connect(f"embedded://{tmp_path}/db") as kv:
        with pytikv.deadline(30):
            kv.put(b"k", b"v")
            assert kv.get(b"k") == b"v"
        with pytikv.deadline(0):
            for call in (
                lambda: kv.get(b"k"),
                lambda: kv.put(b"k", b"w"),
                lambda: kv.delete(b"k"),
                lambda: list(kv.scan()),
            ):
                with pytest.raises(pytikv.DeadlineExceeded) as caught:
                    call()
                assert caught.value.outcome is pytikv.Outcome.NOT_APPLIED
        assert kv.get(b"k") == b"v"


def test_a_disk_that_does_not_confirm_leaves_it_open(tmp_path) -> None:
    async def body() -> None:
        async with await pytikv.AsyncRawClient.connect(f"embedded://{tmp_path}/db", timeout=0.05) as kv:
            engine = kv._backend._engine
            release = threading.Event()
            flush, engine.flush = engine.flush, lambda ticket=None: release.wait(30)
            try:
                with pytest.raises(pytikv.DeadlineExceeded) as caught:
                    await kv.put(b"k", b"v")
            finally:
                release.set()
                engine.flush = flush
            assert caught.value.outcome is pytikv.Outcome.UNDETERMINED
            assert await kv.get(b"k") == b"v"

    asyncio.run(body())


@pytest.mark.parametrize(
    "call",
    [
        lambda kv: kv.get("k"),
        lambda kv: kv.get(bytearray(b"k")),
        lambda kv: kv.get(None),
        lambda kv: kv.put(b"k", "v"),
        lambda kv: kv.put(b"k", None),
        lambda kv: kv.put(b"k", b"v", ttl=1.5),
        lambda kv: kv.put(b"k", b"v", ttl=True),
        lambda kv: kv.put(b"k", b"v", "60"),
        lambda kv: kv.delete("k"),
        lambda kv: kv.exists(1),
        lambda kv: kv.batch_get(b"abc"),
        lambda kv: kv.batch_get(["a"]),
        lambda kv: kv.batch_get(7),
        lambda kv: kv.batch_put([b"ab"]),
        lambda kv: kv.batch_put({"a": b"1"}),
        lambda kv: kv.batch_put([(b"a", b"1", 2, 3)]),
        lambda kv: kv.batch_put(b"x"),
        lambda kv: kv.batch_delete("ab"),
        lambda kv: kv.scan("a"),
        lambda kv: kv.scan(b"a", limit="3"),
        lambda kv: kv.scan_prefix("a"),
        lambda kv: kv.batch_scan(b"ab", each_limit=1),
        lambda kv: kv.batch_scan([b"ab"], each_limit=1),
        lambda kv: kv.delete_range("a", "b"),
        lambda kv: kv.delete_prefix("a"),
        lambda kv: kv.compare_and_swap("k", None, b"v"),
        lambda kv: kv.compare_and_swap(b"k", "x", b"v"),
        lambda kv: kv.put_if_absent(b"k", 1),
        lambda kv: kv.checksum(1, 2),
        lambda kv: kv.coprocessor(1, "x", [], b""),
    ],
)
def test_wrong_types(call) -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as kv, pytest.raises(WrongType) as caught:
        call(kv)
    assert isinstance(caught.value, (TypeError, ValueError))


@pytest.mark.parametrize(
    "call",
    [
        lambda kv: kv.put(b"k", b"v", ttl=-1),
        lambda kv: kv.put(b"k", b"v", ttl=1 << 64),
        lambda kv: kv.scan(limit=-1),
        lambda kv: kv.scan(batch_size=0),
        lambda kv: kv.scan(batch_size=20_000),
        lambda kv: kv.batch_scan([(None, None)], each_limit=-1),
        lambda kv: kv.delete_prefix(b""),
        lambda kv: kv.batch_put([(b"a", b"1", 2)], ttl=3),
        lambda kv: kv.compare_and_swap(b"k", None, None),
        lambda kv: kv.compare_and_swap(b"k", b"v", None, ttl=3),
    ],
)
def test_values_out_of_range(call) -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as kv, pytest.raises(InvalidArgument):
        call(kv)


@pytest.mark.parametrize("options", [{"keyspace": "x"}, {"max_connections": 3}, {"timeot": 1}, {"priority": "urgent"}])
def test_options_of_views(options) -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as kv, pytest.raises(ConfigError):
        kv.with_options(**options)


def test_a_closed_store_cannot_be_reached_by_a_race() -> None:
    kv = pytikv.RawClient.connect("embedded://:memory:")
    stop = time.monotonic() + 5
    seen: list[type] = []

    def read() -> None:
        while time.monotonic() < stop:
            try:
                kv.get(b"k")
            except pytikv.TikvError as error:
                seen.append(type(error))
                return

    thread = threading.Thread(target=read)
    thread.start()
    with contextlib.suppress(pytikv.TikvError):
        kv.put(b"k", b"v")
    kv.close()
    thread.join(10)
    assert seen in ([pytikv.ClientClosed], [StorageError])
