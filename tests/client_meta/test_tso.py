"""Timestamps: batching, order, and an oracle that misbehaves."""

from __future__ import annotations

import threading

import pytest

from pytikv.client.pd import PdClient
from pytikv.client.pool import ConnectionPool
from pytikv.client.tso import MAX_BATCH
from pytikv.errors import ConnectionFailed, DeadlineExceeded, InvalidArgument, ServerError, TikvError
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.caller import CallerRuntime
from pytikv.types import MAX_TIMESTAMP, Timestamp
from pytikv.wire.errors import RpcError, Status


def test_ascending(fakes, with_pd) -> None:
    cluster = fakes.cluster()

    async def main(pd, rt):
        stamps = [await pd.tso.get(rt.now() + 5) for _ in range(20)]
        assert stamps == sorted(set(stamps))
        assert all(isinstance(stamp, Timestamp) for stamp in stamps)
        assert stamps[0].physical_ms == cluster.tso.physical
        assert cluster.tso.requests == [1] * 20

    with_pd(cluster.endpoints, main)


def test_a_block_is_counted_from_its_last(fakes, with_pd) -> None:
    cluster = fakes.cluster()

    async def main(pd, rt):
        cluster.tso.logical = 100
        many = await pd.tso.get_many(5, rt.now() + 5)
        assert [stamp.logical for stamp in many] == [101, 102, 103, 104, 105]
        assert (await pd.tso.get(rt.now() + 5)).logical == 106

    with_pd(cluster.endpoints, main)


def test_many_at_once_are_few_requests(fakes, with_pd) -> None:
    cluster = fakes.cluster()

    async def main(pd, rt):
        stamps = await rt.gather(*(pd.tso.get(rt.now() + 5) for _ in range(500)))
        assert len(set(stamps)) == 500
        assert sum(cluster.tso.requests) == 500
        assert len(cluster.tso.requests) < 10

    with_pd(cluster.endpoints, main)


def test_at_most_ten_thousand_a_request(fakes, with_pd) -> None:
    cluster = fakes.cluster()

    async def main(pd, rt):
        blocks = await rt.gather(*(pd.tso.get_many(4000, rt.now() + 5) for _ in range(6)))
        assert len({stamp for block in blocks for stamp in block}) == 24_000
        assert max(cluster.tso.requests) <= MAX_BATCH
        for count in (0, -1, MAX_BATCH + 1):
            with pytest.raises(InvalidArgument):
                await pd.tso.get_many(count, rt.now() + 5)

    with_pd(cluster.endpoints, main)


def test_64_threads_share_one_stream(fakes) -> None:
    cluster = fakes.cluster()
    rt = CallerRuntime()
    pool = ConnectionPool(rt)
    pd = PdClient(rt, pool, cluster.endpoints)
    rt.run(pd.connect(rt.now() + 5))
    gate = threading.Barrier(64)
    taken: list[list[Timestamp]] = []

    def work() -> None:
        gate.wait()
        taken.append([rt.run(pd.tso.get(rt.now() + 10)) for _ in range(10)])

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened = len(cluster.members[0].connections)
    pd.close()
    rt.run(pool.close())
    rt.close()
    assert len({stamp for mine in taken for stamp in mine}) == 640
    assert all(mine == sorted(mine) for mine in taken)
    assert opened <= 3
    assert len(cluster.tso.requests) < 640


# --- an oracle that misbehaves ----------------------------------------------------------------------------------------


def refused(fakes, with_pd, script, match: str) -> None:
    """The answer of `script` after a good one is refused, and a good one after that serves again."""
    cluster = fakes.cluster()

    async def main(pd, rt):
        first = await pd.tso.get(rt.now() + 5)
        cluster.tso.script = lambda request: script(cluster, request)
        with pytest.raises(ServerError, match=match):
            await pd.tso.get(rt.now() + 5)
        cluster.tso.script = None
        assert await pd.tso.get(rt.now() + 5) > first

    with_pd(cluster.endpoints, main)


def test_a_lower_timestamp_is_refused(fakes, with_pd) -> None:
    refused(fakes, with_pd, lambda c, r: c.tso.block(r.count, 7, physical=c.tso.physical - 1), "went back")


def test_the_same_timestamp_is_refused(fakes, with_pd) -> None:
    refused(fakes, with_pd, lambda c, r: c.tso.block(r.count, 7, logical=c.tso.logical), "went back")


@pytest.mark.parametrize("count", [0, 2, 500])
def test_a_wrong_count_is_refused(fakes, with_pd, count) -> None:
    refused(fakes, with_pd, lambda c, r: c.tso.block(count, 7, logical=c.tso.logical + 500), "asked for 1")


@pytest.mark.parametrize(("physical", "logical"), [(0, 5), (-1, 5), (2_000_000_000_000, -1)])
def test_what_is_no_timestamp_is_refused(fakes, with_pd, physical, logical) -> None:
    refused(fakes, with_pd, lambda c, r: c.tso.block(r.count, 7, physical=physical, logical=logical), "none")


def test_an_error_in_the_header_is_told(fakes, with_pd) -> None:
    def script(cluster, request):
        error = pdpb.Error(type=pdpb.UNKNOWN, message="no allocator")
        return pdpb.TsoResponse(header=pdpb.ResponseHeader(cluster_id=7, error=error))

    refused(fakes, with_pd, script, "no allocator")


