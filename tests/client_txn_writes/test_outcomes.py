"""What a commit says became of the writes, against what did: lost answers, refusals, cancellation at every step."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from txn_world import Fault, Node, Store, error_of

from pytikv.client.txn.background import Background
from pytikv.errors import CommitUndetermined, ConnectionFailed, Outcome, TikvError, WriteConflict
from pytikv.testing.sim import World

KEYS = [b"a", b"z"]
OLD, NEW = [b"old"] * 2, [b"new"] * 2
TWO_PC = {"async_commit": False, "one_pc": False}
ASYNC = {"one_pc": False}
KINDS: dict[str, tuple[dict[str, Any], tuple[bytes, ...]]] = {
    "2PC": (TWO_PC, (b"m",)),
    "async commit": (ASYNC, (b"m",)),
    "1PC": ({}, ()),
    "pessimistic 2PC": ({"pessimistic": True, **TWO_PC}, (b"m",)),
    "pessimistic async commit": ({"pessimistic": True}, (b"m",)),
    "pessimistic 1PC": ({"pessimistic": True}, ()),
    "pipelined": ({"pipelined": True, "flush_keys": 1, "flush_bytes": 1}, (b"m",)),
}


async def write(txn: Any, value: bytes) -> None:
    async with txn:
        for key in KEYS:
            await txn.put(key, value)


class Case:
    """A writer with faults, a reader, the truth."""

    def __init__(self, store: Store, kind: str, *faults: Fault, **options: Any) -> None:
        chosen, borders = KINDS[kind]
        store.split(*borders)
        self.store = store
        self.node: Node = store.node(timeout=2.0)
        self.reader = store.node(timeout=30.0)
        self.faults = list(faults)
        self.txn = self.node.begin(**chosen, **options)
        self.error: TikvError | None = None
        self.seen: list[bytes | None] = []

    def run(self) -> Case:
        async def run() -> None:
            await write(self.node.begin(), b"old")
            await self.node.rt.sleep(1)
            self.node.steps.clear()
            self.node.faults = self.faults
            try:
                await write(self.txn, b"new")
            except TikvError as error:
                self.error = error
            await self.node.rt.sleep(0.5)
            self.seen = await self.reader.read(*KEYS)
            await self.node.rt.sleep(60)
            assert await self.reader.read(*KEYS) == self.seen  # nothing that is still on its way changes it
            assert self.seen in (OLD, NEW)

        self.store.run(run(), self.node)
        return self

    def is_undetermined(self) -> None:
        assert isinstance(self.error, CommitUndetermined), self.error
        assert self.error.outcome is self.txn.outcome is Outcome.UNDETERMINED
        assert not self.error.retryable
        assert self.error.__cause__ is not None
        assert self.txn.commit_ts is None
        assert "KvBatchRollback" not in self.node.names()  # never taken back
        assert "KVPessimisticRollback" not in self.node.names()

    def is_not_applied(self) -> None:
        assert self.error is not None
        assert not isinstance(self.error, CommitUndetermined)
        assert self.error.outcome is self.txn.outcome is Outcome.NOT_APPLIED
        assert self.seen == OLD

    def is_applied(self) -> None:
        assert self.error is None
        assert self.txn.outcome is Outcome.APPLIED
        assert self.txn.commit_ts is not None
        assert self.seen == NEW


@pytest.mark.parametrize("kind", ["2PC", "pessimistic 2PC", "pipelined"])
@pytest.mark.parametrize(("what", "truth"), [("drop answer", NEW), ("drop request", OLD)])
def test_the_answer_to_the_commit_of_the_primary_is_lost(store: Store, kind: str, what: str, truth: Any) -> None:
    case = Case(store, kind, Fault("KvCommit", what)).run()
    case.is_undetermined()
    assert case.seen == truth


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("name", ["KvPrewrite", "KvCommit", "KvPessimisticLock", "KvFlush", "timestamp"])
@pytest.mark.parametrize("what", ["drop answer", "drop request"])
def test_an_answer_that_was_lost_once_is_asked_for_again(store: Store, kind: str, name: str, what: str) -> None:
    Case(store, kind, Fault(name, what, 0)).run().is_applied()


@pytest.mark.parametrize("kind", ["2PC", "pessimistic 2PC"])
@pytest.mark.parametrize("what", ["drop answer", "drop request"])
def test_answers_to_prewrites_of_two_phases_are_lost(store: Store, kind: str, what: str) -> None:
    """Without the commit of the primary nothing can have been committed."""
    case = Case(store, kind, Fault("KvPrewrite", what)).run()
    case.is_not_applied()
    assert case.error is not None
    assert case.error.retryable
    assert case.node.names().count("KvBatchRollback") == 2


@pytest.mark.parametrize("kind", ["async commit", "1PC", "pessimistic async commit", "pessimistic 1PC"])
@pytest.mark.parametrize(("what", "truth"), [("drop answer", NEW), ("drop request", OLD)])
def test_answers_to_the_prewrites_that_commit_are_lost(store: Store, kind: str, what: str, truth: Any) -> None:
    case = Case(store, kind, Fault("KvPrewrite", what)).run()
    case.is_undetermined()
    assert case.seen == truth


def test_one_of_the_prewrites_of_an_async_commit_never_left(store: Store) -> None:
    """A batch that was never sent proves that nobody can commit the transaction, whatever became of the other."""
    fails = Fault("KvPrewrite", "fail", when=lambda request: request.mutations[0].key.endswith(b"z"))
    case = Case(store, "async commit", fails, Fault("KvPrewrite", "drop answer")).run()
    case.is_not_applied()
    assert isinstance(case.error, ConnectionFailed)


def test_a_refusal_counts_more_than_a_lost_answer(store: Store) -> None:
    """Another transaction wrote one key: the loss of the other key's answer leaves no doubt."""
    case = Case(store, "async commit")
    other = store.node()

    def interfere() -> None:
        async def run() -> None:
            async with other.begin() as txn:
                await txn.put(b"z", b"other")

        other.rt.spawn(run(), name="other")

    case.faults = [
        Fault("timestamp", interfere, 1),
        Fault("KvPrewrite", "drop answer", when=lambda request: request.mutations[0].key.endswith(b"a")),
        *(Fault("KvPrewrite", "drop request", n) for n in (0, 1)),  # the other's first one, sent first or not
    ]

    async def run() -> None:
        await write(case.node.begin(), b"old")
        await case.node.rt.sleep(1)
        case.node.steps.clear()
        case.node.faults = case.faults
        error = await error_of(write(case.txn, b"new"))
        assert isinstance(error, WriteConflict)
        assert case.txn.outcome is Outcome.NOT_APPLIED
        assert await case.reader.read(*KEYS) == [b"old", b"other"]

    store.run(run(), case.node)


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_oracle_is_lost_before_the_commit(store: Store, kind: str) -> None:
    case = Case(store, kind, Fault("timestamp", "fail", 1))
    case.run().is_not_applied()
    assert case.node.names().count("timestamp") == 2


