"""The isolation checker on histories known to be good and known to be bad, each anomaly by its name."""

from __future__ import annotations

from typing import Any

import pytest

from pytikv.testing.isolation import Anomaly, Level, NotIsolated, TxnHistory, TxnStatus, check_bank, check_isolation
from pytikv.testing.isolation.cycles import components
from pytikv.testing.isolation.dependencies import build_graph
from pytikv.testing.isolation.observations import observe

X, Y, Z = b"x", b"y", b"z"
Script = list[tuple[Any, ...]]


def history(*txns: Script, status: dict[int, str] | None = None, **options: Any) -> TxnHistory:
    """Make a history in which all transactions overlap.

    A step: ("a", key, element), ("l", key, elements), ("w", key, value), ("r", key, value); "L" and "R": locking reads.
    """
    made = TxnHistory()
    begun = [made.begin(number, **options) for number in range(len(txns))]
    for txn, script in zip(begun, txns, strict=True):
        for what, key, value in script:
            record = {"a": txn.append, "l": txn.read_list, "w": txn.write, "r": txn.read}.get(what)
            if record is not None:
                record(key, value)  # type: ignore[operator]
            elif what == "L":
                txn.read_list(key, value, locked=True)
            else:
                txn.read(key, value, locked=True)
    for number, txn in enumerate(begun):
        how = (status or {}).get(number, "committed")
        made.committing(txn)
        if how == "committed":
            made.committed(txn)
        elif how == "aborted":
            made.aborted(txn)
    return made


def anomalies(made: TxnHistory, **options: Any) -> set[Anomaly]:
    report = check_isolation(made, **options)
    return {finding.anomaly for finding in (*report.violations, *report.allowed)}


GOOD: dict[str, TxnHistory] = {
    "empty": history(),
    "one after the other": history([("a", X, 1)], [("l", X, [1]), ("a", X, 2)], [("l", X, [1, 2])]),
    "read of the past while a writer runs": history([("a", X, 1)], [("l", X, [])], [("l", X, [1])]),
    "own writes are seen": history([("a", X, 1), ("l", X, [1]), ("a", X, 2), ("l", X, [1, 2])]),
    "aborted writes are not": history([("a", X, 1)], [("l", X, [])], status={0: "aborted"}),
    "an undetermined write was done": history([("a", X, 1)], [("l", X, [1])], status={0: "?"}),
    "an undetermined write was not done": history([("a", X, 1)], [("l", X, [])], status={0: "?"}),
    "registers": history([("w", X, 1)], [("r", X, 1), ("w", X, 2)], [("r", X, 2), ("r", Y, None)]),
    "reads of None may mean a deletion": history([("w", X, 1)], [("r", X, 1), ("w", X, None)], [("r", X, None)]),
    "a long fork in one order": history([("w", X, 1)], [("w", Y, 1)], [("r", X, 1), ("r", Y, None)]),
    "locking reads are newer than the snapshot": history(
        [("a", X, 1), ("a", Y, 2)], [("l", X, []), ("L", Y, [2]), ("a", Y, 3)], [("l", Y, [2, 3])], pessimistic=True
    ),
    "pessimistic transactions write without reading": history(
        [("l", X, []), ("w", Y, 1)], [("a", X, 2), ("r", Y, 1), ("w", Y, 3)], pessimistic=True
    ),
}

