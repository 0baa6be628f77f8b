"""The backoff table and the account of a call, on time that passes by sleeping only."""

from __future__ import annotations

import pytest

from pytikv.client import backoff
from pytikv.client.backoff import KINDS, Backoffer, Jitter
from pytikv.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    KeyLocked,
    Outcome,
    Overloaded,
    RegionUnavailable,
    TikvError,
)


def test_the_table_is_sound() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    for kind in KINDS:
        assert 0 < kind.base_ms <= kind.cap_ms
        assert issubclass(kind.error, TikvError)


@pytest.mark.parametrize(
    ("kind", "base", "cap"),
    [
        ("tikvRPC", 100, 2000),
        ("regionMiss", 2, 500),
        ("regionScheduling", 2, 500),
        ("tikvDiskFull", 500, 5000),
        ("regionRecoveryInProgress", 100, 10_000),
        ("isWitness", 1000, 10_000),
        ("staleCommand", 2, 1000),
        ("maxTsNotSynced", 2, 500),
        ("regionNotInitialized", 2, 1000),
        ("txnLock", 100, 3000),
        ("txnLockFast", 10, 3000),
        ("txnNotFound", 2, 500),
        ("commitTSLag", 2, 500),
    ],
)
def test_kinds_of_client_go(kind, base, cap) -> None:
    found = next(one for one in KINDS if one.name == kind)
    assert (found.base_ms, found.cap_ms) == (base, cap)


def test_sleeps_double_up_to_the_cap(fake_rt) -> None:
    rng = fake_rt.rng
    assert [backoff.REGION_MISS.sleep_ms(n, rng) for n in range(10)] == [2, 4, 8, 16, 32, 64, 128, 256, 500, 500]
    for n in range(40):
        planned = min(2000, 100 * 2.0**n)
        assert planned / 2 <= backoff.TIKV_RPC.sleep_ms(n, rng) <= planned


def test_full_jitter(fake_rt) -> None:
    kind = backoff.BackoffKind("x", 10, 100, Jitter.FULL, TikvError, "x")
    assert all(0 <= kind.sleep_ms(3, fake_rt.rng) <= 80 for _ in range(50))


def test_each_kind_has_its_counter(fake_rt) -> None:
    offer = Backoffer(fake_rt, fake_rt.now() + 100)

    async def main() -> None:
        await offer.backoff(backoff.REGION_MISS, "a")
        await offer.backoff(backoff.REGION_MISS, "a")
        await offer.backoff(backoff.STALE_COMMAND, "b")

    fake_rt.run(main())
    assert fake_rt.now() == pytest.approx(100 + 0.002 + 0.004 + 0.002)
    assert offer.total_slept_s == pytest.approx(0.008)
    assert (offer.uses(backoff.REGION_MISS), offer.uses(backoff.STALE_COMMAND), offer.uses(backoff.PD_RPC)) == (2, 1, 0)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("budget", [0.0, 0.0005, 0.05, 1.0, 30.0])
def test_every_kind_ends_within_the_deadline(fake_rt, kind, budget) -> None:
    deadline = fake_rt.now() + budget
    offer = Backoffer(fake_rt, deadline)

    async def main() -> None:
        for i in range(10_000):
            await offer.backoff(kind, f"cause {i}")

    with pytest.raises((kind.error, DeadlineExceeded)) as ended:
        fake_rt.run(main())
    assert fake_rt.now() <= deadline
    assert "cause" in str(ended.value)
    if offer.total_slept_s:
        assert type(ended.value) is kind.error
        assert kind.text in str(ended.value)
        assert ended.value.retryable
    else:
        assert type(ended.value) is DeadlineExceeded
    assert ended.value.outcome is Outcome.NOT_APPLIED


def test_the_error_is_of_the_kind_that_slept_longest(fake_rt) -> None:
    offer = Backoffer(fake_rt, fake_rt.now() + 2)

    async def main() -> None:
        for i in range(4):
            await offer.backoff(backoff.SERVER_BUSY, f"busy {i}")
        offer.deadline = fake_rt.now() + 0.3
        while True:
            await offer.backoff(backoff.REGION_MISS, "region gone")

    with pytest.raises(Overloaded) as ended:
        fake_rt.run(main())
    assert "busy 3; region gone" in str(ended.value)
    assert "tikvServerBusy 4x" in str(ended.value)


def test_the_last_three_causes_are_kept(fake_rt) -> None:
    offer = Backoffer(fake_rt, fake_rt.now() + 2)
    for cause in ("a", "b", "b", ValueError("c"), OSError(), "e"):
        offer.note(cause)
    assert offer.causes == ("c", "OSError", "e")


def test_a_store_may_ask_for_more(fake_rt) -> None:
    offer = Backoffer(fake_rt, fake_rt.now() + 10)
    fake_rt.run(offer.backoff(backoff.SERVER_BUSY, "busy", at_least_s=3.0))
    assert fake_rt.now() == 103.0
    with pytest.raises(Overloaded):
        fake_rt.run(offer.backoff(backoff.SERVER_BUSY, "busy", at_least_s=8.0))
    assert fake_rt.now() == 103.0


def test_nothing_slept_is_a_passed_deadline(fake_rt) -> None:
    error = Backoffer(fake_rt, fake_rt.now()).exhausted("no answer", outcome=Outcome.UNDETERMINED)
    assert isinstance(error, DeadlineExceeded)
    assert isinstance(error, TimeoutError)
    assert "no answer" in str(error)
    assert error.outcome is Outcome.UNDETERMINED


def test_a_last_try_is_left_room(fake_rt) -> None:
    offer = Backoffer(fake_rt, fake_rt.now() + 1.0)
    fake_rt.run(offer.backoff(backoff.IS_WITNESS, "witness"))
    assert 100.4 <= fake_rt.now() <= 101.0


def test_fork_and_merge(fake_rt) -> None:
    offer = Backoffer(fake_rt, fake_rt.now() + 60)
    fake_rt.run(offer.backoff(backoff.REGION_MISS, "first"))
    left, right = offer.fork(), offer.fork()
    fake_rt.run(left.backoff(backoff.TIKV_RPC, "left"))
    fake_rt.run(right.backoff(backoff.REGION_MISS, "right"))
    assert offer.uses(backoff.REGION_MISS) == 1
    for child in (right, left):
        offer.merge(child)
    assert offer.uses(backoff.TIKV_RPC) == 1
    assert offer.causes == ("first", "left")
    assert right.uses(backoff.REGION_MISS) == 2


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (backoff.PD_RPC, ConnectionFailed),
        (backoff.TIKV_RPC, ConnectionFailed),
        (backoff.REGION_SCHEDULING, RegionUnavailable),
        (backoff.SERVER_BUSY, Overloaded),
        (backoff.TXN_LOCK, KeyLocked),
    ],
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", "")),
)
def test_errors_by_kind(kind, error) -> None:
    assert kind.error is error
