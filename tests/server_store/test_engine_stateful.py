"""Both engines against a dict, with snapshots that must not move."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule

from pytikv.server.engine import memory
from pytikv.server.engine.interface import Engine, Reader, Snapshot, WriteBatch
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.rocks import RocksEngine

KEYS = st.binary(max_size=2) | st.sampled_from([b"", b"\x00", b"\xff", b"\xff\xff", b"\x80"])
CFS = st.sampled_from(["default", "lock", "write"])
Twin = dict[str, dict[bytes, bytes]]


def expected(twin: Twin, cf: str, start_key: bytes, end_key: bytes) -> list[tuple[bytes, bytes]]:
    return sorted((k, v) for k, v in twin[cf].items() if k >= start_key and (not end_key or k < end_key))


def agree(reader: Reader, twin: Twin, cf: str, start_key: bytes, end_key: bytes, at: bytes) -> None:
    pairs = expected(twin, cf, start_key, end_key)
    assert list(reader.scan(cf, start_key, end_key)) == pairs
    assert list(reader.scan(cf, start_key, end_key, reverse=True)) == pairs[::-1]
    assert reader.get(cf, at) == twin[cf].get(at)
    cursor = reader.cursor(cf, start_key, end_key)
    above = [pair for pair in pairs if pair[0] >= at]
    below = [pair for pair in pairs if pair[0] <= at]
    assert (cursor.key(), cursor.value()) == above[0] if cursor.seek(at) else not above
    if len(above) > 1:
        assert cursor.next()
        assert cursor.key() == above[1][0]
        assert cursor.prev()
        assert cursor.key() == above[0][0]
    assert (cursor.key(), cursor.value()) == below[-1] if cursor.seek_for_prev(at) else not below


class EngineMachine(RuleBasedStateMachine):
    snapshots: Bundle[tuple[Snapshot, Twin]] = Bundle("snapshots")
    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        self.twin: Twin = {"default": {}, "lock": {}, "write": {}}

    @rule(cf=CFS, key=KEYS, value=st.binary(max_size=3))
    def put(self, cf: str, key: bytes, value: bytes) -> None:
        self.engine.put(cf, key, value)
        self.twin[cf][key] = value

    @rule(cf=CFS, key=KEYS)
    def delete(self, cf: str, key: bytes) -> None:
        self.engine.delete(cf, key)
        self.twin[cf].pop(key, None)

    @rule(changes=st.lists(st.tuples(st.integers(0, 9), CFS, KEYS, KEYS), max_size=20))
    def write(self, changes: list[tuple[int, str, bytes, bytes]]) -> None:
        batch = WriteBatch()
        for kind, cf, key, value in changes:
            if kind == 0:
                batch.delete_range(cf, key, value)
            elif kind < 3:
                batch.delete(cf, key)
            else:
                batch.put(cf, key, value)
        for kind, cf, key, value in changes:
            if kind == 0:
                for old, _ in expected(self.twin, cf, key, value):
                    del self.twin[cf][old]
            elif kind < 3:
                self.twin[cf].pop(key, None)
            else:
                self.twin[cf][key] = value
        self.engine.write(batch)

    @rule(target=snapshots)
    def snapshot(self) -> tuple[Snapshot, Twin]:
        return self.engine.snapshot(), {cf: dict(pairs) for cf, pairs in self.twin.items()}

    @rule(pair=consumes(snapshots), cf=CFS, start_key=KEYS, end_key=KEYS, at=KEYS)
    def read_snapshot(self, pair: tuple[Snapshot, Twin], cf: str, start_key: bytes, end_key: bytes, at: bytes) -> None:
        agree(pair[0], pair[1], cf, start_key, end_key, at)
        pair[0].close()

    @rule(cf=CFS, start_key=KEYS, end_key=KEYS, at=KEYS)
    def read(self, cf: str, start_key: bytes, end_key: bytes, at: bytes) -> None:
        agree(self.engine, self.twin, cf, start_key, end_key, at)

    def teardown(self) -> None:
        self.engine.close()


class MemoryMachine(EngineMachine):
    @initialize()
    def open(self) -> None:
        self.engine = MemoryEngine()


class RocksMachine(EngineMachine):
    """On one store for all examples: opening one takes longer than an example."""

    shared: ClassVar[RocksEngine | None] = None

    @initialize()
    def open(self) -> None:
        if RocksMachine.shared is None:
            path = tempfile.mkdtemp()
            RocksMachine.shared = RocksEngine(path)
            atexit.register(shutil.rmtree, path)
        self.engine = RocksMachine.shared

    def teardown(self) -> None:
        batch = WriteBatch()
        for cf in self.twin:
            batch.delete_range(cf, b"", b"")
        self.engine.write(batch)


class SmallChunks(MemoryMachine):
    """The same with chunks so small that splitting and emptying them happens all the time."""

    @initialize()
    def open(self) -> None:
        self.chunk = memory._CHUNK
        memory._CHUNK = 4  # type: ignore[misc]  # the bound under test
        self.engine = MemoryEngine()

    def teardown(self) -> None:
        super().teardown()
        memory._CHUNK = self.chunk  # type: ignore[misc]


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSmallChunks = SmallChunks.TestCase
TestSmallChunks.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRocks = RocksMachine.TestCase
TestRocks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
