"""Resource groups against PD itself: groups are made by PD's own calls, requests wait, consumption arrives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import pytikv
from pytikv.client.pool import ConnectionPool
from pytikv.client.resource_control import controller
from pytikv.proto import resource_manager_pb2 as rmpb
from pytikv.rt.caller import CallerRuntime
from pytikv.testing.server import ServerProcess

SERVICE = b"/resource_manager.ResourceManager/"


class Groups:
    """PD's own calls about groups."""

    def __init__(self, address: str) -> None:
        self.rt = CallerRuntime()
        self.address = address
        self.pool = ConnectionPool(self.rt)

    def call(self, method: bytes, request: bytes) -> bytes:
        async def send() -> bytes:
            deadline = self.rt.now() + 5.0
            channel = await self.pool.channel(self.address, deadline)
            return await channel.unary(SERVICE + method, request, deadline=deadline)

        return self.rt.run(send())

    def add(self, name: str, fill_rate: int, burst: int = 0, priority: int = 8) -> None:
        group = rmpb.ResourceGroup(name=name, mode=rmpb.RUMode, priority=priority)
        group.r_u_settings.r_u.settings.fill_rate = fill_rate
        group.r_u_settings.r_u.settings.burst_limit = burst
        self.call(b"AddResourceGroup", rmpb.PutResourceGroupRequest(group=group).SerializeToString())

    def consumed(self, name: str) -> rmpb.Consumption:
        request = rmpb.GetResourceGroupRequest(resource_group_name=name, with_ru_stats=True)
        data = self.call(b"GetResourceGroup", request.SerializeToString())
        return rmpb.GetResourceGroupResponse.FromString(data).group.RUStats

    def close(self) -> None:
        self.rt.run(self.pool.close())
        self.rt.close()


@pytest.fixture
def server_and_groups() -> Iterator[tuple[str, Groups]]:
    with ServerProcess() as server:
        groups = Groups(server.url.removeprefix("tikv://"))
        try:
            yield server.url, groups
        finally:
            groups.close()


def put_all(kv: pytikv.RawClient, count: int) -> None:
    for n in range(count):
        kv.put(b"p%d" % n, b"v")


@pytest.mark.process
def test_requests_are_held_to_their_group(server_and_groups: tuple[str, Groups]) -> None:
    url, groups = server_and_groups
    groups.add("plenty", 1_000_000)
    groups.add("poor", 1)
    with pytikv.RawClient.connect(url, resource_control=True, resource_group="plenty") as kv:
        for n in range(20):
            kv.put(b"k%d" % n, b"v")
        assert kv.get(b"k1") == b"v"
        poor = kv.with_options(resource_group="poor", timeout=2.0)
        with pytest.raises(pytikv.Overloaded, match="resource group 'poor' has used up its request units"):
            put_all(poor, 50)  # each write costs 1.7 request units, and one a second flows in
        with pytikv.context(resource_group="plenty"):
            assert poor.get(b"k1") == b"v"  # on the other's account
        unknown = kv.with_options(resource_group="nobody")
        with pytest.raises(pytikv.ConfigError, match="nobody"):
            unknown.get(b"k1")
        assert kv.with_options(resource_group="").get(b"k1") == b"v"


@pytest.mark.process
def test_without_the_option_the_name_only_travels(server_and_groups: tuple[str, Groups]) -> None:
    url, groups = server_and_groups
    groups.add("poor", 1)
    with pytikv.RawClient.connect(url, resource_group="poor") as kv:
        put_all(kv, 50)


@pytest.mark.process
def test_of_groups_beyond_those_that_are_kept_nothing_stays(
    server_and_groups: tuple[str, Groups], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "_MAX_GROUPS", 2)
    url, groups = server_and_groups
    with pytikv.RawClient.connect(url, resource_control=True) as kv:
        for name in ("first", "second", "third", "fourth"):
            groups.add(name, 1000)
            with pytikv.context(resource_group=name):
                put_all(kv, 2)
        control = kv._core._backend._cluster.resource_control
        assert set(control._groups) == {"third", "fourth"}
        assert {name for name, _ in control._at_stores} == {"third", "fourth"}
