"""The connection pool: shared and leased channels, bounds, idle ends, and addresses that do not answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from pytikv.client.pool import ConnectionPool, PoolSettings, split_address
from pytikv.errors import ClientClosed, ConfigError, ConnectionFailed, Overloaded
from pytikv.rt.aio import AioRuntime
from pytikv.rt.caller import CallerRuntime
from pytikv.wire.channel import ClientChannel

GET_MEMBERS = b"/pdpb.PD/GetMembers"


class Blocking:
    """A pool on the calling thread; `call` is one call."""

    def __init__(self, settings: PoolSettings) -> None:
        self.rt = CallerRuntime()
        self.pool = ConnectionPool(self.rt, settings)

    def call(self, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return self.rt.run(main())

    def ping(self, address: str) -> ClientChannel:
        async def main() -> ClientChannel:
            channel = await self.pool.channel(address, self.rt.now() + 2)
            await channel.unary(GET_MEMBERS, b"", deadline=self.rt.now() + 2)
            return channel

        return self.rt.run(main())

    def close(self) -> None:
        self.rt.run(self.pool.close())
        self.rt.close()


@pytest.fixture
def blocking() -> Iterator[Callable[..., Blocking]]:
    made: list[Blocking] = []

    def make(**options: Any) -> Blocking:
        made.append(Blocking(PoolSettings(**options)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def on_aio(main: Callable[[Any, ConnectionPool], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    async def start() -> Any:
        rt = AioRuntime()
        pool = ConnectionPool(rt, PoolSettings(**options))
        try:
            return await main(rt, pool)
        finally:
            await pool.close()
            await asyncio.sleep(0)

    return asyncio.run(start())


async def ask(rt: Any, channel: ClientChannel) -> bytes:
    return await channel.unary(GET_MEMBERS, b"", deadline=rt.now() + 2)


def free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("address", "parts"), [("h:1", ("h", 1)), ("10.0.0.1:20160", ("10.0.0.1", 20160)), ("[::1]:5", ("::1", 5))]
)
def test_addresses(address, parts) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize("address", ["", "h", "h:", ":1", "h:0", "h:x", "::1:5", "h:-1"])
def test_what_is_no_address(address) -> None:
    with pytest.raises(ConfigError):
        split_address(address)


# --- leased -----------------------------------------------------------------------------------------------------------


def test_a_call_keeps_its_channel_and_the_next_call_gets_it(fakes, blocking) -> None:
    address = fakes.cluster().endpoints[0]
    one = blocking()

    async def main() -> tuple[ClientChannel, ClientChannel]:
        first = await one.pool.channel(address, one.rt.now() + 2)
        await ask(one.rt, first)
        return first, await one.pool.channel(address, one.rt.now() + 2)

    first, again = one.call(main)
    assert first is again
    assert one.ping(address) is first
    assert one.pool.open_connections == 1


def test_parts_of_a_call_share_one_channel(fakes, blocking) -> None:
    address = fakes.cluster().endpoints[0]
    one = blocking()

    async def part() -> ClientChannel:
        channel = await one.pool.channel(address, one.rt.now() + 2)
        await ask(one.rt, channel)
        return channel

    async def main() -> list[ClientChannel]:
        return await one.rt.gather(*(part() for _ in range(10)))

    assert len(set(one.call(main))) == 1
    assert one.pool.open_connections == 1


def test_threads_have_a_channel_each(fakes, blocking) -> None:
    cluster = fakes.cluster()
    one = blocking()
    gate = threading.Barrier(4)

    def work() -> None:
        async def main() -> None:
            channel = await one.pool.channel(cluster.endpoints[0], one.rt.now() + 5)
            gate.wait()
            await ask(one.rt, channel)

        for _ in range(5):
            one.call(main)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one.pool.open_connections == 4
    assert len(cluster.members[0].connections) == 4


def test_a_call_given_up_does_not_hand_its_channel_on(fakes, blocking) -> None:
    cluster = fakes.cluster()
    one = blocking()
    address = cluster.endpoints[0]
    first = one.ping(address)

    async def give_up() -> None:
        channel = await one.pool.channel(address, one.rt.now() + 2)
        channel.stream(b"/pdpb.PD/Tso", deadline=None).send(b"")

    one.call(give_up)
    assert not first.usable
    assert one.pool.open_connections == 0
    assert one.ping(address) is not first


def test_a_connection_that_ended_while_idle_is_replaced(fakes, blocking) -> None:
    cluster = fakes.cluster()
    one = blocking()
    first = one.ping(cluster.endpoints[0])
    cluster.members[0].cut()
    threading.Event().wait(0.15)  # the runtime looks at what sat idle for a tenth of a second
    assert one.ping(cluster.endpoints[0]) is not first
    assert one.pool.open_connections == 1


def test_leased_connections_are_closed_after_a_time_without_use(fakes, blocking) -> None:
    cluster = fakes.cluster()
    one = blocking(idle_timeout_s=0.05)
    one.ping(cluster.endpoints[0])
    for _ in range(100):
        if one.pool.open_connections == 0:
            break
        threading.Event().wait(0.02)
    assert one.pool.open_connections == 0
    one.ping(cluster.endpoints[0])


def test_over_the_bound_callers_wait(fakes, blocking) -> None:
    address = fakes.cluster().endpoints[0]
    one = blocking(max_connections=1)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        async def main() -> None:
            await one.pool.channel(address, one.rt.now() + 5)
            held.set()
            release.wait(5)

        one.call(main)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(5)

    async def hurried() -> None:
        await one.pool.channel(address, one.rt.now() + 0.05)

    with pytest.raises(Overloaded, match="max_connections"):
        one.call(hurried)
    timer = threading.Timer(0.05, release.set)
    timer.start()
    one.ping(address)
    holder.join()
    timer.join()
    assert one.pool.open_connections == 1


def test_over_the_bound_an_idle_connection_elsewhere_gives_way(fakes, blocking) -> None:
    addresses = [fakes.cluster().endpoints[0] for _ in range(3)]
    one = blocking(max_connections=2)
    for _ in range(2):
        for address in addresses:
            one.ping(address)
            assert one.pool.open_connections <= 2


def test_forgetting_an_address_in_the_midst_of_a_call(fakes, blocking) -> None:
    address = fakes.cluster().endpoints[0]
    one = blocking()
    old = one.ping(address)

    async def main() -> ClientChannel:
        assert await one.pool.channel(address, one.rt.now() + 2) is old
        one.pool.forget(address)
        fresh = await one.pool.channel(address, one.rt.now() + 2)
        await ask(one.rt, fresh)
        return fresh

    fresh = one.call(main)
    assert fresh is not old
    assert not old.usable
    assert one.ping(address) is fresh
    assert one.pool.open_connections == 1


def test_ctrl_c_leaves_the_pool_sound(fakes, blocking) -> None:
    address = fakes.cluster().endpoints[0]
    one = blocking()

    async def interrupted() -> None:
        await one.pool.channel(address, one.rt.now() + 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.call(interrupted)
    one.ping(address)
    assert one.pool.open_connections == 1


# --- shared -----------------------------------------------------------------------------------------------------------


def test_all_who_wait_share_the_first_channel(fakes) -> None:
    cluster = fakes.cluster()

    async def main(rt, pool) -> None:
        async def part() -> ClientChannel:
            channel = await pool.channel(cluster.endpoints[0], rt.now() + 2)
            await ask(rt, channel)
            return channel

        assert len(set(await rt.gather(*(part() for _ in range(50))))) == 1
        assert pool.open_connections == 1

    on_aio(main)


def test_more_are_opened_when_those_are_busy(fakes) -> None:
    cluster = fakes.cluster()

    async def main(rt, pool) -> None:
        cluster.members[0].hangs = True
        used: set[ClientChannel] = set()

        async def hang() -> None:
            channel = await pool.channel(cluster.endpoints[0], rt.now() + 2)
            used.add(channel)
            await ask(rt, channel)

        tasks = []
        for _ in range(20):
            tasks.append(asyncio.create_task(hang()))
            await asyncio.sleep(0.005)
        assert len(used) == 3
        assert pool.open_connections == 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    on_aio(main, busy_in_flight=2, grpc_concurrency=3)


def test_a_broken_channel_is_replaced(fakes) -> None:
    cluster = fakes.cluster()

    async def main(rt, pool) -> None:
        first = await pool.channel(cluster.endpoints[0], rt.now() + 2)
        await ask(rt, first)
        await asyncio.to_thread(cluster.members[0].cut)
        await asyncio.sleep(0.05)
        second = await pool.channel(cluster.endpoints[0], rt.now() + 2)
        await ask(rt, second)
        assert second is not first
        assert pool.open_connections == 1

    on_aio(main)


def test_shared_connections_are_closed_after_a_time_without_use(fakes) -> None:
    cluster = fakes.cluster()

    async def main(rt, pool) -> None:
        channel = await pool.channel(cluster.endpoints[0], rt.now() + 2)
        await ask(rt, channel)
        for _ in range(100):
            if not pool.open_connections:
                break
            await asyncio.sleep(0.01)
        assert not channel.usable
        assert pool.open_connections == 0
        await ask(rt, await pool.channel(cluster.endpoints[0], rt.now() + 2))

    on_aio(main, idle_timeout_s=0.05)


def test_forgetting_a_shared_address(fakes) -> None:
    cluster = fakes.cluster()

    async def main(rt, pool) -> None:
        old = await pool.channel(cluster.endpoints[0], rt.now() + 2)
        pool.forget(cluster.endpoints[0])
        pool.forget("nobody:1")
        fresh = await pool.channel(cluster.endpoints[0], rt.now() + 2)
        assert fresh is not old
        await ask(rt, fresh)
        await asyncio.sleep(0.01)
        assert not old.usable
        assert pool.open_connections == 1

    on_aio(main)


# --- both -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_pool(run) -> Callable[..., Any]:
    def start(main: Callable[[Any, ConnectionPool], Coroutine[Any, Any, Any]], **options: Any) -> Any:
        async def body(rt: Any) -> Any:
            pool = ConnectionPool(rt, PoolSettings(**options))
            try:
                return await main(rt, pool)
            finally:
                await pool.close()

        return run(body)

    return start


def test_nobody_listens(with_pool) -> None:
    address = free_address()

    async def main(rt, pool) -> None:
        for _ in range(3):
            with pytest.raises(ConnectionFailed, match=f"{address}: connection refused") as failed:
                await pool.channel(address, rt.now() + 2)
            assert failed.value.retryable
        assert "tried again in" in str(failed.value)
        assert pool.open_connections == 0

    with_pool(main)


def test_a_dead_address_is_tried_less_and_less(with_pool, monkeypatch) -> None:
    address = free_address()
    tries = []
    connect = ClientChannel.connect

    async def counting(self, *args) -> None:
        tries.append(self.rt.now())
        await connect(self, *args)

    monkeypatch.setattr(ClientChannel, "connect", counting)

    async def main(rt, pool) -> None:
        until = rt.now() + 0.5
        while rt.now() < until:
            with pytest.raises(ConnectionFailed):
                await pool.channel(address, rt.now() + 2)
            await rt.sleep(0.002)
        assert 2 <= len(tries) <= 5

    with_pool(main)


def test_it_comes_back(fakes, with_pool) -> None:
    cluster = fakes.cluster()
    member = cluster.members[0]
    member.stop()

    async def main(rt, pool) -> None:
        with pytest.raises(ConnectionFailed):
            await pool.channel(member.address, rt.now() + 2)
        member.start()
        for _ in range(200):
            try:
                await ask(rt, await pool.channel(member.address, rt.now() + 2))
                return
            except ConnectionFailed:
                await rt.sleep(0.01)
        raise AssertionError("never")

    with_pool(main)


def test_a_silent_address_ends_with_the_deadline(with_pool) -> None:
    """A full backlog: the connection is never accepted, and TCP stays silent."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    fill = []
    for _ in range(4):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", listener.getsockname()[1]))
        fill.append(one)

    async def main(rt, pool) -> None:
        start = rt.now()
        with pytest.raises(ConnectionFailed, match="in time"):
            await pool.channel(address, rt.now() + 0.2)
        assert rt.now() - start < 1

    try:
        with_pool(main)
    finally:
        for one in fill:
            one.close()
        listener.close()


