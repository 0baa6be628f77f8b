"""The bank: transfers between accounts; no snapshot may ever show another total.

The oldest test of isolation there is, and independent of any theory: whatever reads all accounts in one transaction
must find the total that was there at the start, and no account below zero when transfers refuse to overdraw. A total
that is wrong in one read and right in the next is read skew; one that stays wrong is a lost or doubled write.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

__all__ = ["BankReport", "check_bank"]

_SHOWN = 5


@dataclasses.dataclass(frozen=True, slots=True)
class BankReport:
    """The finding: `problems` are the snapshots that are wrong, in words."""

    snapshots: int
    total: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every snapshot had the right total."""
        return not self.problems

    def describe(self) -> str:
        """Return the finding for people."""
        if self.ok:
            return f"bank: {self.snapshots} snapshots, each with a total of {self.total}"
        head = f"bank: {len(self.problems)} of {self.snapshots} snapshots are wrong"
        return "\n".join([head, *self.problems[:_SHOWN]])


def check_bank(
    snapshots: Iterable[tuple[str, Mapping[bytes, int]]], accounts: Mapping[bytes, int], *, overdraft: bool = False
) -> BankReport:
    """Judge what was read: pairs of a name for the snapshot and the balance of each account in it.

    `accounts` are the balances at the start; a snapshot must show the same accounts. `overdraft`: balances below zero
    are fine.
    """
    total = sum(accounts.values())
    problems: list[str] = []
    count = 0
    for name, balances in snapshots:
        count += 1
        if balances.keys() != accounts.keys():
            missing = sorted(accounts.keys() - balances.keys())
            unknown = sorted(balances.keys() - accounts.keys())
            problems.append(f"{name}: accounts missing {missing}, unknown {unknown}")
        elif sum(balances.values()) != total:
            problems.append(f"{name}: the total is {sum(balances.values())}, not {total}: {dict(balances)}")
        elif not overdraft and min(balances.values(), default=0) < 0:
            problems.append(f"{name}: an account is below zero: {dict(balances)}")
    return BankReport(count, total, tuple(problems))
