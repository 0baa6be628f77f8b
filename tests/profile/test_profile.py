"""`pytikv.profile`: which calls belong to a block, and what its report says of them."""

from __future__ import annotations

import asyncio
import contextlib
import html.parser
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import pytikv
from pytikv.observe import profile as module
from pytikv.observe import telemetry
from pytikv.observe.attribution import Part, Slot
from pytikv.observe.profile import profile
from pytikv.observe.report import MethodStats, Report, StoreStats
from pytikv.observe.telemetry import Telemetry, current_record
from pytikv.rt.clock import ambient_clock


class Clock:
    """Time that calls move."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.telemetry = Telemetry(self.clock, self.clock)

    async def call(
        self, method: str = "raw_get", network: float = 0.0, client: float = 0.0, fails: bool = False
    ) -> None:
        async def body() -> None:
            record = current_record()
            began = self.clock.now
            self.clock.now += network
            if network and record is not None:
                record.step("rpc", "RawGet", began, self.clock.now, "ok", "s1:20160", (b"", b""))
            self.clock.now += client
            await asyncio.sleep(0)
            if fails:
                raise pytikv.Overloaded("busy")

        await self.telemetry.run(method, body())

    def run(self, **options: Any) -> None:
        asyncio.run(self.call(**options))


@pytest.fixture
def world() -> Iterator[World]:
    found = World()
    token = ambient_clock.set(found.clock)
    yield found
    ambient_clock.reset(token)
    assert telemetry.sinks() == ()


def seconds(report: Report) -> dict[str, float]:
    return {part.value: round(value, 9) for part, value in report.parts.items() if value}


def test_a_block_is_divided_into_parts(world: World) -> None:
    with profile() as report:
        world.run(network=3.0, client=1.0)
        world.clock.now += 2.0
        world.run(method="raw_put", network=2.0)
    world.run(network=99.0)
    assert report.seconds == 8.0
    assert seconds(report) == {"your code": 2.0, "client": 1.0, "network": 5.0}
    assert report.methods == {"raw_get": MethodStats(1, 0, 4.0, 4.0), "raw_put": MethodStats(1, 0, 2.0, 2.0)}
    assert report.stores == {"s1:20160": StoreStats(2, 0, 5.0, 3.0)}
    assert report.calls == 2


def test_a_call_that_fails_counts(world: World) -> None:
    with profile() as report, pytest.raises(pytikv.Overloaded):
        world.run(network=1.0, fails=True)
    assert report.methods["raw_get"].failed == 1
    assert "1 call, 1 failed" in report.table()


def test_tasks_of_the_block_belong_to_it_and_threads_do_not(world: World) -> None:
    async def tasks() -> None:
        await asyncio.gather(*(world.call(network=1.0) for _ in range(3)))

    def block(**options: bool) -> Report:
        with profile(**options) as report:
            asyncio.run(tasks())
            thread = threading.Thread(target=world.run, kwargs={"method": "raw_put", "client": 1.0})
            thread.start()
            thread.join()
        return report

    assert set(block().methods) == {"raw_get"}
    everything = block(everywhere=True)
    assert {method: stats.count for method, stats in everything.methods.items()} == {"raw_get": 3, "raw_put": 1}
    assert sum(everything.parts.values()) == pytest.approx(everything.seconds)


def test_blocks_nest(world: World) -> None:
    with profile() as outer:
        world.run(network=1.0)
        with profile() as inner:
            world.run(network=2.0)
    assert (outer.calls, inner.calls) == (2, 1)
    assert (outer.seconds, inner.seconds) == (3.0, 2.0)


def test_a_call_that_goes_on_beyond_the_block_counts_until_its_end(world: World) -> None:
    async def block() -> Report:
        with profile() as report:
            task = asyncio.get_running_loop().create_task(world.call(client=4.0))
            await asyncio.sleep(0)
        await task
        return report

    report = asyncio.run(block())
    assert report.calls == 0
    assert seconds(report) == {"client": 4.0}


def test_adding_up_on_the_way_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def block() -> Report:
        async def outer() -> None:
            for number in range(10):
                world.clock.now += 0.5
                await world.call(network=number * 1.0, client=0.25)

        with profile() as report:
            asyncio.run(world.telemetry.run("client_run", outer()))  # type: ignore[arg-type]
        return report

    whole = block()
    monkeypatch.setattr(module, "KEPT_CALLS", 3)
    assert block().shares == pytest.approx(whole.shares)


def test_what_adding_up_takes_is_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_CALLS", 2)
    with pytikv.RawClient.connect("embedded://:memory:") as client, profile() as report:
        for _ in range(9):
            client.get(b"k")
    assert report.parts[Part.PROFILE] > 0
    assert sum(report.parts.values()) == pytest.approx(report.seconds)
    assert report.calls == 9
    assert report.to_dict()["parts"]["this profile"] > 0


def test_cpu_time_within_requests_is_the_clients() -> None:
    async def body() -> None:
        record = current_record()
        assert record is not None
        began, cpu = time.monotonic(), time.thread_time()
        while time.thread_time() - cpu < 0.02:
            sum(range(1000))
        record.step("rpc", "RawGet", began, time.monotonic(), "ok", "s1:20160", (b"", b""))

    with profile() as report:
        asyncio.run(Telemetry(time.monotonic, time.time).run("raw_get", body()))  # type: ignore[arg-type]
    assert report.shares[Slot("raw_get", Part.CLIENT, "in requests")] >= 0.015
    assert sum(report.parts.values()) == pytest.approx(report.seconds)


def test_an_empty_block_has_a_report(world: World) -> None:
    with profile() as report:
        pass
    assert report.parts == {}
    assert str(report).startswith("0 us in 0 calls")
    assert report.flame().startswith("all")
    assert report.to_html().startswith("<!doctype html>")


def test_the_embedded_store_is_the_clients_time() -> None:
    with pytikv.RawClient.connect("embedded://:memory:") as client:
        with profile() as report:
            client.put(b"k", b"v")
            client.get(b"k")
        assert {method: stats.count for method, stats in report.methods.items()} == {"raw_put": 1, "raw_get": 1}
        assert set(report.parts) == {Part.APPLICATION, Part.CLIENT}
        assert sum(report.parts.values()) == pytest.approx(report.seconds)


# --- what is shown ----------------------------------------------------------------------------------------------------


@pytest.fixture
def report() -> Report:
    shares = {
        Slot("txn_commit", Part.SERVER, "KvPrewrite", "s1:20160"): 0.5,
        Slot("txn_commit", Part.NETWORK, "KvPrewrite", "s1:20160"): 0.125,
        Slot("txn_commit", Part.CLIENT): 0.125,
        Slot("<get>", Part.BACKOFF, "regionMiss"): 0.2495,
        Slot("<get>", Part.CLIENT): 0.0005,
        Slot("", Part.APPLICATION): 1.0,
    }
    methods = {"txn_commit": MethodStats(3, 0, 0.75, 0.5), "<get>": MethodStats(1, 1, 0.25, 0.25)}
    return Report(2.0, 0.25, 0.5, shares, methods, {"s1:20160": StoreStats(3, 0, 0.625, 0.5)})


def test_the_table(report: Report) -> None:
    assert report.table(width=80).splitlines() == [
        "2.00 s in 4 calls, 1 failed; CPU: 250 ms of this thread, 500 ms of the process",
        "",
        "where the time went    time     %",
        "-------------------  ------  ----  -----------------",
        "your code            1.00 s  50.0  █████████████████",
        "server               500 ms  25.0  ████████▌",
        "back-off             250 ms  12.5  ████▎",
        "client               126 ms   6.3  ██▏",
        "network              125 ms   6.2  ██▏",
        "",
        "method      calls  failed   share     %    mean     max  mostly",
        "----------  -----  ------  ------  ----  ------  ------  --------",
        "txn_commit      3       0  750 ms  37.5  250 ms  500 ms  server",
        "<get>           1       1  250 ms  12.5  250 ms  250 ms  back-off",
        "",
        "store     RPCs  failed  network  server    mean     max",
        "--------  ----  ------  -------  ------  ------  ------",
        "s1:20160     3       0   125 ms  500 ms  208 ms  500 ms",
    ]


def test_the_bars(report: Report) -> None:
    assert report.flame(width=80).splitlines() == [
        "all                        2.00 s 100.0 %  █████████████████████████████████████",
        "  your code                1.00 s  50.0 %  ██████████████████▌",
        "  txn_commit               750 ms  37.5 %                    █████████████▉",
        "    KvPrewrite s1:20160    625 ms  31.2 %                    ███████████▌",
        "      server               500 ms  25.0 %                    █████████▎",
        "      network              125 ms   6.2 %                              ██▎",
        "    client                 125 ms   6.2 %                                ██▎",
        "  <get>                    250 ms  12.5 %                                  ████▋",
        "    back-off               250 ms  12.5 %                                  ████▋",
        "      regionMiss           250 ms  12.5 %                                  ████▋",
    ]


class Tags(html.parser.HTMLParser):
    """Checks that every tag is closed, and keeps what the chart's bars say."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.titles: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.scripts += tag == "script" or any(name in ("src", "href") for name, _ in attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-2:] == ["rect", "title"]:
            self.titles.append(data)