def test_health(fakes, with_pool) -> None:
    cluster = fakes.cluster()
    dead = free_address()

    async def main(rt, pool) -> None:
        assert await pool.is_alive(cluster.endpoints[0], rt.now() + 2)  # it has no health service, but it answers
        assert not await pool.is_alive(dead, rt.now() + 2)

    with_pool(main)


def test_after_close(fakes, with_pool) -> None:
    address = fakes.cluster().endpoints[0]

    async def main(rt, pool) -> None:
        channel = await pool.channel(address, rt.now() + 2)
        await ask(rt, channel)
        await pool.close()
        await pool.close()
        with pytest.raises(ClientClosed):
            await pool.channel("127.0.0.1:1", rt.now() + 2)
        if not rt.exclusive_connections:
            assert not channel.usable
            with pytest.raises(ClientClosed):
                await pool.channel(address, rt.now() + 2)

    with_pool(main)


def test_abandon(fakes, with_pool) -> None:
    address = fakes.cluster().endpoints[0]

    async def main(rt, pool) -> None:
        await ask(rt, await pool.channel(address, rt.now() + 2))
        pool.abandon()
        await rt.sleep(0)

    with_pool(main)


def test_an_ill_formed_address(with_pool) -> None:
    async def main(rt, pool) -> None:
        with pytest.raises(ConfigError):
            await pool.channel("nonsense", rt.now() + 2)

    with_pool(main)
