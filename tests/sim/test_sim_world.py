"""The simulated world: virtual time, determinism, faults of network and processes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from typing import Any

import pytest

import pytikv
from pytikv.errors import ClientClosed
from pytikv.rt.clock import ambient_clock
from pytikv.testing.sim import Link, SimulationStuck, World


class Peer:
    """A protocol that keeps what it gets, and echoes it when told to."""

    def __init__(self, rt: Any, echoes: bool = False) -> None:
        self.rt = rt
        self.echoes = echoes
        self.data = bytearray()
        self.lost: list[Any] = []
        self.changed: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.echoes:
            self.transport.write(data)
        self._tell()

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.append(error)
        self._tell()

    def writable(self) -> None:
        self._tell()

    def _tell(self) -> None:
        if self.changed is not None and not self.changed.done():
            self.changed.set_result(None)

    async def until(self, condition: Any, seconds: float = 60.0) -> None:
        while not condition():
            self.changed = self.rt.create_future()
            await self.rt.wait(self.changed, self.rt.now() + seconds)


async def connected(world: World, name: str = "server") -> tuple[Peer, list[Peer]]:
    """Connect "main" to an echo server of its own process."""
    there, here = world.process(name), world.process("main")
    peers: list[Peer] = []

    def factory() -> Peer:
        peers.append(Peer(there, echoes=True))
        return peers[-1]

    await there.listen(name, 7, factory)
    peer = Peer(here)
    await here.connect(name, 7, peer, deadline=here.now() + 5)
    return peer, peers


# --- time -------------------------------------------------------------------------------------------------------------


def test_time_jumps() -> None:
    with World(1) as world:
        rt = world.process("main")

        async def scenario() -> float:
            start = rt.now()
            await rt.sleep(3600)
            return rt.now() - start

        began = time.monotonic()
        assert world.run(scenario(), 10_000) == pytest.approx(3600)
        assert time.monotonic() - began < 5


def test_clocks_of_processes_differ_and_skew() -> None:
    with World(1) as world:
        one, other = world.process("one"), world.process("other", clock_skew=-3600)
        assert one.now() != other.now()
        assert one.time() - other.time() == pytest.approx(3600)
        other.clock_skew = 10
        assert one.time() - other.time() == pytest.approx(-10)


def test_ambient_deadlines_count_on_the_process_clock() -> None:
    with World(1) as world:
        rt = world.process("main")

        async def scenario() -> None:
            assert ambient_clock.get()() == rt.now()
            await rt.sleep(100)
            assert ambient_clock.get()() == rt.now()

        world.run(scenario())


def test_run_that_does_not_end(capsys: pytest.CaptureFixture[str]) -> None:
    with World(77) as world:
        rt = world.process("main")

        async def for_ever() -> None:
            while True:
                await rt.sleep(1)

        with pytest.raises(TimeoutError) as caught:
            world.run(for_ever(), 10)
        assert "World(77)" in caught.value.__notes__[0]

        async def waits() -> None:
            await rt.wait(rt.create_future(), None)

        with pytest.raises(SimulationStuck, match="nothing is left"):
            world.run(waits())


def test_errors_tell_how_to_replay() -> None:
    with World(12345) as world:

        async def fails() -> None:
            raise ValueError("found something")

        with pytest.raises(ValueError, match="found") as caught:
            world.run(fails())
        assert "seed 12345" in caught.value.__notes__[0]


# --- determinism ------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from pytikv.testing.sim import World, Link
sys.path.insert(0, {folder!r})
from test_sim_world import busy_world
print(busy_world({seed}))
"""


