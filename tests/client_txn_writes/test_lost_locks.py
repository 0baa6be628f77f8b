"""A pessimistic lock that was lost while the transaction goes on: what it read under it must not be undone unseen."""

from __future__ import annotations

import pytest
from txn_world import Store, error_of

from pytikv.errors import Outcome


@pytest.mark.parametrize("writes_first", [False, True])
def test_locking_again_does_not_hide_the_loss(store: Store, writes_first: bool) -> None:
    node, other = store.node(), store.node()

    async def run() -> None:
        async with node.begin() as setup:
            await setup.put(b"a", b"1")
        txn = await node.begin(pessimistic=True, lock_ttl_ms=1)
        assert await txn.get_for_update(b"a") == b"1"
        if writes_first:
            await txn.put(b"a", b"2")
        await node.rt.sleep(1.0)

        async def steal() -> None:
            async with other.begin() as thief:
                await thief.put(b"a", b"stolen")

        await other.do(steal())
        assert await txn.get_for_update(b"a") == (b"2" if writes_first else b"1")
        await txn.put(b"a", b"3")
        error = await error_of(txn.commit())
        assert error.outcome is Outcome.NOT_APPLIED
        assert await other.read(b"a") == [b"stolen"]

    store.run(run(), node)


def test_a_held_lock_is_read_as_of_its_lock(store: Store) -> None:
    """Locked without its value, or with it: the value comes from one read, not from another lock."""
    node = store.node()

    async def run() -> None:
        async with node.begin() as setup:
            await setup.put(b"a", b"1")
            await setup.put(b"b", b"2")
        txn = await node.begin(pessimistic=True)
        await txn.lock_keys([b"a"])
        assert await txn.batch_get_for_update([b"a", b"b", b"none"]) == {b"a": b"1", b"b": b"2"}
        assert await txn.batch_get_for_update([b"none", b"b", b"a"]) == {b"b": b"2", b"a": b"1"}
        await txn.rollback()
        locked = [mutation.key for request in node.requests("KvPessimisticLock") for mutation in request.mutations]
        assert len(locked) == len(set(locked)) == 3

    store.run(run(), node)
