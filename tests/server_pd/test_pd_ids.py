"""Ids are unique over crashes, and the disk is written once in a thousand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.server.pd.ids import STEP, IdAllocator


def test_reserve_before_use():
    ids = IdAllocator()
    with pytest.raises(ValueError, match="reserve"):
        ids.allocate()
    assert ids.needs_end(1) == STEP
    ids.end_saved(STEP)
    assert ids.needs_end(1) is None
    assert ids.allocate() == 1
    assert ids.allocate(10) == 11
    assert ids.needs_end(STEP) == 2 * STEP
    assert ids.needs_end(5 * STEP) == 6 * STEP


@given(st.lists(st.one_of(st.integers(1, 2500), st.none()), max_size=40))
def test_unique_over_crashes(steps):
    disk, last = 0, 0
    ids = IdAllocator()
    for count in steps:
        if count is None:
            ids = IdAllocator(disk)
            continue
        end = ids.needs_end(count)
        if end is not None:
            assert end > disk
            disk = end
            ids.end_saved(end)
        got = ids.allocate(count)
        assert got - count >= last
        assert got <= disk
        last = got
