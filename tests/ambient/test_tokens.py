"""The client's token: when its provider is asked, and on which streams it goes out. In virtual time."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import pytikv
from pytikv.testing.fleet import URL


class Provider:
    """Gives token-1, token-2, ...; each lasts `life_s`. `trouble` is raised instead, `slow_s` is how long it takes."""

    def __init__(self, world: Any, life_s: float | None = 100.0) -> None:
        self.rt = world.process("client")
        self.life_s = life_s
        self.asked: list[float] = []
        self.at_work = 0
        self.slow_s = 0.0
        self.trouble: Exception | None = None

    async def __call__(self) -> Any:
        self.asked.append(self.rt.now())
        self.at_work += 1
        assert self.at_work == 1
        number = len(self.asked)
        try:
            await self.rt.sleep(self.slow_s)
        finally:
            self.at_work -= 1
        if self.trouble is not None:
            raise self.trouble
        token = f"token-{number}"
        return token if self.life_s is None else (token, self.rt.time() + self.life_s)


def tokens(fleet: Any, method: str) -> list[str | None]:
    return [seen.headers.get("authorization") for seen in fleet.of(method)]


def test_every_stream_carries_it(run, fleet, world) -> None:
    provider = Provider(world)

    async def body(client: Any) -> None:
        async with client.begin() as txn:
            await txn.get(b"z")
            await txn.put(b"a", b"1")
        with pytikv.context(user_token="of-alice"):
            await client.snapshot(await client.current_timestamp()).get(b"a")

    run(body, pytikv.AsyncTransactionClient, token_provider=provider)
    assert len(provider.asked) == 1
    assert {seen.headers["authorization"] for seen in fleet.seen if seen.method != "KvGet"} == {"Bearer token-1"}
    assert {seen.method for seen in fleet.seen} >= {"Tso", "BatchCommands", "GetRegion"}
    assert tokens(fleet, "KvGet") == ["Bearer of-alice"]


def test_a_token_is_renewed_before_it_ends(run, fleet, world) -> None:
    provider = Provider(world)

    async def body(client: Any) -> None:
        rt = client._connection.rt
        begun = rt.now()
        get = client.snapshot
        while rt.now() < begun + 200.0:
            await client.current_timestamp()
            await get().get(b"a")
            await rt.sleep(1.0)

    run(body, pytikv.AsyncTransactionClient, token_provider=provider)
    first, *others = provider.asked
    assert [asked - first for asked in others] == [pytest.approx(75.0, abs=1.5), pytest.approx(150.0, abs=1.5)]
    for method in ("Tso", "BatchCommands"):
        assert tokens(fleet, method)[-2:] == ["Bearer token-2", "Bearer token-3"]


def test_calls_go_on_while_a_new_token_is_fetched(run, fleet, world) -> None:
    provider = Provider(world)

    async def body(client: Any) -> None:
        rt = client._connection.rt
        await client.get(b"a")
        provider.slow_s = 10.0
        await rt.sleep(80.0)
        for _ in range(20):
            began = rt.now()
            await client.get(b"a")
            assert rt.now() - began < 0.1
            await rt.sleep(1.0)

    run(body, token_provider=provider, idle_timeout=300.0)
    assert len(provider.asked) == 2
    assert tokens(fleet, "BatchCommands") == ["Bearer token-1", "Bearer token-2"]


def test_what_was_asked_before_is_answered_on_the_old_stream(run, fleet, world) -> None:
    provider = Provider(world)

    async def body(client: Any) -> None:
        rt = client._connection.rt
        await client.put(b"a", b"1")
        await rt.sleep(80.0)
        fleet.trouble(1).delay_seconds = 0.5
        slow = [rt.spawn(client.get(b"a"), name="slow") for _ in range(3)]
        await rt.sleep(0.1)
        fast = rt.spawn(client.get(b"a"), name="fast")
        await rt.sleep(1.0)
        assert [task.result() for task in (*slow, fast)] == [b"1"] * 4
        fleet.trouble(1).heal()
        await rt.sleep(80.0)
        await client.get(b"a")
        await rt.sleep(0.1)
        await client.get(b"a")
        [channel] = client._backend._cluster.connections._addresses["store-1:20160"].channels
        assert channel._retired == []

    run(body, token_provider=provider, idle_timeout=300.0)
    streams = fleet.of("BatchCommands")
    assert [seen.headers["authorization"][-1] for seen in streams] == ["1", "2", "3"]
    assert [seen.ended for seen in streams[:2]] == ["cancelled", "cancelled"]


def test_a_token_without_an_end_is_asked_for_now_and_then(run, fleet, world) -> None:
    provider = Provider(world, life_s=None)

    async def body(client: Any) -> None:
        for _ in range(30):
            await client.get(b"a")
            await client._connection.rt.sleep(5.0)

    run(body, token_provider=provider)
    assert len(provider.asked) == 3


def test_one_asks_for_all(run, fleet, world) -> None:
    provider = Provider(world)

    async def body(client: Any) -> None:
        rt = client._connection.rt
        await client.get(b"a")
        await rt.sleep(120.0)
        provider.slow_s = 1.0
        await rt.gather(*(client.get(b"a") for _ in range(20)))

    run(body, token_provider=provider)
    assert len(provider.asked) == 2


def test_a_failure_is_borne_until_the_token_ends(run, fleet, world, caplog) -> None:
    provider = Provider(world)

    async def body(client: Any) -> None:
        rt = client._connection.rt
        await client.get(b"a")
        provider.trouble = OSError("secret details")
        await rt.sleep(80.0)
        for _ in range(10):
            await client.get(b"a")
            await rt.sleep(1.0)
        await rt.sleep(20.0)
        with pytest.raises(pytikv.ConfigError, match=r"token_provider gave no token \(OSError\)") as caught:
            await client.get(b"a")
        assert caught.value.__cause__ is provider.trouble
        asked = len(provider.asked)
        for _ in range(10):
            with pytest.raises(pytikv.ConfigError):
                await client.get(b"a")
        assert len(provider.asked) == asked
        provider.trouble = None
        await rt.sleep(1.1)
        await client.get(b"a")

    caplog.set_level(logging.WARNING, logger="pytikv")
    run(body, token_provider=provider)
    assert "the token there is lasts for" in caplog.text
    assert "secret" not in caplog.text
    assert "token-" not in caplog.text


def test_a_provider_that_hangs_costs_callers_their_own_time_only(run, fleet, world) -> None:
    provider = Provider(world)

    async def body(client: Any) -> None:
        rt = client._connection.rt
        await client.get(b"a")
        await rt.sleep(120.0)
        provider.slow_s = 3.0
        for _ in range(3):
            began = rt.now()
            with pytikv.deadline(0.5), pytest.raises(pytikv.DeadlineExceeded, match="token_provider"):
                await client.get(b"a")
            assert rt.now() - began == pytest.approx(0.5)
        await client.get(b"a")
        provider.slow_s = 1000.0
        await rt.sleep(120.0)
        with pytest.raises(pytikv.DeadlineExceeded):
            await client.get(b"a")
        await rt.sleep(20.5)  # it is given up after 30 s
        with pytest.raises(pytikv.ConfigError, match="TimeoutError"):
            await client.get(b"a")

    run(body, token_provider=provider)
    assert len(provider.asked) == 3


def test_a_wall_clock_that_jumps_changes_nothing(run, fleet, world) -> None:
    provider = Provider(world)
    told = provider.rt.time

    async def body(client: Any) -> None:
        rt = client._connection.rt
        await client.get(b"a")
        rt.time = lambda: told() + 1e6
        await client.get(b"a")
        await rt.sleep(80.0)
        rt.time = told
        await client.get(b"a")
        await rt.sleep(0.1)

    run(body, token_provider=provider)
    assert len(provider.asked) == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "is a string"),
        ("", "visible ASCII"),
        ("se cret", "visible ASCII"),
        (("secret", 5.0), "ended already"),
        (("secret", float("nan")), "ended already"),
        (("secret", "soon"), "pair of a token and the Unix seconds"),
        (("secret",), "pair of a token and the Unix seconds"),
        ((7, 1e12), "is a string"),
    ],
)
def test_an_answer_that_is_no_token(world, fleet, answer, words) -> None:
    async def main() -> None:
        with pytest.raises(pytikv.ConfigError, match=words) as caught:
            await pytikv.AsyncRawClient._open(world.process("client"), URL, {"token_provider": lambda: answer})
        assert "cret" not in str(caught.value)

    world.run(main(), process="client")


def test_an_option_that_is_no_provider() -> None:
    with pytest.raises(pytikv.ConfigError, match="token_provider"):
        pytikv.ClientConfig(token_provider="secret")
