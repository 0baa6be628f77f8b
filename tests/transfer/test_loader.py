"""The loader's account: what was written, what was acknowledged, where to resume."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytikv.errors import BatchError, DeadlineExceeded, InvalidArgument, Outcome, TikvError
from pytikv.transfer.loader import Loader, LoadOptions
from pytikv.transfer.readers import BadRow, Row


class Store:
    """A store that does as told; safe from threads."""

    def __init__(self, *, refuse: frozenset[bytes] = frozenset(), fail_at: bytes | None = None) -> None:
        self.data: dict[bytes, bytes] = {}
        self.batches = 0
        self.refuse = refuse
        self.fail_at = fail_at
        self.lock = threading.Lock()

    def put(self, pairs: Mapping[bytes, bytes]) -> None:
        if self.fail_at in pairs:
            raise DeadlineExceeded("too slow", outcome=Outcome.UNDETERMINED)
        if not self.refuse.isdisjoint(pairs):
            raise InvalidArgument("key too long")
        with self.lock:
            self.batches += 1
            self.data.update(pairs)


def rows(count: int, start: int = 0) -> list[Row | BadRow]:
    return [Row(n + 1, b"k%05d" % n, b"v%d" % n) for n in range(start, start + count)]


def test_everything_is_written() -> None:
    store = Store()
    seen: list[int] = []
    report = Loader(store.put, LoadOptions(batch_rows=10), progress=lambda r: seen.append(r.rows)).run(rows(95))
    assert report.complete
    assert report.rows == report.acknowledged == len(store.data) == 95
    assert store.batches == 10
    assert seen == sorted(seen)
    assert seen[-1] == 95
    assert report.payload_bytes == sum(len(k) + len(v) for k, v in store.data.items())


def test_batches_are_bounded_by_bytes() -> None:
    store = Store()
    Loader(store.put, LoadOptions(batch_bytes=1000)).run([Row(n, b"%d" % n, bytes(400)) for n in range(10)])
    assert store.batches == 4


def test_nothing_to_do() -> None:
    report = Loader(Store().put).run([])
    assert report.complete
    assert report.rows == report.acknowledged == 0


def test_stop_at_a_bad_row_keeps_what_came_before_and_resumes_at_it() -> None:
    store = Store()
    report = Loader(store.put, LoadOptions(batch_rows=4)).run([*rows(10), BadRow(11, "ugly"), *rows(5, 10)])
    assert not report.complete
    assert report.bad == [BadRow(11, "ugly")]
    assert report.rows == report.acknowledged == len(store.data) == 10
    assert report.error is None


def test_skip_bad_rows_up_to_a_number() -> None:
    bad: list[Row | BadRow] = [BadRow(n, "ugly") for n in (3, 5, 9)]
    mixed = [*rows(2), bad[0], *rows(3, 2), bad[1], bad[2], *rows(4, 5)]
    report = Loader(Store().put, LoadOptions(batch_rows=2, stop_on_bad_row=False, max_bad=3)).run(mixed)
    assert report.complete
    assert (report.rows, report.acknowledged, len(report.bad)) == (9, 12, 3)
    report = Loader(Store().put, LoadOptions(batch_rows=2, stop_on_bad_row=False, max_bad=2)).run(mixed)
    assert not report.complete
    assert (report.rows, report.acknowledged, len(report.bad)) == (5, 7, 3)


def test_rows_that_the_store_refuses_are_bad_rows() -> None:
    store = Store(refuse=frozenset({b"k00013"}))
    report = Loader(store.put, LoadOptions(batch_rows=10, stop_on_bad_row=False)).run(rows(30))
    assert report.complete
    assert report.bad == [BadRow(14, "key too long")]
    assert report.rows == len(store.data) == 29


def test_batch_error_of_refused_keys() -> None:
    def put(pairs: Mapping[bytes, bytes]) -> None:
        raise BatchError("part", failed={b"k00001": InvalidArgument("no")})

    report = Loader(put, LoadOptions(stop_on_bad_row=False)).run(rows(3))
    assert report.bad == [BadRow(2, "no")]
    assert report.rows == 2


def test_error_of_the_store_stops_and_acknowledges_only_what_is_without_a_gap() -> None:
    store = Store(fail_at=b"k00025")
    report = Loader(store.put, LoadOptions(batch_rows=10, jobs=1)).run(rows(1000))
    assert isinstance(report.error, DeadlineExceeded)
    assert not report.complete
    assert report.acknowledged == 20
    assert len(store.data) < 1000
    resumed = Loader(store.put, LoadOptions(batch_rows=10, skip=report.acknowledged))
    store.fail_at = None
    report = resumed.run(rows(1000))
    assert report.complete
    assert (report.skipped, report.rows, report.acknowledged) == (20, 980, 1000)
    assert len(store.data) == 1000


def test_error_that_is_a_bug_is_raised() -> None:
    def put(pairs: Mapping[bytes, bytes]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Loader(put).run(rows(3))


def test_rows_of_one_key_are_written_in_order() -> None:
    """The first batch is held back until the others had every chance to overtake it."""
    gate = threading.Event()
    written: list[bytes] = []

    def put(pairs: Mapping[bytes, bytes]) -> None:
        if pairs.get(b"same") == b"0":
            gate.wait(0.2)
        written.append(pairs.get(b"same", b"-"))

    several = [Row(n, b"same" if n % 2 == 0 else b"other%d" % n, b"%d" % n) for n in range(8)]
    report = Loader(put, LoadOptions(batch_rows=2, jobs=4)).run(several)
    assert report.complete
    assert written == [b"0", b"2", b"4", b"6"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_keeps_what_was_acknowledged(number: int) -> None:
    store = Store()
    before = signal.getsignal(number)  # a shell's background job ignores SIGINT

    def endless() -> Iterator[Row]:
        for n in range(10**9):
            if n == 1000:
                os.kill(os.getpid(), number)
            yield Row(n + 1, b"k%09d" % n, b"")

    report = Loader(store.put, LoadOptions(batch_rows=100)).run(endless())
    assert report.interrupted
    assert not report.complete
    assert report.rows == report.acknowledged == len(store.data) == 1000
    assert signal.getsignal(number) is before


def test_interrupt_waits_for_what_is_on_its_way() -> None:
    started, store = threading.Event(), Store()

    def put(pairs: Mapping[bytes, bytes]) -> None:
        if not started.is_set():
            started.set()
            os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.05)
        store.put(pairs)

    report = Loader(put, LoadOptions(batch_rows=10, jobs=2)).run(rows(100_000))
    assert report.interrupted
    assert 10 <= report.acknowledged == report.rows == len(store.data) < 100_000


def test_from_another_thread() -> None:
    store = Store()
    reports = []
    thread = threading.Thread(target=lambda: reports.append(Loader(store.put).run(rows(10))))
    thread.start()
    thread.join()
    assert reports[0].rows == 10


row_lists = st.lists(
    st.one_of(
        st.builds(lambda k, v: Row(0, b"k%d" % k, b"v%d" % v), st.integers(0, 5), st.integers(0, 99)),
        st.just(BadRow(0, "bad")),
    ),
    max_size=40,
)


@given(row_lists, st.integers(1, 5), st.integers(1, 4), st.sets(st.integers(0, 5), max_size=2), st.booleans())
@settings(max_examples=60, deadline=None)
def test_resuming_at_the_acknowledged_row_gives_what_one_run_gives(
    source: list[Row | BadRow], batch_rows: int, jobs: int, failing: set[int], skip_bad: bool
) -> None:
    numbered = [row._replace(line=line) for line, row in enumerate(source, 1)]
    expected = {row.key: row.value for row in numbered if isinstance(row, Row)}
    data: dict[bytes, bytes] = {}
    failures = {b"k%d" % n for n in failing}

    def put(pairs: Mapping[bytes, bytes]) -> None:
        for key in pairs:
            if key in failures:
                failures.discard(key)  # fails once
                raise TikvError("try again")
        data.update(pairs)

    skip = attempts = 0
    while True:
        options = LoadOptions(batch_rows=batch_rows, jobs=jobs, skip=skip, stop_on_bad_row=not skip_bad)
        report = Loader(put, options).run(numbered)
        attempts += 1
        assert attempts < 60
        if report.complete:
            break
        assert report.acknowledged >= skip
        skip = report.acknowledged
        if report.error is None:  # a bad row: its owner mends the file by taking it out
            assert isinstance(numbered[skip], BadRow)
            del numbered[skip]
    assert data == expected
