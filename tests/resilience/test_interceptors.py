"""Interceptors around the RPCs of a real client, against simulated stores."""

from __future__ import annotations

import pytest

import pytikv
from pytikv import ConnectionFailed, Outcome, RpcInfo
from pytikv.client.rpcs import NAME_OF_SLOT, RAW_GET, RAW_PUT, is_write_name
from pytikv.interceptors import region_of
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb


def test_they_stand_around_each_other_and_see_each_rpc(play):
    seen = []

    def named(name):
        async def interceptor(rpc, proceed):
            seen.append((f"{name} in", rpc.name, rpc.is_write, rpc.address.partition(":")[0], rpc.region_id > 0))
            answer = await proceed(rpc)
            seen.append((f"{name} out", rpc.name))
            return answer

        return interceptor

    async def script(scene):
        client = await scene.connect(interceptors=(named("first"), named("second")))
        await client.put(b"a", b"1")
        assert await client.get(b"a") == b"1"

    play(script)
    for name, is_write in (("RawPut", True), ("RawGet", False)):
        mine = [entry for entry in seen if entry[1] == name]
        assert mine == [
            ("first in", name, is_write, "store-1", True),
            ("second in", name, is_write, "store-1", True),
            ("second out", name),
            ("first out", name),
        ]
    assert {entry[1] for entry in seen} <= {"RawPut", "RawGet"}, "PD is not intercepted"


def test_one_may_delay_replace_change_and_fail(play):
    async def interceptor(rpc, proceed):
        request = kvrpcpb.RawGetRequest.FromString(rpc.request)
        if request.key == b"replaced":
            return kvrpcpb.RawGetResponse(value=b"made up").SerializeToString()
        if request.key == b"refused":
            raise pytikv.InvalidArgument("not this key")
        if request.key == b"changed":
            request.key = b"a"
            rpc = rpc.with_request(request.SerializeToString())
        return await proceed(rpc)

    async def slowly(rpc, proceed):
        await rt[0].sleep(0.25)
        return await proceed(rpc)

    rt = []

    async def script(scene):
        rt.append(scene.rt)
        plain = await scene.connect()
        await plain.put(b"a", b"1")
        client = await scene.connect(interceptors=(interceptor,))
        assert await client.get(b"replaced") == b"made up"
        assert await client.get(b"changed") == b"1"
        with pytest.raises(pytikv.InvalidArgument, match="not this key"):
            await client.get(b"refused")
        waiting = await scene.connect(interceptors=slowly)
        value, seconds = await scene.attempt(waiting.get(b"a"))
        assert value == b"1"
        assert 0.25 <= seconds < 0.3

    play(script)


def test_a_failure_of_the_connection_is_retried_as_ever(play):
    failures = []

    async def interceptor(rpc, proceed):
        if rpc.name == "RawGet" and not failures:
            failures.append(rpc.address)
            raise ConnectionFailed("cut by the interceptor")
        return await proceed(rpc)

    async def script(scene):
        client = await scene.connect(interceptors=(interceptor,))
        await client.put(b"a", b"1")
        assert await client.get(b"a") == b"1"

    play(script)
    assert len(failures) == 1


@pytest.mark.parametrize("own", [ConnectionFailed("lost"), pytikv.ServerError("odd")])
def test_what_is_raised_after_a_write_was_sent_never_says_that_nothing_was_done(play, own):
    async def interceptor(rpc, proceed):
        await proceed(rpc)
        raise own

    async def script(scene):
        client = await scene.connect(interceptors=(interceptor,), retry_lost_writes=False, timeout=0.5)
        error, _ = await scene.attempt(client.put(b"a", b"1"))
        assert isinstance(error, pytikv.TikvError)
        assert error.outcome is Outcome.UNDETERMINED
        plain = await scene.connect()
        assert await plain.get(b"a") == b"1"

    play(script)


def test_an_error_of_the_programs_own_ends_the_call_as_it_is(play):
    class Odd(Exception):
        pass

    async def interceptor(rpc, proceed):
        raise Odd(rpc.name)

    async def script(scene):
        client = await scene.connect(interceptors=(interceptor,))
        error, _ = await scene.attempt(client.get(b"a"))
        assert isinstance(error, Odd)

    play(script)


def test_text_cannot_name_a_function():
    with pytest.raises(pytikv.ConfigError, match="a program passes it to connect"):
        pytikv.ClientConfig(interceptors="mymodule.audit")
    with pytest.raises(pytikv.ConfigError, match="interceptors"):
        pytikv.ClientConfig(interceptors=(1,))


@pytest.mark.parametrize("region_id", [1, 127, 128, 300, 1 << 21, (1 << 63) - 1])
def test_the_region_is_read_from_the_request(region_id):
    context = kvrpcpb.Context(region_id=region_id, request_source="x" * 200)
    request = kvrpcpb.RawGetRequest(context=context, key=b"k").SerializeToString()
    assert region_of(request) == region_id
    assert RpcInfo("RawGet", "s:1", is_write=False, deadline=1.0, request=request).region_id == region_id


@pytest.mark.parametrize("request_", [b"", b"\x0a", b"\x0a\x80", b"\x0a\x01\x08", b"\x12\x01a", b"\x0a\x02\x10\x01"])
def test_a_request_without_a_region_has_none(request_):
    assert region_of(request_) == 0


def test_names_of_slots():
    assert NAME_OF_SLOT[RAW_GET.slot] == "RawGet"
    assert is_write_name(RAW_PUT.name)
    assert not is_write_name(RAW_GET.name)


def test_one_that_returns_what_is_no_answer_is_told_so(play):
    async def text(rpc, proceed):
        await proceed(rpc)
        return "done"

    async def script(scene):
        for interceptor, message in (
            (lambda rpc, proceed: None, "`async def.*returned nothing"),
            (text, "not the ser"),
        ):
            client = await scene.connect(interceptors=(interceptor,))
            with pytest.raises(pytikv.WrongType, match=message) as read:
                await client.get(b"a")
            assert read.value.outcome is Outcome.NOT_APPLIED
            with pytest.raises(pytikv.WrongType) as write:
                await client.put(b"a", b"1")
            assert write.value.outcome is (Outcome.UNDETERMINED if interceptor is text else Outcome.NOT_APPLIED)

    play(script)
