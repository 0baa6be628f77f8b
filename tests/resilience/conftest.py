"""A script against a simulated cluster of three stores and PD, with one raw client; region i is led by store i."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pytikv.client.raw import AsyncRawClient
from pytikv.testing.capacity import Capacity
from pytikv.testing.fleet import URL, Fleet
from pytikv.testing.sim import Link, SimRuntime, World
from pytikv.testing.simulated import debris_ignored, errors_logged, forget_locals

Script = Callable[["Scene"], Awaitable[None]]
RTT_S = 0.002


class Scene:
    """What a script acts on."""

    def __init__(self, seed: int, capacity: Capacity | None) -> None:
        self.world = World(seed, link=Link(min_delay=RTT_S / 2, max_delay=RTT_S / 2))
        self.fleet = Fleet(self.world, borders=(b"j", b"q"), capacity=capacity)
        self.rt: SimRuntime = self.world.process("client")
        self.clients: list[AsyncRawClient] = []

    @property
    def now(self) -> float:
        return self.rt.now()

    async def connect(self, **options: Any) -> AsyncRawClient:
        client = await AsyncRawClient._open(self.rt, URL, options)
        self.clients.append(client)
        return client

    def guards(self, client: AsyncRawClient) -> dict[str, Any]:
        """The states of the client's guards by store or PD name."""
        guards = client._backend._cluster.guards
        return {state.address.partition(":")[0]: state for state in guards.snapshot()}

    async def attempt(self, work: Awaitable[Any]) -> tuple[Any, float]:
        """Await something; returns its value or its error, and how long it took."""
        began = self.now
        try:
            value = await work
        except Exception as error:
            value = error
        return value, self.now - began

    async def together(self, count: int, make: Callable[[], Awaitable[Any]]) -> list[tuple[Any, float]]:
        return await self.rt.gather(*(self.attempt(make()) for _ in range(count)))

    async def _run(self, script: Script) -> None:
        try:
            await script(self)
        finally:
            self.fleet.heal()
            for client in self.clients:
                await client.close()
            await self.rt.sleep(6.0)


@pytest.fixture
def play() -> Callable[..., None]:
    """Run a script, a coroutine function that takes a Scene, in the client's process."""

    def run(script: Script, *, seed: int = 1, capacity: Capacity | None = None) -> None:
        failures: list[BaseException] = []
        scene = Scene(seed, capacity)
        done: list[bool] = []

        async def client() -> None:
            try:
                await scene._run(script)
            except BaseException as error:
                failures.append(error)
                raise
            finally:
                done.append(True)

        async def main() -> None:
            scene.rt.spawn(client(), name="script")
            while not done:
                await scene.world.process("main").sleep(0.05)

        with debris_ignored(scene.world), scene.world, errors_logged(failures):
            scene.fleet.start()
            try:
                scene.world.run(main())
            except Exception as error:
                failures.insert(0, error)
            if failures:
                forget_locals(failures[0])
        for failure in failures:
            raise failure

    return run
