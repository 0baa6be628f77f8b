"""A snapshot's scan for locks steps over none of those that are gone. (That it finds all there are:
`test_engine_stateful`.)"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pytikv.errors import StorageError
from pytikv.server.engine.interface import CF_LOCK, DELETE, DELETE_RANGE, PUT, WriteBatch
from pytikv.server.engine.lock_keys import FEW, LockKeys
from pytikv.server.engine.rocks import RocksEngine


def walked(snapshot: Any) -> bool:
    """Tell whether a scan of the locks moved the snapshot's iterator: what steps over deleted keys."""
    view = snapshot._views[CF_LOCK]
    view.user = None
    list(snapshot.scan(CF_LOCK))
    list(snapshot.scan(CF_LOCK, b"a", b"b", reverse=True))
    return view.user is not None


def test_scans_step_over_no_locks_that_are_gone(tmp_path: Path) -> None:
    engine = RocksEngine(str(tmp_path / "db"))
    engine.snapshot().close()
    keys = [b"a%05d" % i for i in range(2000)]
    for key in keys:
        engine.put(CF_LOCK, key, b"lock")
    many = engine.snapshot()
    assert len(list(many.scan(CF_LOCK))) == len(keys)
    assert walked(many)
    batch = WriteBatch()
    for key in keys[2:-1]:
        batch.delete(CF_LOCK, key)
    engine.write(batch)
    engine.delete(CF_LOCK, keys[1])
    few = engine.snapshot()
    assert [key for key, _ in few.scan(CF_LOCK)] == [keys[0], keys[-1]]
    assert [key for key, _ in few.scan(CF_LOCK, keys[0], keys[-1], reverse=True)] == [keys[0]]
    assert not walked(few)
    assert engine.number(CF_LOCK, "rocksdb.num-deletes-active-mem-table") == len(keys) - 2
    engine.write(_cleared())
    none = engine.snapshot()
    assert list(none.scan(CF_LOCK)) == []
    assert not walked(none)
    for snapshot in (many, few, none):
        snapshot.close()
    engine.close()


def _cleared() -> WriteBatch:
    batch = WriteBatch()
    batch.delete_range(CF_LOCK, b"", b"")
    return batch


def test_locks_of_an_earlier_life_are_known(tmp_path: Path) -> None:
    engine = RocksEngine(str(tmp_path / "db"))
    engine.put(CF_LOCK, b"left", b"lock")
    engine.close()
    engine = RocksEngine(str(tmp_path / "db"))
    engine.put(CF_LOCK, b"new", b"lock")
    snapshot = engine.snapshot()
    engine.delete(CF_LOCK, b"left")
    assert [key for key, _ in snapshot.scan(CF_LOCK)] == [b"left", b"new"]
    assert not walked(snapshot)
    snapshot.close()
    engine.close()


def test_few_is_a_bound_and_failures_are_no_answers() -> None:
    keys = LockKeys()
    keys.apply([(PUT, CF_LOCK, b"seen by the walk", b"")])
    assert keys.few(lambda: [b"k"]) == (b"k",)
    keys.apply([(PUT, CF_LOCK, b"%d" % i, b"") for i in range(FEW)] + [(PUT, "write", b"other", b"")])
    assert keys.few(lambda: []) is None
    keys.apply([(DELETE_RANGE, CF_LOCK, b"0", b":")])
    assert keys.few(lambda: []) == (b"k",)
    keys.forget()
    assert keys.few(lambda: [b"k"]) is None


def test_a_walk_that_fails_leaves_the_keys_unknown() -> None:
    def damaged() -> list[bytes]:
        raise StorageError("damaged")

    keys = LockKeys()
    assert keys.few(damaged) is None
    assert keys.few(lambda: [b"k"]) is None


def test_a_failed_write_makes_snapshots_walk(tmp_path: Path) -> None:
    engine = RocksEngine(str(tmp_path / "db"))
    engine.snapshot().close()
    engine._write_failed(CF_LOCK, OSError("the disk is gone"))
    snapshot = engine.snapshot()
    assert list(snapshot.scan(CF_LOCK)) == []
    assert walked(snapshot)
    snapshot.close()
    engine.close()


def test_a_set_that_was_large_is_made_small_again() -> None:
    keys = LockKeys()
    assert keys.few(lambda: []) == ()
    many = [b"%d" % i for i in range(10_000)]
    keys.apply([(PUT, CF_LOCK, key, b"") for key in many])
    keys.apply([(DELETE, CF_LOCK, key, b"") for key in many[1:]])
    assert keys.few(lambda: []) == (b"0",)
    assert sys.getsizeof(keys._keys) == sys.getsizeof({b"0"})
