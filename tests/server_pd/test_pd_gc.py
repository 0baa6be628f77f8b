"""Safe points: monotone, bounded by barriers, and the same after a restart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.server.pd.errors import PdError
from pytikv.server.pd.gc import GC_WORKER, Barrier, GcStates

FOREVER = (1 << 63) - 1


def test_gc_worker_moves_the_txn_safe_point_up_to_the_lowest_barrier():
    gc = GcStates()
    assert gc.update_service(GC_WORKER, FOREVER, 7, 100).safe_point == 7
    assert gc.update_service("br", 100, 3, 100).service_id == GC_WORKER  # below: not taken
    assert gc.barriers(100) == []
    assert gc.update_service("br", 100, 9, 100).safe_point == 7
    held = gc.update_service(GC_WORKER, FOREVER, 12, 100)
    assert (held.service_id, held.safe_point) == ("br", 9)
    assert gc.txn_safe_point == 9
    assert gc.update_service(GC_WORKER, FOREVER, 12, 200).safe_point == 12, "the barrier's time is over"
    with pytest.raises(PdError, match="ErrDecreasingTxnSafePoint"):
        gc.update_service(GC_WORKER, FOREVER, 11, 200)
    with pytest.raises(PdError, match="must be infinity"):
        gc.update_service(GC_WORKER, 10, 20, 200)
    with pytest.raises(PdError, match="barrierID"):
        gc.update_service("", 10, 20, 200)


def test_an_expired_barrier_does_not_come_back_with_the_clock():
    gc = GcStates()
    gc.update_service("br", 10, 5, 100)
    assert gc.barriers(110) == []
    assert gc.barriers(100) == []


def test_a_ttl_of_zero_or_less_removes():
    gc = GcStates()
    gc.update_service("br", FOREVER, 5, 100)
    assert [b.service_id for b in gc.barriers(100)] == ["br"]
    gc.update_service("br", -1, 0, 100)
    assert gc.barriers(100) == []


def test_gc_safe_point():
    gc = GcStates()
    gc.update_service(GC_WORKER, FOREVER, 7, 100)
    assert gc.update_gc_safe_point(5) == 5
    assert gc.update_gc_safe_point(3) == 5
    with pytest.raises(PdError, match="current value: 5, given: 8, current txn safe point: 7") as refused:
        gc.update_gc_safe_point(8)
    assert refused.value.type is None


def test_the_newer_calls_speak_of_the_same_states():
    gc = GcStates()
    assert gc.set_barrier("br", 9, 100, 100) == Barrier("br", 9, 200)
    assert gc.update_service("old", 50, 20, 100).safe_point == 0
    assert [b.service_id for b in gc.barriers(100)] == ["br", "old"]
    moved = gc.advance_txn_safe_point(12, 100)
    assert (moved.old, moved.new, moved.blocker) == (0, 9, Barrier("br", 9, 200))
    assert gc.delete_barrier("br", 100) == Barrier("br", 9, 200)
    assert gc.delete_barrier("br", 100) is None
    assert gc.delete_barrier("old", 200) is None, "its time is over"
    moved = gc.advance_txn_safe_point(12, 100)
    assert (moved.old, moved.new, moved.blocker) == (9, 12, None)
    assert gc.advance_gc_safe_point(12).new == gc.gc_safe_point == 12
    assert gc.set_barrier("forever", 12, FOREVER, 100).expires_at_s == FOREVER


def test_the_newer_calls_refuse_where_the_old_ones_keep_silent():
    gc = GcStates()
    gc.advance_txn_safe_point(10, 100)
    gc.advance_gc_safe_point(8)
    for refused, name in (
        (lambda: gc.advance_txn_safe_point(9, 100), "ErrDecreasingTxnSafePoint"),
        (lambda: gc.advance_gc_safe_point(7), "ErrDecreasingGCSafePoint"),
        (lambda: gc.advance_gc_safe_point(11), "ErrGCSafePointExceedsTxnSafePoint"),
        (lambda: gc.set_barrier("b", 9, 10, 100), "ErrGCBarrierTSBehindTxnSafePoint"),
        (lambda: gc.set_barrier("b", 10, 0, 100), "ttl"),
        (lambda: gc.set_barrier(GC_WORKER, 10, 10, 100), "ErrReservedGCBarrierID"),
        (lambda: gc.delete_barrier("", 100), "barrierID"),
    ):
        with pytest.raises(PdError, match=name):
            refused()
    assert (gc.txn_safe_point, gc.gc_safe_point, gc.barriers(100)) == (10, 8, [])


@given(
    st.lists(
        st.tuples(
            st.sampled_from([GC_WORKER, "a", "b", "\udc80", "gc"]),
            st.integers(-5, 50),
            st.integers(0, 30),
            st.booleans(),
        )
    )
)
def test_never_down_never_past_a_barrier_and_kept_over_restarts(steps):
    gc, now = GcStates(), 1000
    for service, ttl, point, is_worker in steps:
        before = gc.txn_safe_point, gc.gc_safe_point
        lowest = min((b.ts for b in gc.barriers(now)), default=None)
        try:
            if service == "gc":
                gc.update_gc_safe_point(point)
            else:
                gc.update_service(service, FOREVER if is_worker else ttl, point, now)
        except PdError:
            assert (gc.txn_safe_point, gc.gc_safe_point) == before
        assert gc.txn_safe_point >= before[0]
        assert gc.gc_safe_point >= before[1]
        assert gc.gc_safe_point <= gc.txn_safe_point
        if lowest is not None and gc.txn_safe_point > before[0]:
            assert gc.txn_safe_point <= lowest
        gc = GcStates.load(gc.dump())
        now += 1
