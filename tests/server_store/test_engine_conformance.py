"""One suite for every engine."""

from __future__ import annotations

import threading

import pytest

from pytikv.errors import StorageError
from pytikv.server.engine.interface import CFS, Engine, WriteBatch

KEYS = [b"", b"\x00", b"\x00\x00", b"a", b"a\x00", b"aa", b"b", b"\xff", b"\xff" * 9, b"k" * 8192]


def fill(engine: Engine, cf: str = "default") -> list[tuple[bytes, bytes]]:
    for key in KEYS:
        engine.put(cf, key, b"v" + key)
    return [(key, b"v" + key) for key in sorted(KEYS)]


def test_get_put_delete(engine: Engine) -> None:
    assert engine.get("default", b"k") is None
    engine.put("default", b"k", b"1")
    engine.put("default", b"k", b"2")
    assert engine.get("default", b"k") == b"2"
    assert engine.getter("default")(b"k") == b"2"
    engine.delete("default", b"k")
    engine.delete("default", b"k")
    assert engine.get("default", b"k") is None
    assert engine.getter("default")(b"k") is None


def test_seeker_is_a_fast_first(engine: Engine) -> None:
    pairs = fill(engine)
    first = engine.seeker("default")
    for key in [*KEYS, b"a\x01", b"zz"]:
        assert first(key) == engine.first("default", key) == next(pair for pair in pairs if pair[0] >= key)
    assert first(b"\xff" * 10) is engine.first("default", b"\xff" * 10) is None
    engine.close()
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each engine's own
        first(b"a")
    assert "closed" in str(engine.error(raised.value))
    with pytest.raises(StorageError, match="closed"):
        engine.seeker("default")


def test_a_scan_keeps_its_place_when_a_cursor_moves_in_between(engine: Engine) -> None:
    pairs = fill(engine)
    snapshot = engine.snapshot()
    cursor = snapshot.cursor("default")
    seen = []
    for pair in snapshot.scan("default"):
        seen.append(pair)
        assert cursor.seek_to_last()
        assert list(snapshot.scan("default", b"aa", b"b")) == [pairs[KEYS.index(b"aa")]]
    assert seen == pairs


def test_empty_value_is_a_value(engine: Engine) -> None:
    engine.put("default", b"", b"")
    assert engine.get("default", b"") == b""
    assert list(engine.scan("default")) == [(b"", b"")]


def test_column_families_are_apart(engine: Engine) -> None:
    for cf in CFS:
        engine.put(cf, b"k", cf.encode())
    assert [engine.get(cf, b"k") for cf in CFS] == [cf.encode() for cf in CFS]


def test_unknown_column_family(engine: Engine) -> None:
    with pytest.raises(StorageError, match="no column family"):
        engine.get("nope", b"k")
    with pytest.raises(StorageError, match="no column family"):
        engine.put("nope", b"k", b"")
    with pytest.raises(StorageError, match="no column family"):
        engine.delete("nope", b"k")
    batch = WriteBatch()
    batch.put("default", b"k", b"")
    batch.put("nope", b"k", b"")
    with pytest.raises(StorageError, match="no column family"):
        engine.write(batch)
    assert engine.get("default", b"k") is None
    engine.put("default", b"k", b"still writable")


def test_scan_in_both_directions(engine: Engine) -> None:
    pairs = fill(engine)
    assert list(engine.scan("default")) == pairs
    assert list(engine.scan("default", reverse=True)) == pairs[::-1]


@pytest.mark.parametrize(
    ("start_key", "end_key"),
    [(b"a", b"b"), (b"a", b""), (b"", b"a"), (b"b", b"b"), (b"b", b"a"), (b"\xff" * 10, b""), (b"a\x00", b"aa\x00")],
)
def test_bounds(engine: Engine, start_key: bytes, end_key: bytes) -> None:
    pairs = [(k, v) for k, v in fill(engine) if k >= start_key and (not end_key or k < end_key)]
    assert list(engine.scan("default", start_key, end_key)) == pairs
    assert list(engine.scan("default", start_key, end_key, reverse=True)) == pairs[::-1]


