"""Thresholds of the collector are raised for a block and put back."""

from __future__ import annotations

import gc

import pytest

from pytikv.transfer.collector import fewer_collections


def look_and_fail(before: int) -> None:
    with fewer_collections():
        assert gc.get_threshold()[0] > before
        raise KeyError


def test_raised_inside_and_put_back() -> None:
    before = gc.get_threshold()
    with pytest.raises(KeyError):
        look_and_fail(before[0])
    assert gc.get_threshold() == before


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    try:
        before = gc.get_threshold()
        with fewer_collections():
            assert gc.get_threshold() == before
            assert not gc.isenabled()
    finally:
        gc.enable()