def busy_world(seed: int) -> str:
    """Some clients and servers under faults; returns the digest."""
    with World(seed, link=Link(break_chance=0.02)) as world:
        names = ["a", "b", "c"]

        async def serve(name: str) -> None:
            rt = world.process(name)
            await rt.listen(name, 7, lambda: Peer(rt, echoes=True))

        async def client(number: int) -> int:
            rt = world.process(f"client {number}")
            served = 0
            for _ in range(10):
                peer = Peer(rt)
                try:
                    transport = await rt.connect(rt.rng.choice(names), 7, peer, deadline=rt.now() + 1)
                    for size in (1, 100, 1000):
                        transport.write(bytes(size))
                        await peer.until(lambda peer=peer, size=size: len(peer.data) >= size or peer.lost, 1.0)
                    transport.close()
                    served += 1
                except (OSError, TimeoutError):
                    await rt.sleep(rt.rng.uniform(0, 0.1))
            return served

        async def faults() -> None:
            rt = world.process("main")
            await rt.sleep(0.01)
            world.network.partition(["a"], ["client 1", "client 2"])
            await rt.sleep(0.5)
            world.network.heal()
            world.crash("b")
            await rt.sleep(0.5)
            world.restart("b")
            await serve("b")

        async def scenario() -> None:
            for name in names:
                await serve(name)
            tasks = [world.process(f"client {n}").spawn(client(n), name=f"client {n}") for n in range(4)]
            await faults()
            while not all(task.done() for task in tasks):
                await world.process("main").sleep(0.1)

        world.run(scenario())
        return world.digest


def test_same_seed_same_run_in_every_process() -> None:
    folder = os.path.dirname(__file__)
    digests = []
    for hash_seed in ("0", "4711"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(folder=folder, seed=42)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.path.dirname(pytikv.__path__[0])},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        digests.append(done.stdout.strip())
    assert digests[0] == digests[1] == busy_world(42)
    assert busy_world(43) != digests[0]


def test_randomness_is_split_by_name() -> None:
    with World(1) as one, World(1) as two:
        one.rng.random()
        assert one.rng.child("x").random() == two.rng.child("x").random()
        assert one.rng.child("x").random() != one.rng.child("y").random()
        assert one.process("p").rng.random() == two.process("p").rng.random()


def test_order_of_what_is_ready_depends_on_the_seed() -> None:
    def order(seed: int) -> tuple[int, ...]:
        with World(seed) as world:
            rt = world.process("main")
            seen: list[int] = []

            async def one(number: int) -> None:
                await rt.sleep(0)
                seen.append(number)

            async def scenario() -> None:
                await rt.gather(*(one(number) for number in range(5)))

            world.run(scenario())
            return tuple(seen)

    assert len({order(seed) for seed in range(20)}) > 5
    assert order(3) == order(3)


# --- network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_streams_keep_their_order(seed: int) -> None:
    with World(seed, link=Link(min_delay=0, max_delay=0.1)) as world:

        async def scenario() -> None:
            peer, _ = await connected(world)
            sent = b""
            for number in range(200):
                text = b"%d," % number
                sent += text
                peer.transport.write(text)
                if number % 20 == 0:
                    await world.process("main").sleep(0.02)
            await peer.until(lambda: len(peer.data) >= len(sent))
            assert bytes(peer.data) == sent

        world.run(scenario())


def test_partition_holds_and_heals() -> None:
    with World(2) as world:
        rt = world.process("main")

        async def scenario() -> None:
            peer, peers = await connected(world)
            world.network.partition(["main"], ["server"])
            peer.transport.write(b"held")
            with pytest.raises(TimeoutError):
                await peer.until(lambda: peer.data, 5)
            with pytest.raises(TimeoutError):
                await rt.connect("server", 7, Peer(rt), deadline=rt.now() + 3)
            assert not peers[0].data
            world.network.heal()
            await peer.until(lambda: bytes(peer.data) == b"held")

        world.run(scenario())


def test_one_way_partition() -> None:
    with World(2) as world:

        async def scenario() -> None:
            peer, peers = await connected(world)
            world.network.partition(["server"], ["main"], one_way=True)
            peer.transport.write(b"arrives")
            with pytest.raises(TimeoutError):
                await peer.until(lambda: peer.data, 5)
            assert bytes(peers[0].data) == b"arrives"
            world.network.heal()
            await peer.until(lambda: bytes(peer.data) == b"arrives")

        world.run(scenario())


def test_broken_connections() -> None:
    with World(2) as world:

        async def scenario() -> None:
            peer, peers = await connected(world)
            assert world.network.break_connections("main", "server") == 1
            await peer.until(lambda: peer.lost)
            assert isinstance(peer.lost[0], ConnectionResetError)
            await world.process("main").sleep(1)
            assert len(peers[0].lost) == 1

        world.run(scenario())


