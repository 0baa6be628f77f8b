"""1PC whose answer is lost, after which its keys lie in several regions: what became of it is found out."""

from __future__ import annotations

import pytest
from txn_world import Fault, Store, error_of

from pytikv.errors import Outcome


def test_the_commit_timestamp_is_the_stores(store: Store) -> None:
    node, other = store.node(), store.node()
    node.faults = [Fault("KvPrewrite", "drop answer", 0), Fault("KvPrewrite", lambda: store.split(b"b"), 1)]

    async def run() -> None:
        txn = await node.begin()
        await txn.put(b"a", b"1")
        await txn.put(b"b", b"2")
        await txn.commit()
        assert txn.outcome is Outcome.APPLIED
        assert node.requests("KvPrewrite")[0].try_one_pc
        assert "KvCommit" not in node.names()
        before = await other.begin(start_ts=txn.commit_ts - 1)
        at = await other.begin(start_ts=int(txn.commit_ts))
        assert await before.get(b"a") is None
        assert await at.batch_get([b"a", b"b"]) == {b"a": b"1", b"b": b"2"}

    store.run(run(), node)


def test_a_request_that_was_lost_is_made_good_by_two_phases(store: Store) -> None:
    node, other = store.node(), store.node()
    node.faults = [Fault("KvPrewrite", "drop request", 0), Fault("KvPrewrite", lambda: store.split(b"b"), 1)]

    async def run() -> None:
        txn = await node.begin(async_commit=False)
        await txn.put(b"a", b"1")
        await txn.put(b"b", b"2")
        await txn.commit()
        assert node.names().count("KvCheckTxnStatus") == 1
        assert "KvCommit" in node.names()
        assert await other.read(b"a", b"b") == [b"1", b"2"]

    store.run(run(), node)


@pytest.mark.parametrize("lost", ["drop request", "drop answer"])
def test_an_end_before_it_is_known_is_undetermined(store: Store, lost: str) -> None:
    """All further answers are lost: the first request may have done it."""
    node = store.node(timeout=2.0)
    node.faults = [
        Fault("KvPrewrite", lost, 0),
        Fault("KvPrewrite", lambda: store.split(b"b"), 1),
        Fault("KvPrewrite", "drop request"),
    ]

    async def run() -> None:
        txn = await node.begin(async_commit=False)
        await txn.put(b"a", b"1")
        await txn.put(b"b", b"2")
        error = await error_of(txn.commit())
        assert error.outcome is Outcome.UNDETERMINED
        assert txn.outcome is Outcome.UNDETERMINED

    store.run(run(), node)
