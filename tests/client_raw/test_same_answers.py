"""One suite, two backends: the embedded store and a server on real sockets give the same answers, in every mode."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import pytikv
from pytikv import BatchError, InvalidArgument, UnsupportedByServer

BACKENDS = [(backend, mode) for mode in ("1", "1ttl", "2") for backend in ("memory", "disk", "served")]


@pytest.fixture(params=BACKENDS, ids=lambda param: f"{param[0]}-{param[1]}")
def kv(request, tmp_path, serving) -> Iterator[pytikv.RawClient]:
    backend, mode = request.param
    if backend == "served":
        with serving(mode) as server, server.connect() as client:
            yield client
        return
    place = ":memory:" if backend == "memory" else f"{tmp_path}/db?sync=off"
    ttl = True if mode == "1ttl" else None
    with pytikv.RawClient.connect(f"embedded://{place}", api_version=int(mode[0]), ttl=ttl) as client:
        yield client


def test_single_keys(kv) -> None:
    assert kv.get(b"k") is None
    kv.put(b"k", b"v")
    kv.put(b"", b"of the empty key")
    kv.put(b"e", b"")
    assert (kv.get(b"k"), kv.get(b""), kv.get(b"e")) == (b"v", b"of the empty key", b"")
    assert (kv.exists(b"e"), kv.exists(b"x")) == (True, False)
    kv.delete(b"k")
    kv.delete(b"k")
    assert kv.get(b"k") is None


def test_batches_and_scans(kv) -> None:
    keys = [b"%04d" % n for n in range(1500)]
    kv.batch_put((key, b"v" + key) for key in keys)
    assert list(kv.batch_get([keys[7], b"x", keys[3], keys[7]])) == [keys[7], keys[3]]
    assert kv.batch_get(keys) == {key: b"v" + key for key in keys}
    for size in (1, 100, 10_240):
        assert [k for k, _ in kv.scan(b"0100", b"0150", batch_size=size)] == keys[100:150]
        assert [k for k, _ in kv.scan(b"0100", b"0150", batch_size=size, reverse=True)] == keys[100:150][::-1]
    assert [k for k, _ in kv.scan(reverse=True, limit=3)] == keys[:-4:-1]
    assert list(kv.scan(b"0007", keys_only=True, limit=1)) == [(b"0007", b"")]
    assert [k for k, _ in kv.scan_prefix(b"014")] == keys[140:150]
    assert list(kv.scan(b"2", b"1")) == []
    assert [len(part) for part in kv.batch_scan([(None, None), (b"0001", b"0003"), (b"z", None)], each_limit=5)] == [
        5,
        2,
        0,
    ]
    kv.batch_delete(keys[:1000])
    kv.delete_range(b"1000", b"1400")
    kv.delete_prefix(b"149")
    assert [k for k, _ in kv.scan()] == keys[1400:1490]
    assert kv.checksum().total_kvs == 90
    kv.delete_range(None, None)
    assert list(kv.scan()) == []


def test_swaps(kv) -> None:
    assert kv.compare_and_swap(b"k", None, b"1") == (True, None)
    assert kv.compare_and_swap(b"k", b"0", b"2") == (False, b"1")
    assert kv.compare_and_swap(b"k", b"1", b"2", ttl=pytikv.KEEP) == (True, b"1")
    assert kv.put_if_absent(b"k", b"3") == b"2"
    assert kv.compare_and_swap(b"k", b"2", None) == (True, b"2")
    assert kv.put_if_absent(b"k", b"3") is None


def test_reports(kv) -> None:
    with pytest.raises(BatchError) as caught:
        kv.batch_put({b"a": b"1", b"k" * 9000: b"2", b"b": b"3"})
    assert set(caught.value.failed) == {b"k" * 9000}
    assert kv.batch_get([b"a", b"b"]) == {b"a": b"1", b"b": b"3"}
    with pytest.raises(InvalidArgument):
        kv.put(b"k" * 9000, b"")
    with pytest.raises(UnsupportedByServer):
        kv.coprocessor("x", "1", [(b"a", b"b")], b"")


def test_a_batch_larger_than_one_entry(kv) -> None:
    kv.batch_put({b"%02d" % n: b"x" * 1_000_000 for n in range(20)})
    assert len(list(kv.scan(keys_only=True))) == 20
    with pytest.raises(InvalidArgument):
        kv.put(b"k", b"x" * (9 << 20))


def test_ttl(kv, request) -> None:
    if request.node.callspec.params["kv"][1] == "1":
        with pytest.raises(UnsupportedByServer):
            kv.put(b"k", b"v", ttl=1)
        with pytest.raises(UnsupportedByServer):
            kv.get_ttl(b"k")
        kv.put(b"k", b"v", ttl=0)
        return
    kv.put(b"k", b"v", ttl=100)
    kv.batch_put([(b"a", b"1", 50), (b"b", b"2")])
    assert kv.get_ttl(b"k") in (98, 99, 100)
    assert kv.get_ttl(b"a") in (48, 49, 50)
    assert kv.get_ttl(b"b") is None
    assert kv.get_ttl(b"none") is None
    kv.compare_and_swap(b"k", b"v", b"w", ttl=pytikv.KEEP)
    assert kv.get_ttl(b"k") in (97, 98, 99, 100)
    kv.compare_and_swap(b"k", b"w", b"x")
    assert kv.get_ttl(b"k") is None
    kv.batch_put({b"c": b"1", b"d": b"2"}, ttl=70)
    assert kv.get_ttl(b"d") in (68, 69, 70)


def test_column_families(kv) -> None:
    if kv.config.api_version == 2:
        with pytest.raises(pytikv.ConfigError, match="column families"):
            kv.with_options(cf="write")
        return
    other = kv.with_options(cf="write")
    other.put(b"k", b"w")
    assert (kv.get(b"k"), other.get(b"k")) == (None, b"w")
    other.delete(b"k")
    with pytest.raises(InvalidArgument):
        kv.with_options(cf="nope").get(b"k")


def test_atomic_mode(kv) -> None:
    atomic = kv.with_options(atomic=True)
    atomic.put(b"k", b"v")
    atomic.batch_put({b"a": b"1"})
    atomic.batch_delete([b"a"])
    atomic.delete(b"x")
    assert dict(kv.scan()) == {b"k": b"v"}
    threads = 4
    rounds = 25

    def count_up() -> None:
        for _ in range(rounds):
            while True:
                present = kv.get(b"n")
                if kv.compare_and_swap(b"n", present, b"%d" % (int(present or 0) + 1)).swapped:
                    break

    workers = [threading.Thread(target=count_up) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert kv.get(b"n") == b"%d" % (threads * rounds)