def test_links_of_their_own() -> None:
    with World(2) as world:
        rt = world.process("main")
        world.network.set_link(Link(1.0, 1.0), "main", "server")

        async def scenario() -> float:
            peer, _ = await connected(world)
            start = rt.now()
            peer.transport.write(b"slow")
            await peer.until(lambda: len(peer.data) == 4)
            return rt.now() - start

        assert 1.0 <= world.run(scenario()) < 1.1


def test_addresses() -> None:
    with World(2) as world:
        rt = world.process("main")

        async def scenario() -> None:
            listener = await rt.listen("0.0.0.0", 0, lambda: Peer(rt))
            with pytest.raises(OSError, match="in use"):
                await rt.listen("main", listener.port, lambda: Peer(rt))
            with pytest.raises(OSError, match="no address"):
                await rt.listen("elsewhere", 1, lambda: Peer(rt))
            transport = await rt.connect("localhost", listener.port, Peer(rt), deadline=rt.now() + 1)
            transport.close()
            await listener.close()
            with pytest.raises(ConnectionRefusedError):
                await rt.connect("main", listener.port, Peer(rt), deadline=rt.now() + 1)
            with pytest.raises(OSError, match="no host"):
                await rt.connect("nowhere", 1, Peer(rt), deadline=rt.now() + 1)

        world.run(scenario())


# --- processes --------------------------------------------------------------------------------------------------------


def test_crash_and_restart(caplog: pytest.LogCaptureFixture) -> None:
    with World(3) as world:
        seen: list[str] = []

        async def scenario() -> None:
            peer, _ = await connected(world)
            server = world.process("server")
            disk = {"synced": 1, "unsynced": 2}
            server.on_crash(lambda: disk.pop("unsynced"))

            async def work() -> None:
                try:
                    await server.sleep(1000)
                finally:
                    seen.append("ended")
                    await server.sleep(1)
                    seen.append("never")

            server.spawn(work(), name="work")
            await world.process("main").sleep(1)
            world.crash("server")
            world.crash("server")
            assert disk == {"synced": 1}
            assert server.dead
            with pytest.raises(ClientClosed):
                server.spawn(work(), name="late")
            await peer.until(lambda: peer.lost)
            assert isinstance(peer.lost[0], ConnectionResetError)
            rt = world.process("main")
            with pytest.raises(ConnectionRefusedError):
                await rt.connect("server", 7, Peer(rt), deadline=rt.now() + 1)
            again = world.restart("server")
            assert not again.dead
            assert world.process("server") is again
            await again.listen("server", 7, lambda: Peer(again, echoes=True))
            await rt.connect("server", 7, Peer(rt), deadline=rt.now() + 1)

        world.run(scenario())
        assert seen == ["ended"]


def test_lost_machine_says_nothing_until_it_is_asked() -> None:
    with World(3) as world:

        async def scenario() -> None:
            peer, _ = await connected(world)
            world.crash("server", silent=True)
            with pytest.raises(TimeoutError):
                await peer.until(lambda: peer.lost, 30)
            world.restart("server")
            peer.transport.write(b"still there?")
            await peer.until(lambda: peer.lost)
            assert isinstance(peer.lost[0], ConnectionResetError)

        world.run(scenario())


def test_paused_process_goes_on_later() -> None:
    with World(3) as world:

        async def scenario() -> None:
            peer, _ = await connected(world)
            world.pause("server")
            for number in range(20):
                peer.transport.write(b"%02d" % number)
            with pytest.raises(TimeoutError):
                await peer.until(lambda: peer.data, 5)
            world.resume("server")
            await peer.until(lambda: len(peer.data) == 40)
            assert bytes(peer.data) == b"".join(b"%02d" % number for number in range(20))

        world.run(scenario())


def test_close_of_a_process_ends_its_tasks(caplog: pytest.LogCaptureFixture) -> None:
    with World(3) as world:
        rt = world.process("main")

        async def fails() -> None:
            raise ValueError("unseen")

        async def scenario() -> None:
            task = rt.spawn(rt.sleep(1000), name="sleeper")
            rt.spawn(fails(), name="fails")
            await rt.sleep(1)
            await rt.close()
            assert task.done()

        with caplog.at_level(logging.ERROR):
            world.run(scenario())
        assert "unseen" in caplog.text
