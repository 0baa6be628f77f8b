"""Work on a range, region by region: bounded, going on through changes of regions, ended by the first failure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pytikv.client.backoff import Backoffer
from pytikv.client.request_sender import Call, RegionStale
from pytikv.client.txn.admin import range_task
from pytikv.client.txn.admin.range_task import Progress, RangeTask
from pytikv.client.txn.backend import TxnPiece
from pytikv.codec import api
from pytikv.errors import ServerError
from pytikv.rt.interface import Runtime
from pytikv.testing.sim import World


class Regions:
    """What is used of a backend: a sorted list of borders that tests may change at any time."""

    def __init__(self, rt: Runtime, borders: list[bytes]) -> None:
        self.rt = rt
        self.codec = api.txn_v1()
        self.borders = borders

    def call(self) -> Call:
        return Call(Backoffer(self.rt, self.rt.now() + 10))

    def next_border(self, key: bytes, end: bytes) -> bytes:
        above = [border for border in self.borders if border > key]
        return above[0] if above and (not end or above[0] < end) else end

    async def first_piece(self, start: bytes, end: bytes, call: Call, *, reverse: bool = False) -> TxnPiece:
        assert not reverse
        return TxnPiece(tuple(self.borders), start, self.next_border(start, end))

    async def pieces(self, start: bytes, end: bytes, call: Call) -> list[TxnPiece]:
        found = []
        while not found or (start != end and start):
            border = self.next_border(start, end)
            found.append(TxnPiece(tuple(self.borders), start, border))
            start = border
        return found


def in_simulation(scenario: Callable[[Runtime], Coroutine[Any, Any, Any]]) -> Any:
    with World(11) as world:
        return world.run(scenario(world.process("main")))


def test_every_region_once_and_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_task, "REGIONS_AHEAD", 10)

    async def scenario(rt: Runtime) -> None:
        regions: Any = Regions(rt, [b"%02d" % number for number in range(1, 25)])
        seen: list[tuple[bytes, bytes]] = []
        told: list[Progress] = []
        running = peak = 0

        async def handle(piece: TxnPiece, call: Call) -> tuple[int, None]:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            await rt.sleep(rt.rng.random())
            seen.append((piece.start_key, piece.end_key))
            running -= 1
            return 2, None

        task = RangeTask(regions, b"", b"", handle, concurrency=4, on_progress=told.append)
        done = await task.run()
        assert done == Progress(25, 50, None) == told[-1]
        assert peak == 4
        borders = [b"", *regions.borders, b""]
        assert sorted(seen) == sorted(itertools.pairwise(borders))
        counts = [one.regions for one in told]
        assert counts == sorted(counts)
        positions = [one.position for one in told if one.position]
        assert positions == sorted(positions)

    in_simulation(scenario)


def test_a_region_that_changed_is_divided_anew() -> None:
    async def scenario(rt: Runtime) -> None:
        regions: Any = Regions(rt, [b"m"])
        seen: list[tuple[bytes, bytes]] = []

        async def handle(piece: TxnPiece, call: Call) -> tuple[int, None]:
            if piece.start_key == b"m" and len(regions.borders) == 1:
                regions.borders = [b"m", b"p", b"t"]
            if piece.region != tuple(regions.borders) and piece.start_key >= b"m":
                raise RegionStale
            seen.append((piece.start_key, piece.end_key))
            return 1, None

        done = await RangeTask(regions, b"a", b"z", handle).run()
        assert sorted(seen) == [(b"a", b"m"), (b"m", b"p"), (b"p", b"t"), (b"t", b"z")]
        assert done == Progress(4, 4, None)

    in_simulation(scenario)


def test_a_step_may_leave_the_rest_for_the_next() -> None:
    async def scenario(rt: Runtime) -> None:
        regions: Any = Regions(rt, [])
        seen: list[bytes] = []

        async def handle(piece: TxnPiece, call: Call) -> tuple[int, bytes | None]:
            assert call.backoffer.deadline - rt.now() == pytest.approx(10)  # each step has a time of its own
            await rt.sleep(9)
            seen.append(piece.start_key)
            following = bytes([piece.start_key[0] + 1])
            return 1, following if following < piece.end_key else None

        done = await RangeTask(regions, b"a", b"f", handle).run()
        assert seen == [b"a", b"b", b"c", b"d", b"e"]
        assert done == Progress(1, 5, None)

    in_simulation(scenario)


def test_the_first_failure_ends_all_and_says_where() -> None:
    async def scenario(rt: Runtime) -> None:
        regions: Any = Regions(rt, [b"%02d" % number for number in range(1, 25)])
        ended: list[bytes] = []

        async def handle(piece: TxnPiece, call: Call) -> tuple[int, None]:
            if piece.start_key == b"03":
                await rt.sleep(1)
                raise ServerError("no")
            await rt.sleep(100)
            ended.append(piece.start_key)
            return 1, None

        task = RangeTask(regions, b"01", b"24", handle)
        begun = rt.now()
        with pytest.raises(ServerError) as caught:
            await task.run()
        assert rt.now() - begun < 2
        assert ended == []
        assert caught.value.__notes__ == ["while working on the keys from b'03' to b'04'"]
        assert task.progress == Progress(0, 0, b"01")

    in_simulation(scenario)


def test_an_empty_range_is_no_work() -> None:
    async def scenario(rt: Runtime) -> None:
        async def handle(piece: TxnPiece, call: Call) -> tuple[int, None]:
            raise AssertionError

        regions: Any = Regions(rt, [])
        assert await RangeTask(regions, b"b", b"b", handle).run() == Progress(0, 0, None)
        assert await RangeTask(regions, b"c", b"b", handle).run() == Progress(0, 0, None)

    in_simulation(scenario)
