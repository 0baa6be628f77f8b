"""What type checkers see of the public API. Checked by test_typing.py, never run."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import pytikv


def blocking(kv: pytikv.RawClient) -> None:
    assert_type(pytikv.RawClient.connect("embedded://:memory:"), pytikv.RawClient)
    assert_type(pytikv.RawClient.connect(["pd1:2379", "pd2:2379"], timeout=1.0), pytikv.RawClient)
    with kv as same:
        assert_type(same, pytikv.RawClient)
    assert_type(kv.get(b"k"), bytes | None)
    assert_type(kv.put(b"k", b"v", ttl=60), None)
    assert_type(kv.delete(b"k"), None)
    assert_type(kv.exists(b"k"), bool)
    assert_type(kv.get_ttl(b"k"), int | None)
    assert_type(kv.batch_get([b"a"]), dict[bytes, bytes])
    assert_type(kv.batch_put({b"a": b"1"}, ttl=None), None)
    assert_type(kv.batch_put([(b"a", b"1"), (b"b", b"2", 60)]), None)
    pairs: list[tuple[bytes, bytes]] = [(b"a", b"1")]
    with_ttl: list[tuple[bytes, bytes, int | None]] = [(b"a", b"1", None)]
    kv.batch_put(pairs)
    kv.batch_put(with_ttl)
    kv.batch_put((key, value) for key, value in pairs)
    kv.batch_put(dict(pairs))
    assert_type(kv.batch_delete([b"a"]), None)
    assert_type(kv.scan(b"a", None, limit=3, reverse=True), Iterator[tuple[bytes, bytes]])
    assert_type(kv.scan_prefix(b"a"), Iterator[tuple[bytes, bytes]])
    assert_type(kv.batch_scan([(b"a", None)], each_limit=1), list[list[tuple[bytes, bytes]]])
    assert_type(kv.delete_range(b"a", None), None)
    assert_type(kv.delete_prefix(b"a"), None)
    done = kv.compare_and_swap(b"k", None, b"v", ttl=pytikv.KEEP)
    assert_type(done, pytikv.CompareAndSwap)
    assert_type(done.swapped, bool)
    assert_type(done.previous, bytes | None)
    assert_type(kv.put_if_absent(b"k", b"v"), bytes | None)
    assert_type(kv.checksum(), pytikv.Checksum)
    assert_type(kv.with_options(timeout=1.0, atomic=True), pytikv.RawClient)
    assert_type(kv.config, pytikv.ClientConfig)
    assert_type(kv.close(), None)


async def asynchronous() -> None:
    kv = await pytikv.AsyncRawClient.connect("embedded://:memory:")
    assert_type(kv, pytikv.AsyncRawClient)
    async with kv as same:
        assert_type(same, pytikv.AsyncRawClient)
    assert_type(await kv.get(b"k"), bytes | None)
    assert_type(await kv.batch_get([b"a"]), dict[bytes, bytes])
    assert_type(kv.scan(), AsyncIterator[tuple[bytes, bytes]])
    async for key, value in kv.scan_prefix(b"a"):
        assert_type(key, bytes)
        assert_type(value, bytes)
    assert_type(await kv.compare_and_swap(b"k", b"1", None), pytikv.CompareAndSwap)
    assert_type(kv.with_options(cf="write"), pytikv.AsyncRawClient)
    await kv.close()


def errors(error: pytikv.TikvError, batch: pytikv.BatchError) -> None:
    assert_type(error.outcome, pytikv.Outcome)
    assert_type(error.retryable, bool)
    assert_type(error.code, str)
    assert_type(batch.failed, dict[bytes, pytikv.TikvError])
    with pytikv.deadline(0.5) as bound:
        assert_type(bound, pytikv.deadline)
    assert_type(pytikv.Timestamp(7).physical_ms, int)
    pytikv.ClientConfig(tls=pytikv.TLS(ca="ca.pem"), replica_read="mixed")


def wrong(kv: pytikv.RawClient) -> None:
    kv.get("k")  # type: ignore[arg-type]
    kv.put(b"k", "v")  # type: ignore[arg-type]
    kv.put(b"k", b"v", ttl=1.5)  # type: ignore[arg-type]
    kv.scan(b"a", b"b", 3)  # type: ignore[call-arg]
    kv.batch_put(["a"])  # type: ignore[list-item]
    pytikv.ClientConfig(replica_read="nearest")  # type: ignore[arg-type]
