"""The budget for retries against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from pytikv.client.resilience.retry_budget import RetryBudget
from pytikv.policies import RetryBudgetPolicy


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=200))
def test_it_counts_as_exact_arithmetic_does(steps: list[tuple[int, bool]]) -> None:
    budget = RetryBudget(RetryBudgetPolicy(ratio=0.125, min_per_s=0.5, burst=4.0), 0.0)
    tokens, refilled, now = Fraction(4), Fraction(0), Fraction(0)
    for quarters, is_answer in steps:
        now += Fraction(quarters, 4)
        if is_answer:
            budget.deposit()
            tokens = min(Fraction(4), tokens + Fraction(1, 8))
        else:
            tokens, refilled = min(Fraction(4), tokens + (now - refilled) / 2), now
            allowed = tokens >= 1
            tokens -= allowed
            assert budget.withdraw(float(now)) is allowed


def test_retries_stay_near_their_share_of_the_requests() -> None:
    budget = RetryBudget(RetryBudgetPolicy(ratio=0.1, min_per_s=0.0, burst=10.0), 0.0)
    made = 0
    for _ in range(10_000):  # each request fails three times before it is answered, as far as it may
        made += sum(budget.withdraw(0.0) for _ in range(3))
        budget.deposit()
    assert 1000 <= made <= 1010
    assert budget.refused == 30_000 - made


def test_a_quiet_client_has_its_minimum() -> None:
    budget = RetryBudget(RetryBudgetPolicy(ratio=0.1, min_per_s=2.0, burst=5.0), 0.0)
    assert [budget.withdraw(0.0) for _ in range(6)] == [True] * 5 + [False]
    assert [budget.withdraw(1.0) for _ in range(3)] == [True, True, False]
    assert sum(budget.withdraw(1000.0) for _ in range(10)) == 5


def test_a_clock_that_goes_back_gives_and_takes_nothing() -> None:
    budget = RetryBudget(RetryBudgetPolicy(ratio=0.1, min_per_s=1.0, burst=3.0), 100.0)
    assert [budget.withdraw(50.0) for _ in range(4)] == [True, True, True, False]
    assert budget.withdraw(51.5)
