"""What a store says of its own health decides whether it is avoided."""

from __future__ import annotations

import pytest

from pytikv.client.health_feedback import AVOIDED_S, SLOW_SCORE, HealthFeedbacks
from pytikv.client.store_cache import StoreCache
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb


def said(store_id: int, score: int) -> bytes:
    return kvrpcpb.HealthFeedback(store_id=store_id, feedback_seq_no=1, slow_score=score).SerializeToString()


@pytest.fixture
def stores(fake_rt) -> StoreCache:
    stores = StoreCache(fake_rt, None, None)  # type: ignore[arg-type]  # nobody is asked here
    stores.entry(1)
    return stores


@pytest.fixture
def feedbacks(fake_rt, stores) -> HealthFeedbacks:
    feedbacks = HealthFeedbacks(fake_rt)
    feedbacks.stores = stores
    return feedbacks


@pytest.mark.parametrize("score", [SLOW_SCORE, 100])
def test_a_slow_store_is_avoided_for_a_time(fake_rt, stores, feedbacks, score: int) -> None:
    feedbacks.take(said(1, score))
    assert stores.is_avoided(1, fake_rt.now() + AVOIDED_S - 0.1)
    assert not stores.is_avoided(1, fake_rt.now() + AVOIDED_S)
    assert not stores.entry(1).needs_probe(fake_rt.now() + AVOIDED_S)


@pytest.mark.parametrize("data", [said(1, SLOW_SCORE - 1), said(1, 1), said(1, -1), b"", b"\x08", b"\xff" * 20])
def test_other_feedback_changes_nothing(fake_rt, stores, feedbacks, data: bytes) -> None:
    feedbacks.take(data)
    assert not stores.is_avoided(1, fake_rt.now())


def test_strange_stores_are_not_kept(fake_rt, stores, feedbacks) -> None:
    feedbacks.take(said(99, 100))
    assert [store.id for store in stores.entries()] == [1]


def test_feedback_before_there_are_stores(fake_rt) -> None:
    HealthFeedbacks(fake_rt).take(said(1, 100))
