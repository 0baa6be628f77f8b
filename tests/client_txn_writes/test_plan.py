"""What a commit will do, decided from a buffer: mutations, primary, batches, TTL, protocol, requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytikv.client.txn.buffer import (
    ASSERT_EXIST,
    ASSERT_NOT_EXIST,
    LOCKED,
    LOCKED_ABSENT,
    LOCKED_EXISTS,
    LOCKED_SHARED,
    MUST_NOT_EXIST,
    Entry,
    Kind,
)
from pytikv.client.txn.options import TxnOptions
from pytikv.client.txn.plan import (
    Mutation,
    Terms,
    batches,
    broken_assertion,
    choose_primary,
    choose_protocol,
    lock_ttl_ms,
    max_commit_ts,
    plan_mutations,
    prewrite_request,
    secondaries,
    split_keys,
    write_size,
)
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.types import Timestamp

P = kvrpcpb.PrewriteRequest


def planned(entry: Entry, *, pessimistic: bool = False) -> Mutation | None:
    found = plan_mutations([(b"k", entry)], lambda key: b"x" + key, is_pessimistic=pessimistic)
    return found[0] if found else None


@pytest.mark.parametrize(
    ("entry", "optimistic", "pessimistic"),
    [
        (Entry(Kind.PUT, b"v"), kvrpcpb.Put, kvrpcpb.Put),
        (Entry(Kind.PUT, b"v", MUST_NOT_EXIST), kvrpcpb.Insert, kvrpcpb.Insert),
        (Entry(Kind.DELETE), kvrpcpb.Del, kvrpcpb.Del),
        (Entry(Kind.DELETE, b"", MUST_NOT_EXIST), kvrpcpb.CheckNotExists, None),
        (Entry(Kind.DELETE, b"", MUST_NOT_EXIST | LOCKED), kvrpcpb.CheckNotExists, kvrpcpb.Lock),
        (Entry(Kind.NONE), None, None),
        (Entry(Kind.NONE, b"", LOCKED), kvrpcpb.Lock, kvrpcpb.Lock),
        (Entry(Kind.NONE, b"", LOCKED | LOCKED_SHARED), kvrpcpb.SharedLock, kvrpcpb.SharedLock),
    ],
)
def test_each_entry_becomes_its_mutation(entry: Entry, optimistic: int | None, pessimistic: int | None) -> None:
    for is_pessimistic, op in ((False, optimistic), (True, pessimistic)):
        mutation = planned(entry, pessimistic=is_pessimistic)
        assert (mutation.op if mutation else None) == op
        if mutation is not None:
            assert mutation.key == b"xk"
            assert mutation.value == entry.value


def test_pessimistic_actions_follow_the_locks() -> None:
    locked, loose = Entry(Kind.PUT, b"v", LOCKED), Entry(Kind.PUT, b"v")
    assert [planned(entry, pessimistic=True).action for entry in (locked, loose)] == [  # type: ignore[union-attr]
        P.DO_PESSIMISTIC_CHECK,
        P.DO_CONSTRAINT_CHECK,
    ]
    assert planned(locked).action == P.SKIP_PESSIMISTIC_CHECK  # type: ignore[union-attr]


def test_the_primary_leaves_a_lock_of_its_own() -> None:
    check, shared = Mutation(kvrpcpb.CheckNotExists, b"a"), Mutation(kvrpcpb.SharedLock, b"b")
    put = Mutation(kvrpcpb.Put, b"c")
    assert choose_primary([check, shared, put], None) == b"c"
    assert choose_primary([check, shared, put], b"z") == b"z"
    assert choose_primary([check], None) == b"a"
    assert secondaries([check, shared, put, Mutation(kvrpcpb.Del, b"d")], b"c") == [b"b", b"d"]


@given(st.lists(st.binary(max_size=9), min_size=1), st.integers(1, 20))
def test_batches_keep_order_and_close_once_full(items: list[bytes], limit: int) -> None:
    cut = batches(items, len, limit)
    assert [item for batch in cut for item in batch] == items
    for batch in cut[:-1]:
        assert sum(map(len, batch)) >= limit
    for batch in cut:
        assert batch
        assert sum(map(len, batch[:-1])) < limit


def test_a_region_is_split_where_so_many_bytes_are_written() -> None:
    mutations = [Mutation(kvrpcpb.Put, b"%04d" % n, b"v" * 6) for n in range(100)]
    assert split_keys(mutations, 100) == [b"%04d" % n for n in range(10, 100, 10)]
    assert split_keys(mutations, 1 << 20) == []


@pytest.mark.parametrize(
    ("size", "elapsed_ms", "chosen_ms", "ttl_ms"),
    [
        (100, 0, None, 3000),
        (1 << 20, 0, None, 6000),
        (4 << 20, 250, None, 12_250),
        (200 << 20, 0, None, 20_000),
        (17 << 10, 5, None, 3005),
        (4 << 20, 7, 500, 507),
    ],
)
def test_ttl_grows_with_the_write_and_its_age(size: int, elapsed_ms: int, chosen_ms: int | None, ttl_ms: int) -> None:
    assert lock_ttl_ms(size, elapsed_ms, chosen_ms) == ttl_ms


def test_the_protocol_respects_limits_and_what_rules_it_out() -> None:
    put = Mutation(kvrpcpb.Put, b"key")
    assert choose_protocol([put], TxnOptions()) == (True, True)
    assert choose_protocol([put], TxnOptions(async_commit=False)) == (False, True)
    assert choose_protocol([put], TxnOptions(one_pc=False)) == (True, False)
    assert choose_protocol([put] * 257, TxnOptions()).is_async_commit is False
    assert choose_protocol([Mutation(kvrpcpb.Put, b"k" * 4097)], TxnOptions()).is_async_commit is False
    assert choose_protocol([put], TxnOptions(commit_ts_check=lambda ts: True)) == (False, False)
    assert choose_protocol([put, Mutation(kvrpcpb.SharedLock, b"s")], TxnOptions()) == (False, False)
    assert choose_protocol([Mutation(kvrpcpb.CheckNotExists, b"c")], TxnOptions()) == (False, False)


def test_assertions_are_checked_against_what_locking_told() -> None:
    absent = Entry(Kind.PUT, b"v", ASSERT_EXIST | LOCKED | LOCKED_ABSENT)
    present = Entry(Kind.PUT, b"v", ASSERT_NOT_EXIST | LOCKED | LOCKED_EXISTS)
    sound = Entry(Kind.PUT, b"v", ASSERT_EXIST | LOCKED | LOCKED_EXISTS)
    assert broken_assertion([(b"a", sound), (b"b", absent)]) == (b"b", ASSERT_EXIST)
    assert broken_assertion([(b"a", present)]) == (b"a", ASSERT_NOT_EXIST)
    assert broken_assertion([(b"a", sound)]) is None


def test_the_request_of_an_async_commit() -> None:
    start_ts = Timestamp.compose(1000)
    terms = Terms(b"a", start_ts, 3000, max_commit_ts=max_commit_ts(start_ts, 10, 2000))
    terms.is_async_commit, terms.secondaries, terms.min_commit_ts = True, [b"b"], start_ts + 99
    batch = [Mutation(kvrpcpb.Put, b"a", b"1", assertion=kvrpcpb.Exist), Mutation(kvrpcpb.Del, b"b")]
    request = prewrite_request(terms, batch, 2)
    assert [(m.op, m.key, m.value, m.assertion) for m in request.mutations] == [
        (kvrpcpb.Put, b"a", b"1", kvrpcpb.Exist),
        (kvrpcpb.Del, b"b", b"", 0),
    ]
    assert (request.primary_lock, request.start_version, request.txn_size) == (b"a", start_ts, 2)
    assert (request.lock_ttl, request.min_commit_ts) == (3000, start_ts + 99)
    assert Timestamp(request.max_commit_ts).physical_ms == 3010
    assert list(request.secondaries) == [b"b"]
    assert request.use_async_commit
    assert not request.pessimistic_actions
    assert not prewrite_request(terms, batch[1:], 2).secondaries  # they stand with the primary alone


def test_the_request_of_a_pessimistic_transaction() -> None:
    start_ts, later = Timestamp.compose(1000), Timestamp.compose(1500)
    terms = Terms(b"a", start_ts, 20_000, for_update_ts=later)
    batch = [
        Mutation(kvrpcpb.Put, b"a", b"1", 0, P.DO_PESSIMISTIC_CHECK),
        Mutation(kvrpcpb.Lock, b"b", b"", 0, P.DO_PESSIMISTIC_CHECK, later),
    ]
    request = prewrite_request(terms, batch, 2)
    assert list(request.pessimistic_actions) == [P.DO_PESSIMISTIC_CHECK] * 2
    assert [(c.index, c.expected_for_update_ts) for c in request.for_update_ts_constraints] == [(1, later)]
    assert request.min_commit_ts == later + 1  # never 0, and above for_update_ts
    terms.is_async_commit, terms.max_commit_ts = True, start_ts + Timestamp.compose(25_000)
    assert prewrite_request(terms, batch, 2).lock_ttl == 25_001  # outlives every commit_ts that it may have


def test_bytes_of_a_mutation() -> None:
    assert write_size(Mutation(kvrpcpb.Put, b"key", b"value")) == 8
