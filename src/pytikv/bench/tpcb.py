"""A workload like TPC-B: money moves at the counters of a bank, and the books must balance at the end.

One operation adds an amount to an account, to a teller and to a branch, and writes a line of history, as one
transaction. Whatever conflicts and failures there were, the sum over the accounts, over the tellers, over the branches
and over the history must be the same (`check`): a lost update or a half-done transaction breaks it. Over the raw API,
which has no transactions, each balance is moved by compare-and-swap for itself: sums agree unless operations failed.

Sizes are TPC-B's for each branch: 10 tellers, rows of 100 bytes, history of 50; accounts are fewer than its 100 000
unless asked for. 85 % of the accounts are of the teller's own branch, as it demands.

Source: TPC Benchmark B, standard specification 2.0, clauses 1 and 3 (transaction profile, scaling, remote accounts).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping
from typing import Final

from pytikv.bench.stores import Change, Codes, Steps, Store, prefix_end
from pytikv.bench.workloads import Check, Operation, Worker
from pytikv.errors import ConfigError

__all__ = ["TpcB", "balance", "row"]

TELLERS_A_BRANCH: Final = 10
AMOUNT_MAX: Final = 999_999
_ROW_BYTES: Final = 100
_HISTORY_BYTES: Final = 50
_BALANCE_BYTES: Final = 8
_OWN_BRANCH_SHARE: Final = 0.85
_TABLES: Final = ("account", "teller", "branch")


def row(amount: int, size: int = _ROW_BYTES) -> bytes:
    """Return a row: the balance, and filler up to `size` bytes."""
    return amount.to_bytes(_BALANCE_BYTES, "big", signed=True).ljust(size, b".")


def balance(value: bytes) -> int:
    """Return the balance of a row."""
    return int.from_bytes(value[:_BALANCE_BYTES], "big", signed=True)


@dataclasses.dataclass(frozen=True, slots=True)
class TpcB:
    """A bank of `scale` branches."""

    prefix: bytes
    scale: int = 1
    accounts_a_branch: int = 10_000
    seed: int = 1

    def __post_init__(self) -> None:
        if self.scale < 1 or self.accounts_a_branch < 1:
            raise ConfigError("a bank needs at least 1 branch and 1 account a branch")

    @property
    def name(self) -> str:
        """See `Workload`."""
        return "tpcb"

    @property
    def operations(self) -> tuple[str, ...]:
        """See `Workload`."""
        return ("transfer",)

    @property
    def options(self) -> Mapping[str, object]:
        """See `Workload`."""
        return {"scale": self.scale, "accounts_a_branch": self.accounts_a_branch, "seed": self.seed}

    def key(self, table: str, number: int) -> bytes:
        """Return the key of a row."""
        return b"%s%s/%010d" % (self.prefix, table.encode(), number)

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """See `Workload`."""
        counts = (self.accounts_a_branch, TELLERS_A_BRANCH, 1)
        for table, count in zip(_TABLES, counts, strict=True):
            for number in range(self.scale * count):
                yield self.key(table, number), row(0)

    def worker(self, number: int, store: Store) -> Worker:
        """See `Workload`."""
        return _Counter(self, store, number)

    def check(self, store: Store) -> Steps[Check | None]:
        """See `Workload`: whether the four sums agree."""
        sums = {}
        for table in (*_TABLES, "history"):
            start = b"%s%s/" % (self.prefix, table.encode())
            rows = yield from store.read_all(start, prefix_end(start))
            sums[table] = sum(balance(value) for _, value in rows)
        text = ", ".join(f"{table} {amount}" for table, amount in sums.items())
        is_sound = len(set(sums.values())) == 1
        return Check(is_sound, f"the books {'balance' if is_sound else 'DO NOT BALANCE'}: {text}")


class _Counter:
    """One worker's customers."""

    def __init__(self, bank: TpcB, store: Store, number: int) -> None:
        self._bank = bank
        self._store = store
        self._number = number
        self._lines = 0
        self._dice = random.Random(f"{bank.seed}/{number}")

    def next(self) -> Operation:
        """See `Worker`."""
        bank, dice = self._bank, self._dice
        teller = dice.randrange(bank.scale * TELLERS_A_BRANCH)
        branch = home = teller // TELLERS_A_BRANCH
        if bank.scale > 1 and dice.random() >= _OWN_BRANCH_SHARE:
            home = (branch + 1 + dice.randrange(bank.scale - 1)) % bank.scale
        account = home * bank.accounts_a_branch + dice.randrange(bank.accounts_a_branch)
        amount = dice.randrange(-AMOUNT_MAX, AMOUNT_MAX + 1)
        return "transfer", self._transfer({"account": account, "teller": teller, "branch": branch}, amount)

    def _transfer(self, rows: Mapping[str, int], amount: int) -> Steps[Codes]:
        add: Change = lambda value: row(balance(value or b"") + amount)  # noqa: E731  # two lines would say no more
        self._lines += 1
        line = b"%shistory/%06d-%010d" % (self._bank.prefix, self._number, self._lines)
        changes = {self._bank.key(table, number): add for table, number in rows.items()}
        return self._store.change(changes, {line: row(amount, _HISTORY_BYTES)})