def test_cursor(engine: Engine) -> None:
    for key in (b"b", b"d", b"f", b"h"):
        engine.put("default", key, key)
    cursor = engine.cursor("default", b"c", b"h")
    assert not cursor.valid()
    assert cursor.seek(b"a")
    assert cursor.key() == b"d"
    assert cursor.next()
    assert cursor.key() == cursor.value() == b"f"
    assert not cursor.next()
    assert not cursor.next()
    assert cursor.seek_for_prev(b"z")
    assert cursor.key() == b"f"
    assert cursor.seek_for_prev(b"e")
    assert cursor.key() == b"d"
    assert not cursor.prev()
    assert not cursor.prev()
    assert cursor.seek_for_prev(b"d")
    assert not cursor.seek_for_prev(b"c")
    assert cursor.seek_to_first()
    assert cursor.key() == b"d"
    assert cursor.seek_to_last()
    assert cursor.key() == b"f"
    assert not cursor.seek(b"g")


def test_cursor_of_an_empty_family(engine: Engine) -> None:
    cursor = engine.cursor("lock")
    assert not cursor.seek_to_first()
    assert not cursor.seek_to_last()
    assert not cursor.seek(b"a")
    assert not cursor.seek_for_prev(b"a")
    assert not cursor.next()
    assert not cursor.prev()


def test_batch_is_applied_in_order(engine: Engine) -> None:
    batch = WriteBatch()
    batch.put("default", b"a", b"1")
    batch.put("lock", b"a", b"l")
    batch.put("default", b"b", b"1")
    batch.delete_range("default", b"a", b"c")
    batch.put("default", b"b", b"2")
    batch.delete("lock", b"a")
    engine.write(batch)
    assert list(engine.scan("default")) == [(b"b", b"2")]
    assert list(engine.scan("lock")) == []


@pytest.mark.parametrize(("start_key", "end_key"), [(b"a", b"b"), (b"", b""), (b"aa", b""), (b"b", b"a"), (b"b", b"b")])
def test_delete_range(engine: Engine, start_key: bytes, end_key: bytes) -> None:
    pairs = fill(engine)
    fill(engine, "write")
    batch = WriteBatch()
    batch.delete_range("default", start_key, end_key)
    engine.write(batch)
    assert list(engine.scan("default")) == [(k, v) for k, v in pairs if k < start_key or (end_key and k >= end_key)]
    assert list(engine.scan("write")) == pairs


def test_delete_range_over_many_chunks(engine: Engine) -> None:
    batch = WriteBatch()
    for i in range(5000):
        batch.put("default", b"%05d" % i, b"v" * 10)
    engine.write(batch)
    batch = WriteBatch()
    batch.delete_range("default", b"00100", b"04900")
    engine.write(batch)
    assert len(list(engine.scan("default"))) == 200
    for i in range(100, 4900, 7):
        engine.put("default", b"%05d" % i, b"w")
    assert [key for key, _ in engine.scan("default", b"00099", b"00108")] == [b"00099", b"00100", b"00107"]


def test_snapshot_shows_one_moment_of_all_families(engine: Engine) -> None:
    pairs = fill(engine)
    engine.put("lock", b"k", b"old")
    snapshot = engine.snapshot()
    cursor = snapshot.cursor("default")
    batch = WriteBatch()
    batch.delete_range("default", b"", b"")
    batch.put("lock", b"k", b"new")
    batch.put("write", b"k", b"new")
    engine.write(batch)
    assert list(snapshot.scan("default")) == pairs
    assert list(snapshot.scan("default", reverse=True)) == pairs[::-1]
    assert snapshot.get("default", b"a") == b"va"
    assert snapshot.get("default", b"none") is None
    assert snapshot.get("lock", b"k") == b"old"
    assert snapshot.get("write", b"k") is None
    assert cursor.seek(b"aa")
    assert cursor.key() == b"aa"
    assert list(engine.scan("default")) == []
    snapshot.close()
    snapshot.close()
    with pytest.raises(StorageError, match="closed"):
        snapshot.get("default", b"a")