def test_the_page_needs_nothing_else(report: Report, tmp_path: Any) -> None:
    report.save(tmp_path / "report.html")
    tags = Tags()
    tags.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert tags.open == []
    assert tags.scripts == 0
    assert "<get>: 250 ms, 12.5 %" in tags.titles
    assert "server: 500 ms, 25.0 %" in tags.titles


def test_plain_data_for_programs(report: Report) -> None:
    data = json.loads(json.dumps(report.to_dict()))
    assert data["parts"]["server"] == 0.5
    assert sum(data["parts"].values()) == pytest.approx(data["seconds"])
    assert data["shares"][0] == {"method": "", "part": "your code", "name": "", "store": "", "seconds": 1.0}
    assert data["methods"]["<get>"]["failed"] == 1


def test_a_console_of_rich_shows_tables(report: Report) -> None:
    from rich.console import Console

    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(report)
    assert "KvPrewrite" not in (text := console.export_text())
    assert "txn_commit" in text
    assert "<get>" in text


@pytest.mark.process
def test_a_real_server_says_what_was_its_own() -> None:
    from pytikv.testing.server import ServerProcess

    with ServerProcess() as server, pytikv.TransactionClient.connect(server.url) as client:
        with profile() as report:
            for number in range(20):
                with client.begin() as txn:
                    txn.put(b"k%d" % number, b"v")
                    txn.get(b"k%d" % (number - 1))
        assert {Part.CLIENT, Part.NETWORK, Part.SERVER, Part.TSO} <= set(report.parts)
        assert sum(report.parts.values()) == pytest.approx(report.seconds)
        assert report.methods["txn_commit"].count == 20
        assert sum(stats.count for stats in report.stores.values()) >= 40


@pytest.mark.process
def test_a_wait_for_anothers_lock_is_told_from_the_network() -> None:
    from pytikv.testing.server import ServerProcess

    with ServerProcess() as server, pytikv.TransactionClient.connect(server.url) as client:
        with client.begin(pessimistic=True) as holder:
            holder.lock_keys([b"k"])
            with profile() as report, client.begin(pessimistic=True) as waiter, contextlib.suppress(pytikv.LockTimeout):
                waiter.lock_keys([b"k"], wait=0.1)
        assert report.methods["txn_lock"].failed == 1
        assert report.parts[Part.LOCK_WAIT] >= 0.09
