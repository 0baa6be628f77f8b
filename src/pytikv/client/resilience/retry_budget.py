"""A budget for retries: a bucket of tokens, filled by what succeeds. A pure machine: the time comes in.

When every call fails and every failure is tried again, clients do to a weak store what finishes it. So a retry costs a
token, each answered request brings `ratio` of one, and `min_per_s` come by themselves, for clients that ask little. In
sum the retries of a client stay near that share of its requests, however many calls fail. At most `burst` are kept.

Who finds no token ends with the cause it has at that moment, which stays retryable: the caller decides.

Several threads may use it at once: a token lost or won by a race is of no matter.

Source of the idea: Finagle's RetryBudget; gRPC's retry throttling (proposal A6).
"""

from __future__ import annotations

from pytikv.policies import RetryBudgetPolicy

__all__ = ["RetryBudget"]


class RetryBudget:
    """The budget of one client, all its calls together."""

    __slots__ = ("_burst", "_min_per_s", "_refilled_at", "ratio", "refused", "saved")

    def __init__(self, policy: RetryBudgetPolicy, now: float) -> None:
        self.ratio = policy.ratio
        self._min_per_s = policy.min_per_s
        self._burst = policy.burst
        self._refilled_at = now
        self.saved = policy.burst
        """Tokens, before the bound of `burst` is applied and without what time has brought since the last retry. An
        answered request adds `ratio` to it: the guard does so by itself, since that is all that `deposit` does."""
        self.refused = 0
        """Retries that were not made for want of a token."""

    def deposit(self) -> None:
        """A request was answered."""
        self.saved += self.ratio

    @property
    def tokens(self) -> float:
        """Retries that could be made at this moment, but for what time has brought since the last one."""
        return min(self._burst, self.saved)

    def withdraw(self, now: float) -> bool:
        """Pay for a retry; False where it must not be made."""
        earned = max(0.0, now - self._refilled_at) * self._min_per_s
        self._refilled_at = now
        tokens = min(self._burst, self.saved + earned)
        if tokens < 1.0:
            self.saved = tokens
            self.refused += 1
            return False
        self.saved = tokens - 1.0
        return True
