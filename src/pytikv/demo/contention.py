"""The same seats sold by each strategy, from a row for each buyer to one row that all want: throughput by contention.

At every level the same number of buyers book about the same number of seats; what changes is on how many flights these
are. Where nobody meets anybody, optimistic transactions have nothing to repeat, and pessimistic ones pay for locks that
nobody else wants; where all want one row, the former throw most of their work away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pytikv.demo.seats import STRATEGIES, Sale, SaleReport, sell

if TYPE_CHECKING:
    from pytikv import TransactionClient

__all__ = ["SEATS", "STRATEGIES", "compare", "levels", "throughputs"]

_LEVELS: Final = 4
SEATS: Final = 640


def levels(buyers: int, flights: int) -> list[int]:
    """Return on how many flights to sell, from one for each buyer (where there are as many) down to one.

    >>> levels(32, 1000)
    [32, 10, 3, 1]
    """
    most = max(1, min(buyers, flights))
    steps = [round(most ** (1 - step / (_LEVELS - 1))) for step in range(_LEVELS)]
    return sorted(set(steps), reverse=True)


def compare(db: TransactionClient, flights: Sequence[str], buyers: int, seats: int = SEATS) -> Iterator[SaleReport]:
    """Sell at every level by every strategy; yields each sale's report when it has ended. `seats`: in all, about."""
    for count in levels(buyers, len(flights)):
        for strategy in STRATEGIES:
            yield sell(db, Sale(flights[:count], strategy, buyers, max(1, seats // count)))


def throughputs(sales: Sequence[SaleReport]) -> tuple[list[str], dict[str, list[float | None]]]:
    """Return the levels, as buyers a flight, and for each strategy its bookings a second at each, for a chart."""
    found = {(sale.strategy, sale.buyers_a_flight): sale.latencies.per_second for sale in sales}
    contention = sorted({sale.buyers_a_flight for sale in sales})
    return list(map(str, contention)), {name: [found.get((name, count)) for count in contention] for name in STRATEGIES}
