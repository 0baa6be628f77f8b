"""What a policy makes of back-off, in virtual time."""

from __future__ import annotations

import pickle
import random

import pytest

from pytikv import ClientConfig, ConfigError, ConnectionFailed, KindPolicy, Overloaded, RetryBudgetPolicy, RetryPolicy
from pytikv.client import backoff
from pytikv.client.backoff import KINDS, Backoffer, RetryRules
from pytikv.client.resilience.retry_budget import RetryBudget
from pytikv.config import check_config, gather_config
from pytikv.policies import BACKOFF_KINDS, BreakerPolicy, BulkheadPolicy, LimitPolicy


class Clock:
    """A runtime whose waits are over at once."""

    def __init__(self):
        self.rng = random.Random(1)
        self.clock = 0.0

    def now(self):
        return self.clock

    async def sleep(self, seconds):
        self.clock += seconds


def drive(coroutine):
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


def waits(policy, kind, count, budget=None):
    """Return the waits of `count` uses of a kind, and the error that ended them, if one did."""
    clock = Clock()
    backoffer = Backoffer(clock, 1e6, RetryRules.of(policy, budget))
    found = []
    for _ in range(count):
        before = clock.clock
        try:
            drive(backoffer.backoff(kind, "cause"))
        except Exception as error:
            return found, error
        found.append(clock.clock - before)
    return found, None


def test_the_names_are_those_of_the_table():
    assert frozenset(kind.name for kind in KINDS) == BACKOFF_KINDS


def test_a_kind_is_overridden_in_part_or_whole():
    policy = RetryPolicy(kinds={"tikvServerBusy": KindPolicy(base_ms=10, cap_ms=40, jitter="none")})
    found, _ = waits(policy, backoff.SERVER_BUSY, 4)
    assert found == pytest.approx([0.01, 0.02, 0.04, 0.04])
    found, _ = waits(policy, backoff.REGION_MISS, 3)
    assert found == pytest.approx([0.002, 0.004, 0.008])
    found, _ = waits(RetryPolicy(kinds={"regionMiss": KindPolicy(base_ms=1000)}), backoff.REGION_MISS, 3)
    assert found == pytest.approx([1.0, 1.0, 1.0])  # a cap below the base is raised to it


def test_full_jitter_spreads_all_of_a_wait():
    policy = RetryPolicy(kinds={"regionMiss": KindPolicy(base_ms=100, cap_ms=100, jitter="full")})
    found, _ = waits(policy, backoff.REGION_MISS, 200)
    assert min(found) < 0.02
    assert max(found) > 0.08


def test_attempts_are_counted_over_all_kinds_but_waits_for_others():
    clock = Clock()
    backoffer = Backoffer(clock, 1e6, RetryRules(RetryPolicy(max_attempts=4)))
    for kind in (backoff.REGION_MISS, backoff.TXN_LOCK, backoff.TXN_LOCK, backoff.TXN_LOCK, backoff.TIKV_RPC):
        drive(backoffer.backoff(kind, "x"))
    drive(backoffer.fork().backoff(backoff.TIKV_RPC, "x"))
    drive(backoffer.backoff(backoff.TIKV_RPC, "x"))
    with pytest.raises(ConnectionFailed, match=r"all 4 attempts .* were made; last causes: x"):
        drive(backoffer.backoff(backoff.TIKV_RPC, "x"))


def test_the_total_of_waits_is_kept_to_the_millisecond():
    found, error = waits(RetryPolicy(total_ms=500), backoff.SERVER_BUSY, 100)
    assert sum(found) == pytest.approx(0.5)
    assert isinstance(error, Overloaded)
    assert error.retryable


def test_the_budget_is_paid_for_each_retry_and_none_for_waiting_for_others():
    budget = RetryBudget(RetryBudgetPolicy(ratio=0.1, min_per_s=0.0, burst=3.0), 0.0)
    found, error = waits(None, backoff.TXN_LOCK, 50, budget)
    assert len(found) == 50
    found, error = waits(None, backoff.TIKV_RPC, 50, budget)
    assert len(found) == 3
    assert "the retry budget is spent; last causes: cause" in str(error)


def test_without_a_policy_there_are_no_rules():
    assert RetryRules.of(None, None) is None