@pytest.mark.parametrize("kind", ["2PC", "async commit", "pessimistic 2PC", "pipelined"])
def test_what_fails_behind_the_commit_point_is_nobody_s_concern(store: Store, kind: str) -> None:
    behind = Fault("KvCommit", "fail", when=lambda request: kind == "async commit" or request.keys[0].endswith(b"z"))
    Case(store, kind, behind, Fault("KvResolveLock", "fail")).run().is_applied()


def test_locks_that_outlived_their_time_are_taken_by_others(store: Store) -> None:
    """Prewritten, then silent for longer than the TTL: whoever wants the key has rolled the transaction back."""
    case = Case(store, "2PC")
    case.node.config = case.node.config.replace(timeout=30)
    other = store.node(timeout=30)

    async def lock() -> None:
        txn = await other.begin(pessimistic=True)
        await txn.lock_keys([KEYS[0]])
        await txn.rollback()

    def begin() -> str:
        other.rt.spawn(lock(), name="other")
        return "drop request"

    case.faults = [Fault("KvCommit", begin, 0), *(Fault("KvCommit", "drop request", n) for n in range(1, 9))]
    case.run().is_not_applied()
    assert case.error is not None
    assert case.error.code == "TransactionAborted"
    assert case.error.retryable


# --- cancellation -----------------------------------------------------------------------------------------------------


