"""The write buffer against a dictionary: entries, stages, counts, views that stay as they were."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pytikv.client.txn.buffer import (
    LOCKED,
    LOCKED_EXISTS,
    MAX_KEY_BYTES,
    MUST_NOT_EXIST,
    BufferView,
    Kind,
    WriteBuffer,
)
from pytikv.errors import InvalidArgument, TransactionTooLarge

KEYS = st.binary(max_size=2)
Written = dict[bytes, bytes | None]  # None: deleted


def buffer(*, entry: int = 1 << 20, whole: int | None = None) -> WriteBuffer:
    return WriteBuffer(max_entry_bytes=entry, max_bytes=whole)


def in_range(written: Written, low: bytes, high: bytes, reverse: bool) -> list[tuple[bytes, bytes | None]]:
    keys = sorted((key for key in written if low <= key and (not high or key < high)), reverse=reverse)
    return [(key, written[key]) for key in keys]


def drain(view: BufferView, size: int) -> list[tuple[bytes, bytes | None]]:
    found = []
    while chunk := view.chunk(size):
        found += [(key, entry.value if entry.kind is Kind.PUT else None) for key, entry in chunk]
    return found


class BufferMachine(RuleBasedStateMachine):
    """Every operation on the buffer and on a twin of plain dictionaries; views are compared at the end of each run."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = buffer()
        self.twin: Written = {}
        self.locked: set[bytes] = set()
        self.stages: list[Written] = []
        self.views: list[tuple[BufferView, list[tuple[bytes, bytes | None]], list[tuple[bytes, bytes | None]]]] = []

    @rule(key=KEYS, value=st.binary(max_size=3))
    def put(self, key: bytes, value: bytes) -> None:
        self.buffer.put(key, value)
        self.twin[key] = value

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        self.buffer.delete(key)
        self.twin[key] = None

    @rule(key=KEYS)
    def lock(self, key: bytes) -> None:
        self.buffer.mark(key, add=LOCKED)
        self.locked.add(key)

    @rule()
    def stage(self) -> None:
        assert self.buffer.stage() == len(self.stages) + 1
        self.stages.append(dict(self.twin))

    @precondition(lambda self: self.stages)
    @rule(data=st.data(), keep=st.booleans())
    def leave(self, data: st.DataObject, keep: bool) -> None:
        number = data.draw(st.integers(1, len(self.stages)))
        if keep:
            self.buffer.release(number)
        else:
            self.buffer.undo(number)
            self.twin = self.stages[number - 1]
        del self.stages[number - 1 :]

    @rule(low=KEYS, high=KEYS, reverse=st.booleans())
    def look(self, low: bytes, high: bytes, reverse: bool) -> None:
        wanted = in_range(self.twin, low, high, reverse)
        self.views.append((self.buffer.view(low, high, reverse=reverse), wanted, []))

    @precondition(lambda self: self.views)
    @rule(data=st.data(), size=st.integers(1, 3))
    def go_on(self, data: st.DataObject, size: int) -> None:
        view, _, seen = data.draw(st.sampled_from(self.views))
        seen += [(key, entry.value if entry.kind is Kind.PUT else None) for key, entry in view.chunk(size)]

    @precondition(lambda self: not self.stages)
    @rule()
    def clear(self) -> None:
        self.buffer.clear()
        self.twin = {}
        self.locked = set()

    @invariant()
    def is_the_twin(self) -> None:
        written = {key: entry for key, entry in self.buffer.items() if entry.kind is not Kind.NONE}
        assert {k: e.value if e.kind is Kind.PUT else None for k, e in written.items()} == self.twin
        assert list(written) == sorted(self.twin)
        assert self.buffer.write_count == len(self.twin)
        assert self.buffer.byte_count == sum(len(key) + len(value or b"") for key, value in self.twin.items())
        assert {key for key, entry in self.buffer.items() if entry.flags & LOCKED} == self.locked

    def teardown(self) -> None:
        for view, wanted, seen in self.views:
            assert seen + drain(view, 2) == wanted


TestBuffer = BufferMachine.TestCase


def test_a_view_is_not_disturbed_by_sorting_many_new_keys() -> None:
    own = buffer()
    for number in range(0, 100, 2):
        own.put(b"%03d" % number, b"old")
    view = own.view(b"", b"", reverse=False)
    first = view.chunk(10)
    for number in range(100):
        own.put(b"%03d" % number, b"new")
    assert [entry.value for _, entry in first] == [b"old"] * 10
    assert drain(view, 7) == [(b"%03d" % number, b"old") for number in range(20, 100, 2)]


def test_flags_of_locks_outlive_an_undone_stage_and_others_do_not() -> None:
    own = buffer()
    stage = own.stage()
    own.put(b"k", b"v", add_flags=MUST_NOT_EXIST)
    own.mark(b"k", add=LOCKED | LOCKED_EXISTS)
    own.undo(stage)
    entry = own.get(b"k")
    assert entry is not None
    assert entry.kind is Kind.NONE
    assert entry.flags == LOCKED | LOCKED_EXISTS


def test_an_insert_stays_one_when_it_is_written_again() -> None:
    own = buffer()
    own.put(b"k", b"1", add_flags=MUST_NOT_EXIST)
    own.put(b"k", b"2")
    own.delete(b"k")
    assert own.flags(b"k") == MUST_NOT_EXIST


def test_limits_refuse_and_change_nothing() -> None:
    own = buffer(entry=10, whole=20)
    own.put(b"a", b"123456789")
    with pytest.raises(TransactionTooLarge, match="max_entry_bytes=10"):
        own.put(b"b", b"1234567890")
    own.put(b"b", b"123456789")
    with pytest.raises(TransactionTooLarge, match="max_txn_bytes=20"):
        own.put(b"c", b"")
    own.put(b"a", b"987654321")  # as large as what it replaces
    assert own.byte_count == 20
    assert own.write_count == 2
    with pytest.raises(InvalidArgument, match="65535 bytes"):
        buffer().put(b"x" * (MAX_KEY_BYTES + 1), b"")


def test_a_closed_stage_is_refused() -> None:
    own = buffer()
    outer = own.stage()
    own.stage()
    own.release(outer)
    with pytest.raises(InvalidArgument, match="closed"):
        own.undo(outer)
