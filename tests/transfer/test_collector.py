"""Thresholds of the collector are raised for a block and put back."""

from __future__ import annotations

import gc

import pytest

from pytikv.transfer.collector import fewer_collections


def test_raised_inside_and_put_back() -> None:
    before = gc.get_threshold()
    with pytest.raises(KeyError), fewer_collections():
        assert gc.get_threshold()[0] > before[0]
        raise KeyError
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
