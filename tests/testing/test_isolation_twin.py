"""The isolation checker against dumb twins: every interleaving is tried, every read is recomputed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pytikv.testing.isolation import Level, OpKind, Txn, TxnHistory, TxnStatus, check_isolation

KEYS = (b"x", b"y")
State = dict[bytes, tuple[int, ...]]


def random_history(seed: int, transactions: int, *, broken: float) -> TxnHistory:
    """Overlapping transactions on a store under snapshot isolation; some reads and conflict checks go wrong.

    A last transaction reads everything, so that the order of all versions is known. Real time says no more than that it
    is the last: all others overlap.
    """
    rng = random.Random(seed)
    made = TxnHistory()
    state: State = dict.fromkeys(KEYS, ())
    element = itertools.count(1)
    commits: list[tuple[int, set[bytes]]] = []
    running: list[tuple[Txn, State, int, dict[bytes, list[int]]]] = []
    left = transactions
    while left or running:
        if left and (not running or rng.random() < 0.5):
            left -= 1
            running.append((made.begin(0), dict(state), len(commits), {}))
        position = rng.randrange(len(running))
        txn, snapshot, since, own = running[position]
        if len(txn.ops) < 3 and rng.random() < 0.8:
            key = rng.choice(KEYS)
            if rng.random() < 0.5:
                own.setdefault(key, []).append(next(element))
                txn.append(key, own[key][-1])
            else:
                base = state[key] if rng.random() < broken else snapshot[key]
                txn.read_list(key, (*base, *own.get(key, [])))
            continue
        running.pop(position)
        conflict = any(keys & own.keys() for _, keys in commits[since:])
        if conflict and rng.random() >= broken:
            made.aborted(txn)
            continue
        made.committing(txn)
        if rng.random() < 0.8:
            made.committed(txn)
        if txn.status is TxnStatus.COMMITTED or rng.random() < 0.5:
            for key, elements in own.items():
                base = snapshot[key] if rng.random() < broken else state[key]
                state[key] = (*base, *elements)
            commits.append((len(commits), set(own)))
    last = made.begin(9)
    for key in KEYS:
        last.read_list(key, state[key])
    made.committing(last)
    made.committed(last)
    for txn in made.txns[:-1]:
        txn.begun = 0
        txn.ended = None if txn.ended is None else last.begun - 1
    return made


def reads_match(txn: Txn, state: State) -> bool:
    own: dict[bytes, list[int]] = {}
    for op in txn.ops:
        if op.kind is OpKind.APPEND:
            own.setdefault(op.key, []).append(op.value)
        elif op.value != (*state[op.key], *own.get(op.key, [])):
            return False
    return True


def add(state: State, txn: Txn) -> State:
    return state | {key: (*state[key], *values) for key, values in txn.writes().items()}


def choices(made: TxnHistory) -> Iterator[tuple[list[Txn], list[Txn]]]:
    """Yield (those that took effect, those that only read) for every fate of the undetermined ones."""
    *txns, last = made.txns
    unknown = [txn for txn in txns if txn.status is TxnStatus.UNDETERMINED]
    for fates in itertools.product((True, False), repeat=len(unknown)):
        done = {txn for txn, fate in zip(unknown, fates, strict=True) if fate}
        effective = [txn for txn in txns if txn.status is TxnStatus.COMMITTED or txn in done]
        yield [*effective, last], [txn for txn in txns if txn not in effective]


def is_snapshot_isolated(made: TxnHistory) -> bool:
    """Try every order of the starts and commits (the last transaction after all others)."""
    return any(_interleaves(*choice) for choice in choices(made))


def _interleaves(effective: list[Txn], readers: list[Txn]) -> bool:
    *effective, last = effective

    def search(
        state: State, waiting: list[Txn], running: list[tuple[Txn, int]], log: list[Txn], only: list[Txn]
    ) -> bool:
        # A snapshot that fits is taken at once for those that only read: it takes nothing from the others.
        only = [txn for txn in only if not reads_match(txn, state)]
        if not waiting and not running:
            return not only and reads_match(last, state)
        for txn in waiting:
            if reads_match(txn, state):
                rest = [other for other in waiting if other is not txn]
                if search(state, rest, [*running, (txn, len(log))], log, only):
                    return True
        for txn, since in running:
            if not any(txn.writes().keys() & other.writes().keys() for other in log[since:]):
                rest_running = [pair for pair in running if pair[0] is not txn]
                if search(add(state, txn), waiting, rest_running, [*log, txn], only):
                    return True
        return False

    return search(dict.fromkeys(KEYS, ()), effective, [], [], readers)


def is_serializable(made: TxnHistory) -> bool:
    for effective, readers in choices(made):
        *effective, last = effective
        for order in itertools.permutations(effective):
            state: State = dict.fromkeys(KEYS, ())
            only = [txn for txn in readers if not reads_match(txn, state)]
            for txn in order:
                if not reads_match(txn, state):
                    break
                state = add(state, txn)
                only = [txn for txn in only if not reads_match(txn, state)]
            else:
                if not only and reads_match(last, state):
                    return True
    return False


histories = st.builds(random_history, st.integers(0, 2**40), st.integers(1, 4), broken=st.sampled_from([0.0, 0.2, 0.5]))


@given(histories)
@settings(max_examples=1500, deadline=None)
def test_snapshot_isolation_agrees_with_every_interleaving(made: TxnHistory) -> None:
    report = check_isolation(made)
    assert report.ok == is_snapshot_isolated(made), report.describe()


@given(histories)
@settings(max_examples=1500, deadline=None)
def test_serializability_agrees_with_every_order(made: TxnHistory) -> None:
    report = check_isolation(made, level=Level.SERIALIZABLE)
    assert report.ok == is_serializable(made), report.describe()


# --- timestamps ---


def stamped_history(seed: int, *, broken: float) -> TxnHistory:
    """Registers whose reads are recomputed by looking at all transactions; some are then spoiled."""
    rng = random.Random(seed)
    made = TxnHistory()
    stamps = rng.sample(range(1, 100), 20)
    for number in range(10):
        start_ts, commit_ts = sorted(stamps[2 * number : 2 * number + 2])
        txn = made.begin(number, start_ts=start_ts)
        txn.commit_ts = commit_ts
        txn.status = TxnStatus.COMMITTED
        if rng.random() < 0.7:
            txn.write(rng.choice(KEYS), rng.choice([number, number, None]))
        else:
            txn.commit_ts = None
    for txn in made:
        keys = [key for key in KEYS if key not in txn.writes()]
        for key in rng.sample(keys, rng.randint(0, len(keys))):
            spoiled = rng.random() < broken
            txn.read(key, rng.choice([None, *range(10)]) if spoiled else value_at(made, key, txn.start_ts or 0))
    return made


def value_at(made: TxnHistory, key: bytes, ts: int) -> Any:
    versions = [(t.commit_ts, t.writes()[key][-1]) for t in made if t.commit_ts is not None and key in t.writes()]
    return max([(stamp, value) for stamp, value in versions if stamp <= ts], default=(0, None), key=lambda v: v[0])[1]


def is_right(made: TxnHistory) -> bool:
    for txn in made:
        for op in txn.ops:
            if op.kind is OpKind.READ and op.value != value_at(made, op.key, txn.start_ts or 0):
                return False
        for other in made:
            shared = txn.writes().keys() & other.writes().keys()
            if txn is not other and shared and txn.commit_ts is not None and other.commit_ts is not None:
                assert other.start_ts is not None
                if other.start_ts < txn.commit_ts < other.commit_ts:
                    return False
    return True


@given(st.builds(stamped_history, st.integers(0, 2**40), broken=st.sampled_from([0.0, 0.1])))
@settings(max_examples=1500, deadline=None)
def test_timestamps_agree_with_a_recomputation(made: TxnHistory) -> None:
    report = check_isolation(made, real_time=False)
    assert report.ok == is_right(made), report.describe()
