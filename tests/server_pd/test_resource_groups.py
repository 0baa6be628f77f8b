"""Resource groups: what a bucket grants and lends, how clients share it, and the service over real sockets."""

from __future__ import annotations

import pytest

from pytikv.codec.api import NULL_KEYSPACE_ID
from pytikv.proto import resource_manager_pb2 as rmpb
from pytikv.server.engine.memory import MemoryEngine
from pytikv.server.engine.meta import EngineMeta
from pytikv.server.pd.errors import PdError
from pytikv.server.pd.resource_groups import ResourceGroups
from pytikv.server.pd.server import PdServer
from pytikv.server.pd.token_bucket import GroupBucket, Limits
from pytikv.wire.errors import RpcError, Status

# --- one client -------------------------------------------------------------------------------------------------------


def test_lending_slows_down_with_the_debt():
    # The numbers are those of PD's own table for this bucket.
    bucket = GroupBucket(Limits(2000, 20_000_000), 200_000.0)
    table = [
        (190_000, 190_000, 0),
        (11_000, 11_000, 2750),
        (35_000, 35_000, 10_000),
        (60_000, 22_000, 10_000),
        (3000, 3000, 10_000),
        (12_000, 10_000, 10_000),
    ]
    for wanted, tokens, trickle_ms in table:
        grant = bucket.request(100.0, wanted, 10.0, 1)
        assert (grant.tokens, grant.trickle_ms) == (pytest.approx(tokens), trickle_ms)
    grant = bucket.request(120.0, 20_000, 10.0, 1)
    assert (grant.tokens, grant.trickle_ms) == (pytest.approx(20_000), 10_000)


def test_a_client_that_always_wants_what_it_got_nears_the_rate():
    bucket = GroupBucket(Limits(2000, 200_000), 0.0)
    assert bucket.request(0.0, 50_000, 5.0, 1).tokens == 50_000  # of the first 100 000
    now_s, wanted = 0.0, 50_000.0
    granted = []
    for _ in range(20):
        grant = bucket.request(now_s, wanted, 5.0, 1)
        granted.append((grant.tokens, bucket.tokens, grant.trickle_ms))
        now_s, wanted = now_s + 5.0, grant.tokens if len(granted) > 1 else 50_000.0
    expected = [(50_000, 0, 0), (30_000, -20_000, 5000), (15_000, -25_000, 5000), (12_500, -27_500, 5000)]
    assert granted[:4] == [pytest.approx(each) for each in expected]
    assert granted[-1][0] == pytest.approx(10_000, rel=1e-4)


@pytest.mark.parametrize(
    ("rate", "burst", "shared"),
    [(2000, 2000, (2000, 2000)), (2000, 0, (2000, 0)), (2000, -1, (2000, -1)), (2000, -2, (12_000, 12_000))],
)
def test_modes(rate, burst, shared):
    assert Limits(rate, burst).shared == shared
    grant = GroupBucket(Limits(rate, burst), 200_000.0).request(0.0, 1_000_000, 5.0, 1)
    assert grant.burst_limit == shared[1]
    assert (grant.tokens == 1_000_000) == (burst == -1)


def test_a_bucket_gathers_up_to_its_limit():
    bucket = GroupBucket(Limits(1000, 150_000), 0.0)
    bucket.request(0.0, 0, 5.0, 1)
    assert bucket.tokens == 100_000  # what every group begins with
    bucket.request(20.0, 0, 5.0, 1)
    assert bucket.tokens == 120_000
    bucket.request(1000.0, 0, 5.0, 1)
    assert bucket.tokens == 150_000


def test_a_new_setting_forgives_debts():
    bucket = GroupBucket(Limits(100, 1000), 0.0)
    bucket.request(0.0, 200_000, 5.0, 1)
    assert bucket.tokens < 0
    bucket.change(Limits(200, 2000), 0.0)
    bucket.request(0.0, 1, 5.0, 1)
    assert bucket.tokens == -1


