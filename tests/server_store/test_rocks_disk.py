"""What can go wrong with a directory, and what must survive a kill."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pytikv.errors import ConfigError, Outcome, StorageError
from pytikv.server.engine.interface import WriteBatch
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.meta import EngineMeta, check_format, prefix_end, stored_api_version
from pytikv.server.engine.rocks import RocksEngine


def fill(path: Path, *, compact: bool = False) -> None:
    engine = RocksEngine(str(path))
    batch = WriteBatch()
    for i in range(20_000):
        batch.put("default", b"%08d" % i, os.urandom(60))
    engine.write(batch, sync=True)
    if compact:
        engine.compact("default")
    engine.close()


def damage(path: Path, at: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 0xFF
    path.write_bytes(data)


def run_child(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args], capture_output=True, text=True, timeout=60, check=False
    )


def test_reopen_finds_everything(tmp_path: Path) -> None:
    path = tmp_path / "a b ü" / "db"
    engine = RocksEngine(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    engine.put("default", b"k", b"v")
    engine.close()
    engine = RocksEngine(str(path))
    assert engine.get("default", b"k") == b"v"
    engine.close()


def test_open_twice_in_one_process(tmp_path: Path) -> None:
    engine = RocksEngine(str(tmp_path / "db"))
    (tmp_path / "link").symlink_to(tmp_path / "db")
    for path in ("db", "link"):
        with pytest.raises(StorageError, match="in use by this process"):
            RocksEngine(str(tmp_path / path))
    engine.close()
    RocksEngine(str(tmp_path / "db")).close()


def test_open_in_another_process_names_the_holder(tmp_path: Path) -> None:
    engine = RocksEngine(str(tmp_path / "db"))
    child = run_child(
        """
        import sys
        from pytikv.errors import StorageError
        from pytikv.server.engine.rocks import RocksEngine
        try:
            RocksEngine(sys.argv[1])
        except StorageError as error:
            print(error)
        """,
        str(tmp_path / "db"),
    )
    assert f"in use by process {os.getpid()}" in child.stdout, child.stderr
    engine.put("default", b"k", b"still ours")
    engine.close()


def test_a_forked_child_can_neither_use_nor_open_it(tmp_path: Path) -> None:
    child = run_child(
        """
        import os, sys
        from pytikv.errors import StorageError
        from pytikv.server.engine.rocks import RocksEngine
        engine = RocksEngine(sys.argv[1])
        engine.put("default", b"k", b"v")
        child = os.fork()
        if child == 0:
            for call in (
                lambda: engine.put("default", b"k", b"x"),
                lambda: engine.get("default", b"k"),
                lambda: RocksEngine(sys.argv[1]),
            ):
                try:
                    call()
                except StorageError as error:
                    print(error, flush=True)
            engine.close()
            sys.exit(0)  # with all that a dying interpreter frees
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        engine.put("default", b"k", b"w")
        engine.close()
        print(os.getpid())
        """,
        str(tmp_path / "db"),
    )
    *refusals, status, pid = child.stdout.split("\n")[:-1]
    assert status == "0", child.stderr
    assert ["forked from" in refusals[0], "forked from" in refusals[1]] == [True, True]
    assert f"in use by process {pid}" in refusals[2]


def test_stale_lock_file_does_not_block(tmp_path: Path) -> None:
    child = run_child(
        """
        import os, sys
        from pytikv.server.engine.rocks import RocksEngine
        engine = RocksEngine(sys.argv[1])
        engine.put("default", b"k", b"v")
        os.kill(os.getpid(), 9)
        """,
        str(tmp_path / "db"),
    )
    assert child.returncode == -signal.SIGKILL
    engine = RocksEngine(str(tmp_path / "db"))
    assert engine.get("default", b"k") == b"v"
    engine.close()


def test_everything_acknowledged_survives_kill(tmp_path: Path) -> None:
    code = """
        import sys, threading
        from pytikv.server.engine.rocks import RocksEngine
        engine = RocksEngine(sys.argv[1])
        lock = threading.Lock()
        def work(n):
            for i in range(100_000):
                key = b"%s-%d-%d" % (sys.argv[2].encode(), n, i)
                engine.flush(engine.put("default", key, key))
                with lock:
                    print(key.decode(), flush=True)
        for n in range(4):
            threading.Thread(target=work, args=(n,), daemon=True).start()
        threading.Event().wait()
    """
    acknowledged: list[str] = []
    for life in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "db"), str(life)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        with process.stdout as answers:
            acknowledged += [answers.readline().strip() for _ in range(100)]
            process.kill()
            acknowledged += answers.read().split("\n")[:-1]
        process.wait()
    engine = RocksEngine(str(tmp_path / "db"))
    assert len(acknowledged) >= 300
    assert [key for key in acknowledged if engine.get("default", key.encode()) != key.encode()] == []
    engine.close()


@pytest.mark.parametrize("name", ["x\0y", "n" * 300])
def test_impossible_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError):
        RocksEngine(str(tmp_path) + "/" + name)


def test_path_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="is a file, not a directory"):
        RocksEngine(str(tmp_path / "file"))


def test_directory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:  # root may write anywhere: chmod would not show it
        if str(path).endswith("pytikv.lock"):
            raise PermissionError(13, "Permission denied")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=r"cannot write in .*Permission denied"):
        RocksEngine(str(tmp_path / "db"))


def test_damaged_data_file_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "db", compact=True)
    data_file = max((tmp_path / "db").glob("*.sst"), key=lambda path: path.stat().st_size)
    damage(data_file)
    engine = RocksEngine(str(tmp_path / "db"))
    try:
        with pytest.raises(StorageError, match=data_file.name):
            list(engine.scan("default"))
        with pytest.raises(StorageError, match=r"corrupted.*checksum"):
            list(engine.scan("default", reverse=True))
        with pytest.raises(StorageError, match=data_file.name):
            [engine.get("default", b"%08d" % i) for i in range(20_000)]
    finally:
        engine.close()


def unclean(path: Path) -> Path:
    """Make a store whose process was killed; return its log."""
    child = run_child(
        """
        import os, sys
        from pytikv.server.engine.rocks import RocksEngine
        engine = RocksEngine(sys.argv[1])
        for i in range(2000):
            engine.put("default", b"%08d" % i, b"v" * 100)
        os.kill(os.getpid(), 9)
        """,
        str(path),
    )
    assert child.returncode == -signal.SIGKILL
    return max(path.glob("*.log"), key=lambda log: log.stat().st_size)


def test_damage_within_the_log_is_refused(tmp_path: Path) -> None:
    log = unclean(tmp_path / "db")
    damage(log)
    with pytest.raises(StorageError, match=log.name):
        RocksEngine(str(tmp_path / "db"))
    damage(log)  # back to what it was: nothing was lost by the refusal
    engine = RocksEngine(str(tmp_path / "db"))
    assert sum(1 for _ in engine.scan("default")) == 2000
    engine.close()


def test_torn_tail_of_the_log_is_dropped(tmp_path: Path) -> None:
    log = unclean(tmp_path / "db")
    os.truncate(log, log.stat().st_size - 50)
    engine = RocksEngine(str(tmp_path / "db"))
    assert sum(1 for _ in engine.scan("default")) == 1999
    engine.close()


@pytest.mark.parametrize("pattern", ["MANIFEST-*", "CURRENT", "*.sst"])
def test_damaged_or_missing_administration(tmp_path: Path, pattern: str) -> None:
    fill(tmp_path / "db", compact=True)
    victim = max((tmp_path / "db").glob(pattern), key=lambda path: path.stat().st_size)
    if pattern == "CURRENT":
        victim.write_bytes(b"")
    elif pattern == "*.sst":
        victim.unlink()
    else:
        damage(victim)
    with pytest.raises(StorageError, match=victim.name):
        RocksEngine(str(tmp_path / "db"))


def test_disk_full_makes_it_read_only(tmp_path: Path) -> None:
    child = run_child(
        """
        import os, resource, signal, sys
        from pytikv.errors import Outcome, StorageError
        from pytikv.server.engine.rocks import RocksEngine
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        engine = RocksEngine(sys.argv[1])
        engine.put("default", b"before", b"there")
        engine.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        outcomes = []
        for i in range(20):
            try:
                engine.put("default", b"%d" % i, b"v" * 50_000)
            except StorageError as error:
                outcomes.append(error.outcome)
        assert outcomes[0] is Outcome.UNDETERMINED, outcomes
        assert set(outcomes[1:]) == {Outcome.NOT_APPLIED}, outcomes
        assert engine.get("default", b"before") == b"there"
        assert engine.get("default", b"0") == b"v" * 50_000
        try:
            engine.put("default", b"x", b"")
        except StorageError as error:
            print(error)
        os._exit(0)
        """,
        str(tmp_path / "db"),
    )
    assert child.returncode == 0, child.stderr
    assert "read-only after a failed write" in child.stdout
    engine = RocksEngine(str(tmp_path / "db"))
    assert engine.get("default", b"before") == b"there"
    engine.close()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 200_000


def test_a_failed_flush_makes_it_read_only(tmp_path: Path) -> None:
    engine = RocksEngine(str(tmp_path / "db"))
    engine.put("default", b"k", b"v")
    real = engine._db

    class Broken:
        def flush_wal(self, sync: bool) -> None:
            raise Exception("IO error: While fdatasync: No space left on device")

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    engine._db = Broken()  # type: ignore[assignment]
    with pytest.raises(StorageError, match="disk full") as caught:
        engine.flush()
    assert caught.value.outcome is Outcome.UNDETERMINED
    engine._db = real
    with pytest.raises(StorageError, match="disk full"):
        engine.flush()  # never again: a later flush says nothing about what the first one lost
    for call in (lambda: engine.put("default", b"l", b""), lambda: engine.delete("default", b"k")):
        with pytest.raises(StorageError, match="read-only") as caught:
            call()
        assert caught.value.outcome is Outcome.NOT_APPLIED
    assert engine.get("default", b"k") == b"v"
    assert list(engine.scan("default")) == [(b"k", b"v")]
    engine.close()


# --- the directory's own description ----------------------------------------------------------------------------------


def test_api_version_is_kept() -> None:
    engine = MemoryEngine()
    assert stored_api_version(engine) is None
    check_format(engine, "2")
    check_format(engine, "2")
    assert stored_api_version(engine) == "2"
    with pytest.raises(ConfigError, match="api_version 2 and cannot be opened with api_version 1"):
        check_format(engine, "1")


def test_newer_format_is_refused() -> None:
    engine = MemoryEngine()
    check_format(engine, "1")
    EngineMeta(engine).write({b"store/format_version": b"7"}, sync=True)
    with pytest.raises(StorageError, match="format version 7, and this pytikv reads version 1"):
        check_format(engine, "1")


def test_meta_is_a_small_storage() -> None:
    meta = EngineMeta(MemoryEngine())
    meta.write({b"a/1": b"x", b"a/2": b"y", b"b": b"z"}, sync=False)
    meta.write({b"a/1": None}, sync=True)
    assert meta.get(b"a/1") is None
    assert meta.scan(b"a/") == [(b"a/2", b"y")]
    assert prefix_end(b"\xff\xff") == b""


def test_memory_after_a_crash_has_what_was_flushed() -> None:
    engine = MemoryEngine(keep_durable=True)
    engine.put("default", b"a", b"1")
    engine.flush()
    engine.put("default", b"a", b"2")
    engine.put("lock", b"b", b"")
    survivor = engine.after_crash()
    assert list(survivor.scan("default")) == [(b"a", b"1")]
    assert list(survivor.scan("lock")) == []
    survivor.put("default", b"a", b"3")
    assert list(survivor.after_crash().scan("default")) == [(b"a", b"1")]
    with pytest.raises(StorageError, match="closed"):
        engine.get("default", b"a")