BAD: dict[str, tuple[Anomaly, TxnHistory]] = {
    "write cycle": (
        Anomaly.G0,
        history([("a", X, 1), ("a", Y, 2)], [("a", X, 3), ("a", Y, 4)], [("l", X, [1, 3]), ("l", Y, [4, 2])]),
    ),
    "aborted read, list": (Anomaly.G1A, history([("a", X, 1)], [("l", X, [1])], status={0: "aborted"})),
    "aborted read in the middle": (
        Anomaly.G1A,
        history([("a", X, 1)], [("a", X, 2)], [("l", X, [1, 2])], status={0: "aborted"}),
    ),
    "aborted read, register": (Anomaly.G1A, history([("w", X, 1)], [("r", X, 1)], status={0: "aborted"})),
    "intermediate read, list": (Anomaly.G1B, history([("a", X, 1), ("a", X, 2)], [("l", X, [1])], [("l", X, [1, 2])])),
    "intermediate read, register": (Anomaly.G1B, history([("w", X, 1), ("w", X, 2)], [("r", X, 1)])),
    "circular information flow": (
        Anomaly.G1C,
        history([("a", X, 1), ("l", Y, [2])], [("a", Y, 2), ("l", X, [1])]),
    ),
    "circular information flow, registers": (
        Anomaly.G1C,
        history([("w", X, 1), ("r", Y, 2)], [("w", Y, 2), ("r", X, 1)]),
    ),
    "garbage": (Anomaly.GARBAGE, history([("l", X, [9])])),
    "garbage, register": (Anomaly.GARBAGE, history([("r", X, 9)])),
    "element twice": (Anomaly.DUPLICATE, history([("a", X, 1)], [("l", X, [1, 1])])),
    "incompatible order": (
        Anomaly.INCOMPATIBLE,
        history([("a", X, 1)], [("a", X, 2)], [("l", X, [1, 2])], [("l", X, [2])]),
    ),
    "own append not seen": (Anomaly.INTERNAL, history([("a", X, 1), ("l", X, [])])),
    "own write not seen": (Anomaly.INTERNAL, history([("w", X, 1), ("r", X, None)])),
    "two reads differ": (Anomaly.INTERNAL, history([("a", X, 1)], [("l", X, []), ("l", X, [1])])),
    "own base changes": (Anomaly.INTERNAL, history([("a", X, 1)], [("l", X, []), ("a", X, 2), ("l", X, [1, 2])])),
    "read skew": (
        Anomaly.G_SINGLE,
        history([("a", X, 1), ("a", Y, 2)], [("l", X, []), ("l", Y, [2])], [("l", X, [1])]),
    ),
    "read skew, registers": (Anomaly.G_SINGLE, history([("w", X, 1), ("w", Y, 2)], [("r", X, None), ("r", Y, 2)])),
    "read skew of an aborted reader": (
        Anomaly.G_SINGLE,
        history([("w", X, 1), ("w", Y, 2)], [("r", X, None), ("r", Y, 2)], status={1: "aborted"}),
    ),
    "long fork": (  # two readers see two writers in different orders
        Anomaly.G_NONADJACENT,
        history([("w", X, 1)], [("w", Y, 2)], [("r", X, 1), ("r", Y, None)], [("r", X, None), ("r", Y, 2)]),
    ),
    "lost update, list": (
        Anomaly.LOST_UPDATE,
        history([("l", X, []), ("a", X, 1)], [("l", X, []), ("a", X, 2)], [("l", X, [2])]),
    ),
    "lost update, register": (
        Anomaly.LOST_UPDATE,
        history([("w", X, 0)], [("r", X, 0), ("w", X, 1)], [("r", X, 0), ("w", X, 2)]),
    ),
    "acknowledged append lost": (
        Anomaly.G_SINGLE,
        history([("l", X, []), ("a", X, 1)], [("a", X, 2)], [("l", X, [2])]),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_history_is_accepted(name: str) -> None:
    report = check_isolation(GOOD[name])
    assert report.ok, report.describe()


@pytest.mark.parametrize("name", BAD)
def test_bad_history_is_rejected_by_name(name: str) -> None:
    expected, made = BAD[name]
    assert expected in anomalies(made)
    report = check_isolation(made)
    with pytest.raises(NotIsolated):
        report.raise_for_violation()


WRITE_SKEW = history([("l", X, []), ("a", Y, 1)], [("l", Y, []), ("a", X, 2)], [("l", X, [2]), ("l", Y, [1])])


def test_write_skew_is_found_and_named_but_allowed() -> None:
    report = check_isolation(WRITE_SKEW)
    assert report.ok
    assert [finding.anomaly for finding in report.allowed] == [Anomaly.G2_ITEM]
    assert "G2-item (write skew) found" in report.describe()
    assert len(report.allowed[0].steps) == 2
    strict = check_isolation(WRITE_SKEW, level=Level.SERIALIZABLE)
    assert [finding.anomaly for finding in strict.violations] == [Anomaly.G2_ITEM]


def test_story_of_a_cycle() -> None:
    text = check_isolation(BAD["read skew"][1]).describe()
    assert text.startswith("not snapshot isolation: 1 anomalies in 3 transactions\nG-single (read skew): ")
    assert "T1 -rw-> T0: T1 read the initial version of b'x' and not yet 1, which T0 wrote after it" in text
    assert "T0 -wr-> T1: T1 read 2 of b'y', which T0 wrote" in text
    assert "T0 of process 0 [1 .. 4], optimistic, start_ts None, commit_ts None: committed" in text
    assert "    read_list(b'x') -> []" in text


def test_snapshot_and_locking_reads_of_one_transaction_are_named_apart() -> None:
    report = check_isolation(GOOD["locking reads are newer than the snapshot"])
    assert [finding.anomaly for finding in report.allowed] == [Anomaly.LOCKED_SKEW]


def test_lost_update_of_locking_reads_is_found() -> None:
    made = history([("L", X, []), ("a", X, 1)], [("L", X, []), ("a", X, 2)], [("l", X, [2])], pessimistic=True)
    assert Anomaly.LOST_UPDATE in anomalies(made)


def test_read_committed_forbids_less() -> None:
    assert check_isolation(BAD["read skew"][1], level=Level.READ_COMMITTED).ok
    assert not check_isolation(BAD["write cycle"][1], level=Level.READ_COMMITTED).ok


def test_open_transactions_have_not_taken_effect() -> None:
    made = TxnHistory()
    made.begin(0).append(X, 1)
    reader = made.begin(1)
    reader.read_list(X, [1])
    made.committed(reader)
    assert anomalies(made) == {Anomaly.G1A}


def test_real_time() -> None:
    made = TxnHistory()
    first = made.begin(0)
    first.write(X, 1)
    made.committed(first)
    second = made.begin(1)
    second.read(X, None)
    made.committed(second)
    assert anomalies(made) == {Anomaly.REAL_TIME}
    assert check_isolation(made, real_time=False).ok
    first.causal = True
    assert check_isolation(made).ok
    first.causal, second.stale = False, True
    assert check_isolation(made).ok


def test_a_value_written_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="written twice"):
        check_isolation(history([("w", X, 1)], [("w", X, 1)]))


# --- with timestamps ---


def stamped(*txns: tuple[int, int | None, Script], **options: Any) -> TxnHistory:
    """Make a history of transactions with (start_ts, commit_ts, script)."""
    made = history(*(script for _, _, script in txns), **options)
    for txn, (start_ts, commit_ts, _) in zip(made, txns, strict=True):
        txn.start_ts, txn.commit_ts = start_ts, commit_ts
    return made


STAMPED_GOOD: dict[str, TxnHistory] = {
    "snapshots": stamped((1, 5, [("w", X, 1)]), (3, None, [("r", X, None)]), (5, None, [("r", X, 1)])),
    "lists": stamped((1, 2, [("a", X, 1)]), (3, 4, [("a", X, 2)]), (5, None, [("l", X, [1, 2])])),
    "blind writes without overlap": stamped((1, 2, [("w", X, 1)]), (2, 4, [("w", X, 2)])),
    "a deletion": stamped(
        (1, 2, [("w", X, 1)]), (3, 5, [("w", X, None)]), (4, None, [("r", X, 1)]), (5, None, [("r", X, None)])
    ),
    "undetermined at an unknown time": stamped(
        (1, 2, [("w", X, 1)]), (3, None, [("w", X, 2)]), (5, None, [("r", X, 1)]), (7, None, [("r", X, 2)]),
        status={1: "?"},
    ),
    "pessimistic writes over a newer version": stamped(
        (1, 9, [("R", X, 2), ("w", X, 1)]), (3, 5, [("w", X, 2)]), pessimistic=True
    ),
}  # fmt: skip

STAMPED_BAD: dict[str, tuple[Anomaly, TxnHistory]] = {
    "stale read": (Anomaly.SNAPSHOT_READ, stamped((1, 2, [("w", X, 1)]), (3, None, [("r", X, None)]))),
    "read of the future": (Anomaly.SNAPSHOT_READ, stamped((1, 5, [("w", X, 1)]), (3, None, [("r", X, 1)]))),
    "deleted value read": (
        Anomaly.SNAPSHOT_READ,
        stamped((1, 2, [("w", X, 1)]), (3, 4, [("w", X, None)]), (5, None, [("r", X, 1)])),
    ),
    "list without an element": (
        Anomaly.SNAPSHOT_READ,
        stamped((1, 2, [("a", X, 1)]), (3, 4, [("a", X, 2)]), (5, None, [("l", X, [1])])),
    ),
    "first committer": (Anomaly.FIRST_COMMITTER, stamped((1, 4, [("w", X, 1)]), (2, 5, [("w", X, 2)]))),
    "locking read of an old version": (
        Anomaly.SNAPSHOT_READ,
        stamped((1, 9, [("R", X, None), ("w", X, 1)]), (3, 5, [("w", X, 2)]), pessimistic=True),
    ),
    "commit before start": (Anomaly.TIMESTAMPS, stamped((5, 5, [("w", X, 1)]))),
    "one start_ts twice": (Anomaly.TIMESTAMPS, stamped((5, None, []), (5, None, []))),
    "one commit_ts twice": (Anomaly.TIMESTAMPS, stamped((1, 5, [("w", X, 1)]), (2, 5, [("w", X, 2)]))),
    "undetermined, no commit_ts fits": (
        Anomaly.SNAPSHOT_READ,
        stamped((4, None, [("w", X, 1)]), (3, None, [("r", X, 1)]), status={0: "?"}),
    ),
    "undetermined, seen before and hidden later": (
        Anomaly.SNAPSHOT_READ,
        stamped(
            (1, None, [("w", X, 1)]), (2, 8, [("w", X, 2)]), (5, None, [("r", X, 1)]), (9, None, [("r", X, 1)]),
            status={0: "?"},
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STAMPED_GOOD)
def test_good_timestamps_are_accepted(name: str) -> None:
    report = check_isolation(STAMPED_GOOD[name])
    assert report.ok, report.describe()


@pytest.mark.parametrize("name", STAMPED_BAD)
def test_bad_timestamps_are_rejected(name: str) -> None:
    expected, made = STAMPED_BAD[name]
    assert expected in anomalies(made)
    assert not check_isolation(made).ok


def test_timestamps_in_real_time() -> None:
    made = TxnHistory()
    first = made.begin(0, start_ts=1)
    first.write(X, 1)
    made.committed(first, commit_ts=9)
    second = made.begin(1, start_ts=9)  # equal is fine
    made.committed(second)
    assert check_isolation(made).ok
    second.start_ts = 8
    report = check_isolation(made)
    assert [finding.anomaly for finding in report.violations] == [Anomaly.REAL_TIME]
    assert "T1 began after T0 had ended, which had committed at 9, but has start_ts 8" in report.describe()
    first.causal = True
    assert check_isolation(made).ok


def test_histories_are_written_and_read() -> None:
    made = STAMPED_BAD["undetermined, no commit_ts fits"][1]
    read = TxnHistory.from_json_lines(made.to_json_lines())
    assert [txn.describe() for txn in read] == [txn.describe() for txn in made]
    lists = TxnHistory.from_json_lines(BAD["read skew"][1].to_json_lines())
    assert anomalies(lists) == {Anomaly.G_SINGLE}
    assert lists.begin(0).number == 3
    assert lists.txns[0].status is TxnStatus.COMMITTED


# --- size ---


def long_history(count: int) -> TxnHistory:
    """A store that is right: each of ten keys is a list, transactions read two and append to one."""
    made = TxnHistory()
    lists: dict[bytes, list[int]] = {b"%d" % n: [] for n in range(10)}
    for number in range(count):
        if number % 200 == 0:
            lists = {b"%d.%d" % (number, n): [] for n in range(10)}
        txn = made.begin(number % 8, start_ts=2 * number)
        names = list(lists)
        one, other = names[number % 10], names[number * 7 % 10]
        txn.read_list(one, lists[one])
        txn.read_list(other, lists[other])
        lists[one].append(number)
        txn.append(one, number)
        made.committed(txn, commit_ts=2 * number + 1)
    return made


def test_thousands_of_transactions_are_judged_in_linear_time() -> None:
    sizes = []
    for count in (1000, 4000):
        made = long_history(count)
        assert check_isolation(made).ok
        graph = build_graph(made, observe(made), real_time=True)
        sizes.append(sum(len(edges) for edges in graph.edges.values()))
    assert sizes[1] < 5 * sizes[0]


def test_components_of_a_long_ring_and_a_chain() -> None:
    """No recursion: a ring of a hundred thousand nodes is one component, a chain none."""
    size = 100_000
    assert [len(c) for c in components(range(size), lambda n: [(n + 1) % size])] == [size]
    assert components(range(size), lambda n: [n + 1] if n + 1 < size else []) == []


# --- the bank ---


def test_bank() -> None:
    accounts = {X: 50, Y: 50}
    good = check_bank([("first", {X: 50, Y: 50}), ("second", {X: 0, Y: 100})], accounts)
    assert good.ok
    assert good.describe() == "bank: 2 snapshots, each with a total of 100"
    bad = check_bank([("a", {X: 50, Y: 60}), ("b", {X: 100}), ("c", {X: -1, Y: 101}), ("d", {X: 99, Y: 1})], accounts)
    assert [problem[0] for problem in bad.problems] == ["a", "b", "c"]
    assert "the total is 110, not 100" in bad.describe()
    assert check_bank([("c", {X: -1, Y: 101})], accounts, overdraft=True).ok