def steps_of(kind: str) -> list[tuple[str, int]]:
    with World(1) as world:
        case = Case(Store(world), kind).run()
        names = [name for name in case.node.names() if name not in ("KvGet", "KvBatchGet")]
    return [(name, names[:at].count(name)) for at, name in enumerate(names)]


CANCELLATIONS = [
    pytest.param(kind, step, served, id=f"{kind}, {'after' if served else 'before'} {step[0]} {step[1]}")
    for kind in KINDS
    for step in steps_of(kind)
    for served in (False, True)
]


@pytest.mark.parametrize(("kind", "step", "served"), CANCELLATIONS)
def test_a_cancelled_commit_keeps_its_outcome(store: Store, kind: str, step: tuple[str, int], served: bool) -> None:
    case = Case(store, kind)
    node, txn = case.node, case.txn
    tasks: list[Any] = []
    ends: list[str] = []

    async def commit() -> None:
        try:
            await write(txn, b"new")
        except BaseException as error:
            ends.append("cancelled" if isinstance(error, node.rt.Cancelled) else repr(error))
            raise
        ends.append("done")

    def cancel() -> None:
        tasks[0].cancel()

    async def run() -> None:
        await write(node.begin(), b"old")
        await node.rt.sleep(1)
        node.steps.clear()
        node.faults = [Fault(step[0], ("after", cancel) if served else cancel, step[1])]
        tasks.append(node.rt.spawn(commit(), name="commit"))
        await node.rt.sleep(0.5)
        node.faults = []
        await Background.of(node).drain(node.rt.now() + 60)
        seen = await case.reader.read(*KEYS)
        assert seen in (OLD, NEW)
        assert ends in (["cancelled"], ["done"])  # never replaced by another error
        if txn.outcome is Outcome.APPLIED:
            assert seen == NEW
            assert txn.commit_ts is not None
        elif txn.outcome is Outcome.NOT_APPLIED:
            assert seen == OLD
            assert ends == ["cancelled"]
        if ends == ["done"]:
            assert txn.outcome is Outcome.APPLIED
        await node.rt.sleep(60)
        assert await case.reader.read(*KEYS) == seen

    store.run(run(), node)


def test_cancellations_cover_what_can_be_in_doubt() -> None:
    assert len(CANCELLATIONS) > 60


def test_an_interrupt_in_the_midst_of_a_commit_goes_through(store: Store) -> None:
    case = Case(store, "2PC")

    class Interrupt(BaseException):
        """As KeyboardInterrupt, which the test runner would take for its own."""

    def interrupt(_: int) -> bool:
        raise Interrupt

    async def run() -> None:
        txn = case.node.begin(commit_ts_check=interrupt, **TWO_PC)
        with pytest.raises(Interrupt):
            await write(txn, b"new")
        assert txn.outcome is Outcome.NOT_APPLIED
        await Background.of(case.node).drain(case.node.rt.now() + 5)
        assert store.locks() == 0

    store.run(run(), case.node)


def test_asyncio_is_not_needed_for_any_of_this() -> None:
    """The world above is the simulated one; on asyncio the cancellation is CancelledError."""
    from pytikv.rt.aio import AioRuntime

    assert AioRuntime.Cancelled is asyncio.CancelledError