def test_cursors_of_one_snapshot_do_not_disturb_each_other(engine: Engine) -> None:
    for i in range(8):
        engine.put("default", b"%d" % i, b"v%d" % i)
    snapshot = engine.snapshot()
    batch = WriteBatch()
    batch.delete_range("default", b"", b"")
    engine.write(batch)
    up, down = snapshot.cursor("default", b"1", b"7"), snapshot.cursor("default", b"0", b"6")
    assert up.seek_to_first()
    assert down.seek_to_last()
    met = []
    while up.valid():
        met.append((up.key(), down.key(), up.value(), down.value()))
        up.next()
        down.prev()
        if not down.valid():
            break
    assert met == [(b"%d" % (1 + i), b"%d" % (5 - i), b"v%d" % (1 + i), b"v%d" % (5 - i)) for i in range(6)]


def test_scan_sees_the_moment_it_was_made(engine: Engine) -> None:
    pairs = fill(engine)
    scan = engine.scan("default")
    engine.put("default", b"new", b"")
    assert list(scan) == pairs


def test_tickets_and_flush(engine: Engine) -> None:
    first = engine.put("default", b"a", b"")
    second = engine.delete("default", b"a")
    assert second > first
    assert engine.ticket == second
    engine.flush(first)
    assert engine.durable_ticket >= first
    engine.flush()
    assert engine.durable_ticket == second
    batch = WriteBatch()
    batch.put("default", b"b", b"")
    third = engine.write(batch, sync=True)
    assert engine.durable_ticket == third


def test_estimates(engine: Engine) -> None:
    batch = WriteBatch()
    for i in range(4000):
        batch.put("default", b"%06d" % i, b"v" * 94)
    engine.write(batch)
    assert 3000 < engine.approximate_keys("default") < 5000
    assert 200_000 < engine.approximate_size("default") < 3_000_000
    engine.compact("default")


def test_closed_engine_refuses(engine: Engine) -> None:
    engine.put("default", b"a", b"")
    get = engine.getter("default")
    batch = WriteBatch()
    batch.put("default", b"b", b"")
    engine.close()
    engine.close()
    for call in (
        lambda: engine.get("default", b"a"),
        lambda: engine.put("default", b"a", b""),
        lambda: engine.delete("default", b"a"),
        lambda: engine.write(batch),
        lambda: engine.snapshot(),
        lambda: engine.cursor("default"),
        lambda: engine.scan("default"),
        lambda: engine.getter("default"),
    ):
        with pytest.raises(StorageError, match="closed"):
            call()
    with pytest.raises(Exception, match="closed") as caught:
        get(b"a")
    assert isinstance(engine.error(caught.value), StorageError)


def test_exclusive_keeps_writers_out(engine: Engine) -> None:
    order: list[str] = []
    with engine.exclusive():
        engine.put("default", b"k", b"1")
        writer = threading.Thread(target=lambda: (engine.put("default", b"k", b"2"), order.append("written")))
        writer.start()
        writer.join(0.05)
        assert engine.get("default", b"k") == b"1"
        order.append("left")
    writer.join()
    assert order == ["left", "written"]


def test_many_threads(engine: Engine) -> None:
    def work(n: int) -> None:
        for i in range(200):
            key = b"%d-%03d" % (n, i)
            ticket = engine.put("default", key, key)
            assert engine.get("default", key) == key
            if i % 50 == 0:
                engine.flush(ticket)
                assert engine.durable_ticket >= ticket
                assert sum(1 for _ in engine.scan("default", b"%d-" % n, b"%d." % n)) == i + 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(1 for _ in engine.scan("default")) == 1600
