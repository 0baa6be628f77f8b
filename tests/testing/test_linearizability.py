"""The checker on histories known to be good and known to be bad, and on generated ones."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pytikv.testing.history import History, Kind, Operation, Status
from pytikv.testing.linearizability import NotLinearizable, Verdict, check, check_key

K = b"k"


def op(
    process: int,
    kind: str,
    invoked: int,
    returned: int | None,
    *,
    value: bytes | None = None,
    expected: bytes | None = None,
    read: bytes | None = None,
    swapped: bool = False,
    failed: bool = False,
) -> Operation:
    status = Status.FAILED if failed else Status.UNDETERMINED if returned is None else Status.OK
    return Operation(process, Kind(kind), K, invoked, value, expected, read, swapped, returned, status)


GOOD = {
    "empty": [],
    "one after the other": [op(0, "put", 1, 2, value=b"a"), op(0, "get", 3, 4, read=b"a")],
    "read of the old value while the write runs": [
        op(0, "put", 1, 2, value=b"a"),
        op(0, "put", 3, 8, value=b"b"),
        op(1, "get", 4, 5, read=b"a"),
        op(1, "get", 6, 7, read=b"b"),
    ],
    "undetermined write never takes effect": [
        op(0, "put", 1, 2, value=b"a"),
        op(1, "put", 3, None, value=b"b"),
        op(0, "get", 4, 5, read=b"a"),
    ],
    "undetermined write takes effect late": [
        op(0, "put", 1, 2, value=b"a"),
        op(1, "put", 3, None, value=b"b"),
        op(0, "get", 4, 5, read=b"a"),
        op(0, "get", 6, 7, read=b"b"),
        op(0, "get", 8, 9, read=b"b"),
    ],
    "undetermined delete": [
        op(0, "put", 1, 2, value=b"a"),
        op(1, "delete", 3, None),
        op(0, "get", 4, 5, read=None),
    ],
    "compare-and-swap chain": [
        op(0, "cas", 1, 6, expected=None, value=b"a", read=None, swapped=True),
        op(1, "cas", 2, 5, expected=b"a", value=b"b", read=b"a", swapped=True),
        op(2, "cas", 3, 4, expected=b"x", value=b"c", read=b"b", swapped=False),
    ],
    "undetermined compare-and-swap explains the read": [
        op(0, "put", 1, 2, value=b"a"),
        op(1, "cas", 3, None, expected=b"a", value=b"b"),
        op(0, "get", 4, 5, read=b"b"),
    ],
    "unseen value carries a seen one": [
        op(0, "put", 1, None, value=b"a"),
        op(1, "cas", 2, None, expected=b"a", value=b"b"),
        op(2, "get", 3, 4, read=b"b"),
    ],
    "put_if_absent, one wins": [
        op(0, "put_if_absent", 1, 4, value=b"a", read=b"b", swapped=False),
        op(1, "put_if_absent", 2, 3, value=b"b", read=None, swapped=True),
    ],
    "failed write is no write": [op(0, "put", 1, 2, value=b"a", failed=True), op(0, "get", 3, 4, read=None)],
    "a put of the present value is needed later": [
        op(0, "put", 1, 2, value=b"v"),
        op(1, "put", 3, 20, value=b"v"),
        op(2, "put", 4, 19, value=b"w"),
        op(3, "get", 5, 6, read=b"w"),
        op(3, "get", 7, 8, read=b"v"),
    ],
}

BAD = {
    "stale read": [
        op(0, "put", 1, 2, value=b"a"),
        op(0, "put", 3, 4, value=b"b"),
        op(1, "get", 5, 6, read=b"a"),
    ],
    "lost update": [
        op(0, "put", 1, 2, value=b"0"),
        op(0, "cas", 3, 6, expected=b"0", value=b"1", read=b"0", swapped=True),
        op(1, "cas", 4, 7, expected=b"0", value=b"2", read=b"0", swapped=True),
    ],
    "acknowledged write lost": [op(0, "put", 1, 2, value=b"a"), op(0, "get", 3, 4, read=None)],
    "read of a failed write": [
        op(0, "put", 1, 2, value=b"a"),
        op(1, "put", 3, 4, value=b"b", failed=True),
        op(0, "get", 5, 6, read=b"b"),
    ],
    "value from nowhere": [op(0, "get", 1, 2, read=b"z")],
    "reads go back": [
        op(0, "put", 1, 2, value=b"a"),
        op(1, "put", 3, 10, value=b"b"),
        op(2, "get", 4, 5, read=b"b"),
        op(2, "get", 6, 7, read=b"a"),
    ],
    "undetermined write takes effect twice": [
        op(0, "put", 1, None, value=b"b"),
        op(1, "get", 2, 3, read=b"b"),
        op(1, "put", 4, 5, value=b"c"),
        op(1, "get", 6, 7, read=b"c"),
        op(1, "get", 8, 9, read=b"b"),
        op(1, "put", 10, 11, value=b"d"),
        op(1, "get", 12, 13, read=b"b"),
    ],
    "effect before the invocation": [op(1, "get", 1, 2, read=b"b"), op(0, "put", 3, None, value=b"b")],
    "two winners of put_if_absent": [
        op(0, "put_if_absent", 1, 4, value=b"a", read=None, swapped=True),
        op(1, "put_if_absent", 2, 3, value=b"b", read=None, swapped=True),
    ],
    "compare-and-swap done twice": [
        op(0, "put", 1, 2, value=b"a"),
        op(1, "cas", 3, 4, expected=b"a", value=b"b", read=b"b", swapped=False),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_good_history_is_accepted(name: str) -> None:
    assert check(History(GOOD[name])).verdict is Verdict.LINEARIZABLE


@pytest.mark.parametrize("name", BAD)
def test_bad_history_is_rejected(name: str) -> None:
    report = check(History(BAD[name]))
    assert report.verdict is Verdict.VIOLATION
    with pytest.raises(NotLinearizable, match="none of these can come next"):
        report.raise_for_violation()


def test_story_of_a_violation() -> None:
    text = check(History(BAD["stale read"])).describe()
    assert "key b'k': violation (3 operations" in text
    assert "put(b'k', b'b') -> ok" in text
    assert "process 1: get(b'k') -> b'a'" in text


def test_order_of_a_good_history_is_a_witness() -> None:
    report = check_key(GOOD["compare-and-swap chain"])
    assert [o.process for o in report.order] == [0, 1, 2]


def test_keys_are_judged_apart() -> None:
    history = History()
    for key, value in ((b"a", b"1"), (b"b", b"2")):
        history.ok(history.invoke(0, Kind.PUT, key, value=value))
    history.ok(history.invoke(1, Kind.GET, b"b"), b"1")
    report = check(history)
    assert {k.key: k.verdict for k in report.keys} == {b"a": Verdict.LINEARIZABLE, b"b": Verdict.VIOLATION}


def test_initial_value() -> None:
    operations = [op(0, "get", 1, 2, read=b"old")]
    assert check(History(operations), initial=b"old").verdict is Verdict.LINEARIZABLE
    assert check(History(operations)).verdict is Verdict.VIOLATION


def test_budget_gives_unknown_and_says_so() -> None:
    operations = [op(i, "put", i, 100 + i, value=b"%d" % i) for i in range(20)]
    operations.append(op(99, "get", 200, 201, read=b"never written"))
    report = check(History(operations), steps=5_000)
    assert report.verdict is Verdict.UNKNOWN
    with pytest.raises(NotLinearizable, match="unknown"):
        report.raise_for_violation()


def test_many_lost_answers_stay_cheap() -> None:
    """Writes that nobody saw must not multiply the search: 2^200 subsets otherwise."""
    operations = [op(i, "put", 2 * i + 1, None, value=b"lost%d" % i) for i in range(200)]
    operations += [op(500, "put", 1001, 1002, value=b"x"), op(500, "get", 1003, 1004, read=b"x")]
    report = check(History(operations))
    assert report.verdict is Verdict.LINEARIZABLE
    assert report.keys[0].steps < 50


# --- generated --------------------------------------------------------------------------------------------------------


def apply(kind: Kind, expected: bytes | None, value: bytes | None, state: bytes | None) -> tuple[bool, bytes | None]:
    """The plain twin of the model: (done, new state)."""
    match kind:
        case Kind.GET:
            return False, state
        case Kind.PUT:
            return True, value
        case Kind.DELETE:
            return True, None
        case Kind.CAS:
            return (True, value) if state == expected else (False, state)
        case Kind.PUT_IF_ABSENT:
            return (True, value) if state is None else (False, state)


def real_run(seed: int, length: int, processes: int, small_values: bool) -> list[Operation]:
    """Run a register for real, each operation taking effect at a known moment; the intervals overlap around these."""
    rng = random.Random(seed)
    free = [0.0] * processes
    state: bytes | None = None
    moments: list[tuple[float, float, float, int]] = []
    for _ in range(length):
        process = rng.randrange(processes)
        start = free[process] + rng.random()
        effect = start + rng.random() * 3
        end = effect + rng.random() * 3
        free[process] = end
        moments.append((effect, start, end, process))
    moments.sort()
    clock = {t: n for n, t in enumerate(sorted(t for _, s, e, _ in moments for t in (s, e)), 1)}
    operations = []
    for number, (_, start, end, process) in enumerate(moments):
        kind = rng.choice(list(Kind))
        value = None if kind in (Kind.GET, Kind.DELETE) else b"%d" % (rng.randrange(3) if small_values else number)
        expected = rng.choice([state, b"0", None]) if kind is Kind.CAS else None
        before = state
        done, after = apply(kind, expected, value, state)
        lost = rng.random() < 0.15
        if not lost or rng.random() < 0.5:  # of the lost ones, half took effect
            state = after
        conditional = kind in (Kind.CAS, Kind.PUT_IF_ABSENT)
        read = before if conditional or kind is Kind.GET else None
        if lost:
            operations.append(Operation(process, kind, K, clock[start], value, expected))
        else:
            swapped = done and conditional
            operations.append(
                Operation(process, kind, K, clock[start], value, expected, read, swapped, clock[end], Status.OK)
            )
    return operations


runs = st.builds(
    real_run,
    seed=st.integers(0, 2**32),
    length=st.integers(1, 60),
    processes=st.integers(1, 6),
    small_values=st.booleans(),
)


@given(runs)
@settings(max_examples=150, deadline=None)
def test_real_runs_are_accepted(operations: list[Operation]) -> None:
    report = check_key(operations)
    assert report.verdict is Verdict.LINEARIZABLE, report.describe()
    # The order found is a witness: replay it on the twin.
    state: bytes | None = None
    for o in report.order:
        done, after = apply(o.kind, o.expected, o.value, state)
        if o.status is Status.OK:
            assert o.kind in (Kind.PUT, Kind.DELETE) or o.read == state
            assert o.kind not in (Kind.CAS, Kind.PUT_IF_ABSENT) or o.swapped == done
        state = after
    for index, o in enumerate(report.order):  # and it keeps to real time
        assert all(later.returned is None or later.returned > o.invoked for later in report.order[index + 1 :])


@given(runs, st.data())
@settings(max_examples=100, deadline=None)
def test_mutated_runs_are_rejected(operations: list[Operation], data: st.DataObject) -> None:
    """A read of a value that was never written, or a written value read before its write began, is always caught."""
    reads = [o for o in operations if o.kind is Kind.GET and o.status is Status.OK]
    assume(reads)
    victim = data.draw(st.sampled_from(reads))
    later = [o.value for o in operations if o.value is not None and o.invoked > (victim.returned or 0)]
    earlier = {o.value for o in operations if o.invoked < (victim.returned or 0)}
    from_the_future = [value for value in later if value not in earlier]
    victim.read = data.draw(st.sampled_from([*from_the_future, b"nobody wrote this"]))
    assert check_key(operations).verdict is Verdict.VIOLATION


def brute_force(operations: list[Operation]) -> bool:
    """The dumb twin: try every order and every subset of the undetermined ones."""
    live = [o for o in operations if o.status is not Status.FAILED]

    def search(left: list[Operation], state: bytes | None) -> bool:
        if all(o.status is Status.UNDETERMINED for o in left):
            return True
        first_answer = min(o.returned for o in left if o.returned is not None)
        for o in left:
            if o.invoked > first_answer:
                continue
            done, after = apply(o.kind, o.expected, o.value, state)
            if o.status is Status.OK:
                if o.kind not in (Kind.PUT, Kind.DELETE) and o.read != state:
                    continue
                if o.kind in (Kind.CAS, Kind.PUT_IF_ABSENT) and o.swapped != done:
                    continue
            if search([x for x in left if x is not o], after):
                return True
        return False

    return search(live, None)


@given(
    st.builds(real_run, st.integers(0, 2**32), st.integers(1, 7), st.integers(2, 4), st.just(True)),
    st.integers(0, 2**16),
)
@settings(max_examples=200, deadline=None)
def test_agrees_with_brute_force(operations: list[Operation], seed: int) -> None:
    rng = random.Random(seed)
    for o in operations:  # corrupt some answers: some histories stay good by luck, the twin knows which
        if o.status is Status.OK and o.kind is not Kind.PUT and rng.random() < 0.3:
            o.read = rng.choice([None, b"0", b"1", b"2"])
    expected = Verdict.LINEARIZABLE if brute_force(operations) else Verdict.VIOLATION
    assert check_key(operations).verdict is expected


def test_long_history_is_quick() -> None:
    operations = real_run(seed=7, length=4000, processes=8, small_values=False)
    report = check_key(operations)
    assert report.verdict is Verdict.LINEARIZABLE
    assert report.steps < 400_000
