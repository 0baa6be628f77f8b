"""The simulated cluster itself: who serves what, what each trouble does, what a store of finite capacity wastes."""

from __future__ import annotations

import contextlib

import pytest

from pytikv.errors import TikvError
from pytikv.testing.capacity import Capacity
from pytikv.testing.load import LoadRun, between, errors_of, goodput, percentile


def arrived(run: LoadRun) -> list[int]:
    return [len(run.arrivals(number)) for number in run.fleet.numbers]


def test_each_store_leads_a_third() -> None:
    run = LoadRun(1, per_second=100, seconds=3).play()
    assert arrived(run) == [sum(answer.region == number for answer in run.answers) for number in (1, 2, 3)]
    assert min(arrived(run)) > 50
    assert errors_of(run.answers) == {}


def test_replica_reads_are_served_by_all() -> None:
    run = LoadRun(1, per_second=100, seconds=3, regions=(b"a",), options={"replica_read": "mixed"}).play()
    assert errors_of(run.answers) == {}
    assert min(arrived(run)) > 50


def test_what_one_store_wrote_its_replicas_read() -> None:
    found: list[bytes | None] = []

    async def script(run: LoadRun) -> None:
        writer = run.clients["client-0"]
        reader = await run.open("client-0", replica_read="follower")
        for number in range(20):
            await writer.put(b"a", b"%d" % number)
            found.append(await reader.get(b"a"))
        await reader.close()

    # The script is of the process that its clients are of.
    run = LoadRun(1, clients=1, per_second=1, seconds=0.001)
    run.play(lambda run: run.within("client-0", script(run)))
    assert found == [b"%d" % number for number in range(20)]
    assert min(arrived(run)[1:]) > 5


def test_a_leader_that_moved_is_found() -> None:
    async def script(run: LoadRun) -> None:
        await run.until(1)
        run.fleet.lead(b"a", 3)

    run = LoadRun(1, per_second=100, seconds=3, regions=(b"a",)).play(script)
    assert errors_of(run.answers) == {}
    first, _, third = arrived(run)
    assert 60 < first < 140
    assert third > 150
    assert max(run.arrivals(1)) < 1.1


def test_a_region_that_was_split_is_found() -> None:
    async def script(run: LoadRun) -> None:
        await run.until(1)
        assert run.fleet.split(b"a5")
        assert not run.fleet.split(b"a5")
        run.fleet.lead(b"a5", 2)

    run = LoadRun(1, per_second=100, seconds=3, regions=(b"a",)).play(script)
    assert errors_of(run.answers) == {}
    assert [answer.key < b"a5" for answer in between(run.answers, 2, 3)].count(True) == len(
        [at for at in run.arrivals(1) if 2 <= at < 3]
    )


def test_a_crash_and_a_new_start() -> None:
    async def script(run: LoadRun) -> None:
        await run.until(1)
        run.fleet.crash(1)
        await run.until(2)
        run.fleet.revive(1)

    run = LoadRun(1, per_second=100, seconds=8, options={"timeout": 0.3, "rpc_timeout": 0.3}).play(script)
    down = [answer for answer in between(run.answers, 1.1, 1.6) if answer.region == 1]
    assert down
    assert not any(answer.is_good for answer in down)
    assert all(answer.is_good for answer in between(run.answers, 6, 8))
    assert all(answer.is_good for answer in run.answers if answer.region != 1)


def test_a_silent_store_takes_requests_and_answers_none() -> None:
    async def script(run: LoadRun) -> None:
        run.fleet.trouble(1).is_silent = True

    options = {"timeout": 0.5, "rpc_timeout": 0.5}
    run = LoadRun(1, per_second=50, seconds=2, regions=(b"a",), options=options).play(script)
    assert set(errors_of(run.answers)) <= {"DeadlineExceeded", "ConnectionFailed"}
    assert not any(answer.is_good for answer in run.answers)
    assert max(answer.seconds for answer in run.answers) == pytest.approx(0.5, abs=0.001)
    assert run.arrivals(1)


def test_a_run_replays_exactly() -> None:
    runs = [LoadRun(seed, per_second=100, seconds=2, capacity=Capacity()).play() for seed in (7, 7, 8)]
    assert runs[0].answers == runs[1].answers
    assert runs[0].world.digest == runs[1].world.digest
    assert runs[0].world.digest != runs[2].world.digest


def test_a_failing_script_ends_the_run() -> None:
    async def script(run: LoadRun) -> None:
        raise RuntimeError("out of ideas")

    with pytest.raises(RuntimeError, match="out of ideas"):
        LoadRun(1, per_second=10, seconds=1).play(script)


# --- capacity ---


def test_a_store_carries_out_what_its_workers_can() -> None:
    capacity = Capacity(workers=2, service_seconds=0.02)
    run = LoadRun(
        1, per_second=150, seconds=6, regions=(b"a",), options={"timeout": 30.0, "rpc_timeout": 30.0}, capacity=capacity
    ).play()
    assert errors_of(run.answers) == {}
    ended = sorted(answer.began + answer.seconds for answer in run.answers)
    assert sum(1 <= at < 8 for at in ended) / 7 == pytest.approx(capacity.per_second, rel=0.05)
    early, late = between(run.answers, 0, 1), between(run.answers, 5, 6)
    assert percentile(late, 0.5) > 5 * percentile(early, 0.5)


def test_a_store_works_on_for_callers_that_have_gone() -> None:
    """Over capacity and without a bound, all work is for nothing: the stores are busy, and nobody is served."""
    capacity = Capacity(workers=2, service_seconds=0.02)
    options = {"timeout": 0.2, "rpc_timeout": 0.2}
    run = LoadRun(1, per_second=200, seconds=6, regions=(b"a",), options=options, capacity=capacity).play()
    assert goodput(run.answers, 2, 6) < 0.05 * capacity.per_second
    assert run.fleet.tallies[1].served > 0.9 * 6 * capacity.per_second


def test_a_bounded_queue_refuses_as_tikv_does() -> None:
    capacity = Capacity(workers=2, service_seconds=0.02, queue_limit=4)
    options = {"timeout": 0.2, "rpc_timeout": 0.2}
    run = LoadRun(1, per_second=200, seconds=4, regions=(b"a",), options=options, capacity=capacity).play()
    assert run.fleet.tallies[1].refused > 100
    assert errors_of(run.answers)["Overloaded"] > 100
    assert percentile([answer for answer in run.answers if answer.is_good], 0.5) < 0.2
    assert goodput(run.answers, 1, 4) > 0.75 * capacity.per_second


def test_a_call_that_is_cut_off_gives_its_worker_back() -> None:
    """Calls by themselves (a compare-and-swap is one) end with their connection, served or waiting."""
    found: list[bytes | None] = []

    async def swap(run: LoadRun, number: int) -> None:
        with contextlib.suppress(TikvError):
            await run.clients["client-0"].compare_and_swap(b"a%d" % number, None, b"x")

    async def script(run: LoadRun) -> None:
        rt = run.world.process("client-0")
        await run.within("client-0", run.clients["client-0"].get(b"a"))
        for number in range(3):
            rt.spawn(swap(run, number), name="swap")
        await run.until(run.now + 0.2)
        assert run.fleet.queued == 2
        run.world.network.break_connections("client-0", "store-1")
        await run.until(run.now + 1.0)
        assert run.fleet.queued == 0
        found.append(await run.within("client-0", run.clients["client-0"].get(b"a")))

    slow = Capacity(workers=1, service_seconds=0.5)
    LoadRun(1, clients=1, per_second=0.001, seconds=0.001, regions=(b"a",), capacity=slow).play(script)
    assert found == [None]