def test_logical_overflow_goes_on_in_the_next_millisecond(fakes, with_pd) -> None:
    cluster = fakes.cluster()
    cluster.tso.logical = (1 << 18) - 3

    async def main(pd, rt):
        before = await pd.tso.get_many(2, rt.now() + 5)
        after = await pd.tso.get_many(2, rt.now() + 5)
        assert before[-1] < after[0]
        assert after[0].physical_ms == before[0].physical_ms + 1

    with_pd(cluster.endpoints, main)


def test_a_cut_stream_is_opened_again(fakes, with_pd) -> None:
    cluster = fakes.cluster()

    async def main(pd, rt):
        stamps = []
        for _ in range(4):
            stamps.append(await pd.tso.get(rt.now() + 5))
            cluster.members[0].cut()
        assert stamps == sorted(set(stamps))

    with_pd(cluster.endpoints, main)


def test_a_stream_that_breaks_in_the_midst(fakes, with_pd) -> None:
    cluster = fakes.cluster()
    left = [3]

    def script(request):
        if left[0]:
            left[0] -= 1
            return RpcError(Status.UNAVAILABLE, "stream closed")
        cluster.tso.script = None
        return cluster.tso.answer(request, 7)

    cluster.tso.script = script

    async def main(pd, rt):
        assert await pd.tso.get(rt.now() + 5) > 0

    with_pd(cluster.endpoints, main)


def test_the_leader_is_lost(fakes, with_pd) -> None:
    cluster = fakes.cluster(3)

    async def main(pd, rt):
        first = await pd.tso.get(rt.now() + 5)
        cluster.members[0].stop()
        cluster.leader = 2
        second = await pd.tso.get(rt.now() + 5)
        cluster.leader = 1
        third = await pd.tso.get(rt.now() + 5)
        assert first < second < third
        assert cluster.calls[-1] == (1, "Tso")

    with_pd(cluster.endpoints, main)


def test_a_stream_that_stalls_is_left(fakes, with_pd) -> None:
    cluster = fakes.cluster(2)

    async def main(pd, rt):
        await pd.tso.get(rt.now() + 5)
        cluster.members[0].hangs = True
        cluster.leader = 1
        assert await pd.tso.get(rt.now() + 5) > 0

    with_pd(cluster.endpoints, main, timeout_s=0.2)


def test_nobody_answers_by_the_deadline(fakes, with_pd) -> None:
    cluster = fakes.cluster(2)

    async def main(pd, rt):
        for member in cluster.members:
            member.stop()
        start = rt.now()
        # Which of the two depends on whether the time ends within a wait or within a try.
        with pytest.raises((ConnectionFailed, DeadlineExceeded)) as failed:
            await pd.tso.get(start + 0.4)
        assert rt.now() - start < 1.4
        assert any(address in str(failed.value) for address in cluster.endpoints)

    with_pd(cluster.endpoints, main)


def test_a_short_deadline_ends_alone(fakes, with_pd) -> None:
    """The holder's time ends; those who wait with it and have more are served."""
    cluster = fakes.cluster()

    async def main(pd, rt):
        await pd.tso.get(rt.now() + 5)
        release = threading.Event()
        cluster.tso.script = lambda request: None if not release.is_set() else answer(request)

        def answer(request):
            cluster.tso.script = None
            return cluster.tso.answer(request, 7)

        async def short():
            try:
                await pd.tso.get(rt.now() + 0.1)
            except TikvError as error:
                release.set()
                return error

        async def long():
            await rt.sleep(0.02)
            return await pd.tso.get(rt.now() + 5)

        error, stamp = await rt.gather(short(), long())
        assert isinstance(error, TikvError)
        assert isinstance(stamp, Timestamp)

    with_pd(cluster.endpoints, main, timeout_s=0.3)


# --- what is built on it ----------------------------------------------------------------------------------------------


def test_low_resolution_is_from_memory(fakes, with_pd) -> None:
    cluster = fakes.cluster()

    async def main(pd, rt):
        first = await pd.tso.low_resolution(2.0, rt.now() + 5)
        assert await pd.tso.low_resolution(2.0, rt.now() + 5) == first
        assert len(cluster.tso.requests) == 1
        assert await pd.tso.low_resolution(-1.0, rt.now() + 5) > first

    with_pd(cluster.endpoints, main)


def test_read_timestamps_must_not_lie_in_the_future(fakes, with_pd) -> None:
    cluster = fakes.cluster()

    async def main(pd, rt):
        until = rt.now() + 5
        now = await pd.tso.get(until)
        await pd.tso.validate_read_ts(now, until)
        await pd.tso.validate_read_ts(MAX_TIMESTAMP, until)
        asked = len(cluster.tso.requests)
        await pd.tso.validate_read_ts(now - 1, until)
        assert len(cluster.tso.requests) == asked
        with pytest.raises(InvalidArgument, match="future"):
            await pd.tso.validate_read_ts(now + (1 << 30), until)
        for wrong in (-1, 1 << 63, MAX_TIMESTAMP - 1, MAX_TIMESTAMP + 1):
            with pytest.raises(InvalidArgument):
                await pd.tso.validate_read_ts(wrong, until)

    with_pd(cluster.endpoints, main)