# --- several clients --------------------------------------------------------------------------------------------------


def test_who_wants_more_gets_what_others_leave():
    bucket = GroupBucket(Limits(1000, 20_000), 0.0)
    got = {1: 0.0, 2: 0.0}
    now_s = 0.0
    for _ in range(60):
        now_s += 5.0
        for client, wanted in ((1, 500.0), (2, 50_000.0)):
            got[client] += bucket.request(now_s, wanted, 5.0, client).tokens
    # The modest one gets the 100 a second that it asks for; the two together get what the rate yields.
    assert got[1] == pytest.approx(500 * 60, rel=0.05)  # at first it is not known
    assert (got[1] + got[2]) / 300 == pytest.approx(1000, rel=0.2)
    assert got[2] > 8 * got[1]


def test_a_client_that_is_gone_leaves_its_share():
    bucket = GroupBucket(Limits(1000, 1_000_000), 0.0)
    for client in (1, 2):
        bucket.request(0.0, 10.0, 5.0, client)
    bucket.request(1.0, 0, 5.0, 1)  # wants nothing any more
    assert bucket.request(1.0, 90_000.0, 5.0, 2).trickle_ms == 0  # and the other has the whole bucket
    bucket.request(2.0, 10.0, 5.0, 3)
    bucket.request(700.0, 10.0, 5.0, 2)  # 3 was not heard of for ten minutes
    assert bucket.request(701.0, 90_000.0, 5.0, 2).trickle_ms == 0


# --- groups and their service -----------------------------------------------------------------------------------------


def group(name: str, rate: int = 1000, burst: int = 1000, **more) -> rmpb.ResourceGroup:
    settings = rmpb.TokenLimitSettings(fill_rate=rate, burst_limit=burst)
    units = rmpb.GroupRequestUnitSettings(r_u=rmpb.TokenBucket(settings=settings))
    return rmpb.ResourceGroup(**{"name": name, "mode": rmpb.RUMode, "priority": 8, "r_u_settings": units, **more})


def make_groups(engine: MemoryEngine) -> ResourceGroups:
    return PdServer(EngineMeta(engine), time=lambda: 1e9, getrandbits=lambda bits: 7).resource_groups


def test_groups_outlive_a_restart():
    engine = MemoryEngine()
    groups = make_groups(engine)
    groups.add(group("a", 5))
    groups.add(group("b"))
    groups.modify(group("a", 6))
    groups.delete(NULL_KEYSPACE_ID, "b")
    again = make_groups(engine)
    found = again.in_keyspace(NULL_KEYSPACE_ID)
    assert [(one.name, one.r_u_settings.r_u.settings.fill_rate) for one in found] == [("a", 6), ("default", 2**31 - 1)]
    assert found[1].r_u_settings.r_u.settings.burst_limit == -1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda groups: groups.get(NULL_KEYSPACE_ID, "x"), "ErrGroupNotExists]the x resource group does not exist"),
        (lambda groups: groups.get(5, "x"), "ErrKeyspaceNotExists"),
        (lambda groups: groups.add(group("")), "the group name"),
        (lambda groups: groups.add(group("n" * 33)), "the group name"),
        (lambda groups: groups.add(group("a", priority=17)), "the group priority"),
        (lambda groups: groups.add(group("a", mode=rmpb.RawMode)), "the group mode"),
        (lambda groups: groups.modify(group("x")), "ErrGroupNotExists"),
        (lambda groups: groups.modify(group("default", priority=17)), "priority"),
        (lambda groups: groups.modify(group("default", mode=rmpb.RawMode)), "same mode"),
        (lambda groups: groups.delete(NULL_KEYSPACE_ID, "default"), "ErrDeleteReservedGroup"),
        (lambda groups: groups.delete(NULL_KEYSPACE_ID, "x"), "ErrGroupNotExists"),
    ],
)
def test_refusals(change, text):
    groups = make_groups(MemoryEngine())
    with pytest.raises(PdError, match=text.replace("]", "\\]")) as refused:
        change(groups)
    assert refused.value.type is None
    assert [one.name for one in groups.in_keyspace(NULL_KEYSPACE_ID)] == ["default"]


