"""Random transactions of every kind, one after the other, against a dictionary: reads, writes, inserts, savepoints."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from txn_world import Store

from pytikv.errors import KeyExists
from pytikv.testing.sim import World

KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
VALUES = st.binary(min_size=1, max_size=2)
STEPS = st.one_of(
    st.tuples(st.just("put"), KEYS, VALUES),
    st.tuples(st.just("insert"), KEYS, VALUES),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("lock"), KEYS),
    st.tuples(st.just("get_for_update"), KEYS),
    st.tuples(st.just("scan"), st.booleans()),
    st.tuples(st.just("savepoint")),
    st.tuples(st.just("undo")),
    st.tuples(st.just("release")),
)
OPTIONS = st.sampled_from(
    [
        {},
        {"one_pc": False},
        {"one_pc": False, "async_commit": False},
        {"causal": True},
        {"pessimistic": True},
        {"pessimistic": True, "fair_locking": True, "one_pc": False},
        {"pessimistic": True, "one_pc": False, "async_commit": False},
        {"isolation": "RC"},
    ]
)
TRANSACTIONS = st.lists(st.tuples(OPTIONS, st.lists(STEPS, max_size=12), st.booleans()), max_size=5)
State = dict[bytes, bytes]


class Twin:
    """What a transaction does to a dictionary. `must_fail`: an insert that the commit must refuse."""

    def __init__(self, committed: State, is_pessimistic: bool) -> None:
        self.committed = committed
        self.is_pessimistic = is_pessimistic
        self.state = dict(committed)
        self.touched: set[bytes] = set()  # written here, so that an insert knows without asking
        self.inserted: set[bytes] = set()
        self.stages: list[tuple[State, set[bytes], set[bytes]]] = []

    def insert(self, key: bytes, value: bytes) -> bool:
        """False: KeyExists at once."""
        if key in (self.state if key in self.touched or self.is_pessimistic else ()):
            return False
        if key not in self.touched:
            self.inserted.add(key)
        self.write(key, value)
        return True

    def write(self, key: bytes, value: bytes | None) -> None:
        self.touched.add(key)
        if value is None:
            self.state.pop(key, None)
        else:
            self.state[key] = value

    @property
    def must_fail(self) -> bool:
        return any(key in self.committed for key in self.inserted)

    def stage(self) -> None:
        self.stages.append((dict(self.state), set(self.touched), set(self.inserted)))

    def undo(self) -> None:
        self.state, self.touched, self.inserted = self.stages.pop()


async def step(txn: Any, twin: Twin, blocks: list[Any], what: tuple[Any, ...]) -> None:
    name, *arguments = what
    if name == "put":
        await txn.put(*arguments)
        twin.write(*arguments)
    elif name == "delete":
        await txn.delete(*arguments)
        twin.write(arguments[0], None)
    elif name == "insert":
        expected = twin.insert(*arguments)
        try:
            await txn.insert(*arguments)
            assert expected
        except KeyExists:
            assert not expected
    elif name == "lock":
        await txn.lock_keys(arguments)
    elif name == "get_for_update":
        assert await txn.get_for_update(*arguments) == twin.state.get(arguments[0])
    elif name == "scan":
        found = [pair async for pair in txn.scan(reverse=arguments[0], batch_size=2)]
        assert found == sorted(twin.state.items(), reverse=arguments[0])
        assert await txn.batch_get([b"d", b"a", b"b"]) == {
            key: twin.state[key] for key in (b"d", b"a", b"b") if key in twin.state
        }
    elif name == "savepoint":
        blocks.append(txn.savepoint().__enter__())
        twin.stage()
    elif blocks:
        block = blocks.pop()
        if name == "undo":
            block.rollback()
            twin.undo()
        else:
            twin.stages.pop()
        block.__exit__(None, None, None)


@settings(max_examples=150)
@given(transactions=TRANSACTIONS, borders=st.sets(st.sampled_from([b"b", b"c", b"d"]), max_size=2))
def test_transactions_do_what_a_dictionary_does(
    transactions: list[tuple[dict[str, Any], list[tuple[Any, ...]], bool]], borders: set[bytes]
) -> None:
    with World(3) as world:
        store = Store(world)
        store.split(*borders)
        node = store.node()

        async def run() -> None:
            committed: State = {}
            for options, steps, commits in transactions:
                twin, blocks = Twin(committed, bool(options.get("pessimistic"))), []
                txn = await node.begin(**options)
                for what in steps:
                    await step(txn, twin, blocks, what)
                while blocks:
                    blocks.pop().__exit__(None, None, None)
                if not commits:
                    await txn.rollback()
                    continue
                try:
                    await txn.commit()
                    assert not twin.must_fail
                    committed = twin.state
                except KeyExists:
                    assert twin.must_fail
            reader = await node.begin()
            assert [pair async for pair in reader.scan()] == sorted(committed.items())
            await node.rt.sleep(30)
            assert store.locks() == 0

        store.run(run(), node)