# --- options ----------------------------------------------------------------------------------------------------------


def test_text_forms():
    query = {
        "breaker": "on",
        "bulkhead": "64",
        "adaptive-limit": "on",
        "retry_budget": "0.2",
        "hedge_after_ms": "p95",
        "retry.max_attempts": "3",
    }
    config = gather_config({}, query, {}).config
    assert config.breaker == BreakerPolicy()
    assert config.bulkhead == BulkheadPolicy(max_in_flight=64)
    assert config.adaptive_limit == LimitPolicy()
    assert config.retry_budget == RetryBudgetPolicy(ratio=0.2)
    assert config.hedge_after_ms == "p95"
    assert config.retry == RetryPolicy(max_attempts=3)
    off = gather_config({}, {"breaker": "off", "hedge_after_ms": "12.5"}, {}).config
    assert off.breaker is None
    assert off.hedge_after_ms == 12.5


def test_the_file(tmp_path):
    path = tmp_path / "pytikv.toml"
    path.write_text(
        "[retry]\nmax-attempts = 5\ntotal_ms = 2000\n"
        "[retry.kinds.tikvRPC]\nbase_ms = 20\njitter = 'full'\n"
        "[retry.budget]\nratio = 0.2\n"
        "[breaker]\nwindow_s = 5\nerror_rate = 0.25\n"
        "[bulkhead]\nmax_in_flight = 16\nmax_queue_s = '50ms'\n"
        "[adaptive_limit]\nmin = 2\n"
    )
    config = gather_config({"config": str(path)}, {}, {}).config
    assert config.retry == RetryPolicy(
        max_attempts=5,
        total_ms=2000,
        kinds={"tikvRPC": KindPolicy(base_ms=20, jitter="full")},
        budget=RetryBudgetPolicy(ratio=0.2),
    )
    assert config.breaker == BreakerPolicy(window_s=5, error_rate=0.25)
    assert config.bulkhead == BulkheadPolicy(max_in_flight=16, max_queue_s=0.05)
    assert config.adaptive_limit == LimitPolicy(min=2)
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(config.retry) == hash(RetryPolicy(max_attempts=5, total_ms=2000, kinds=config.retry.kinds))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"breaker": {"error_rate": 2}}, "'breaker.error_rate' must be a number between 0.001 and 1, not 2"),
        ({"breaker": {"rate": 1}}, "'breaker' has no field 'rate'"),
        ({"breaker": {"open_s": 60}}, "'breaker': open_cap_s (10) must not be below open_s (60)"),
        ({"bulkhead": -1}, "'bulkhead' must be an integer between 1 and 65536, not -1"),
        ({"adaptive_limit": {"min": 64}}, "'adaptive_limit': min <= initial <= max must hold, not 64, 32, 1024"),
        ({"retry_budget": 3.0}, "'retry_budget' must be a number between 0.001 and 1, not 3.0"),
        ({"hedge_after_ms": "p50"}, "a number of milliseconds, or 'p90', 'p95' or 'p99', not 'p50'"),
        ({"hedge_after_ms": 0}, "'hedge_after_ms' must be"),
        ({"retry": {"kinds": {"tikvRpc": {}}}}, "'retry.kinds' has no kind 'tikvRpc'"),
        ({"retry": {"kinds": {"tikvRPC": {"jitter": "some"}}}}, "'retry.kinds.tikvRPC.jitter' must be one of"),
        (
            {"retry": {"kinds": {"tikvRPC": {"base_ms": 100, "cap_ms": 5}}}},
            "'retry.kinds.tikvRPC': cap_ms (5) must not be below base_ms (100)",
        ),
        ({"retry": {"max_attempts": 0}}, "'retry.max_attempts' must be an integer between 1 and 1000, not 0"),
    ],
)
def test_what_is_wrong_is_named(options, text):
    with pytest.raises(ConfigError) as error:
        ClientConfig(**options)
    assert text in str(error.value)


def test_a_budget_is_given_once():
    config = ClientConfig(retry=RetryPolicy(budget=RetryBudgetPolicy()), retry_budget=0.1)
    with pytest.raises(ConfigError, match=r"'retry_budget' and 'retry.budget' say the same"):
        check_config(config)