def test_keyspaces_have_groups_of_their_own():
    groups = make_groups(MemoryEngine())
    groups.add(group("a", keyspace_id=rmpb.KeyspaceIDValue(value=3)))
    assert [one.name for one in groups.in_keyspace(3)] == ["a", "default"]
    assert [one.name for one in groups.in_keyspace(NULL_KEYSPACE_ID)] == ["default"]
    assert groups.get(4, "default").keyspace_id.value == 4


def test_the_service(with_server):
    async def body(calls):
        async def ask(name, request, response=None):
            path = f"/resource_manager.ResourceManager/{name}"
            data = await calls.channel.unary(path, request.SerializeToString(), deadline=calls.deadline)
            return (response or getattr(rmpb, f"{name}Response")).FromString(data)

        put = rmpb.PutResourceGroupResponse
        assert (await ask("AddResourceGroup", rmpb.PutResourceGroupRequest(group=group("a")), put)).body == "Success!"
        assert (await ask("ModifyResourceGroup", rmpb.PutResourceGroupRequest(group=group("a", 7)), put)).body
        found = (await ask("GetResourceGroup", rmpb.GetResourceGroupRequest(resource_group_name="a"))).group
        assert found.r_u_settings.r_u.settings.fill_rate == 7
        assert not found.HasField("RUStats")
        with pytest.raises(RpcError, match="ErrGroupNotExists") as refused:
            await ask("GetResourceGroup", rmpb.GetResourceGroupRequest(resource_group_name="none"))
        assert refused.value.status == Status.UNKNOWN
        tokens = await tokens_of(calls)
        assert [(one.resource_group_name, one.keyspace_id.value) for one in tokens] == [
            ("a", NULL_KEYSPACE_ID),
            ("default", NULL_KEYSPACE_ID),
        ]
        granted = [one.granted_r_u_tokens[0].granted_tokens for one in tokens]
        assert [(one.tokens, one.settings.burst_limit) for one in granted] == [(40.0, 1000), (1e9, -1)]
        stats = await ask("ListResourceGroups", rmpb.ListResourceGroupsRequest(with_ru_stats=True))
        assert [(one.name, one.RUStats.r_r_u, one.RUStats.kv_read_rpc_count) for one in stats.groups] == [
            ("a", 7.5, 3),
            ("default", 0, 0),
        ]
        assert (await ask("DeleteResourceGroup", rmpb.DeleteResourceGroupRequest(resource_group_name="a"))).body

    with_server(body)


async def tokens_of(calls) -> list[rmpb.TokenBucketResponse]:
    """Ask for tokens of three groups, one of which there is not, and of one in the background."""

    def wants(name, value, **more):
        items = rmpb.TokenBucketRequest.RequestRU(request_r_u=[rmpb.RequestUnitItem(value=value)])
        return rmpb.TokenBucketRequest(resource_group_name=name, ru_items=items, **more)

    request = rmpb.TokenBucketsRequest(
        requests=[
            wants("a", 40.0, consumption_since_last_request=rmpb.Consumption(r_r_u=7.5, kv_read_rpc_count=3)),
            wants("none", 1.0),
            wants("default", 1e9),
            wants("a", 1.0, is_background=True),
        ],
        target_request_period_ms=5000,
        client_unique_id=9,
    )
    path = "/resource_manager.ResourceManager/AcquireTokenBuckets"
    stream = calls.channel.stream(path, deadline=calls.deadline)
    stream.send(request.SerializeToString())
    answer = rmpb.TokenBucketsResponse.FromString(await stream.recv(calls.deadline))
    stream.end()
    assert await stream.recv(calls.deadline) is None
    return list(answer.responses)
