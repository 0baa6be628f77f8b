"""Is a history of transactions what snapshot isolation promises? Recorders, checkers, reports.

    history = TxnHistory()                       # record what every client did and saw
    ...
    report = check_isolation(history)            # judge it
    report.raise_for_violation()

* `txns`: what is recorded: transactions made of list-append and register operations, with their timestamps;
* `observations`: what single transactions and single keys show: aborted, intermediate and made-up reads, lost updates,
  and the order in which each key's versions were written;
* `dependencies`: the graph of who wrote, read and overwrote what; `cycles`: the anomalies that are cycles of it;
* `timestamps`: the direct proof, where start_ts and commit_ts are known: every read is of its snapshot;
* `bank`: totals that no snapshot may change; `report`: the whole of it, in words.

Sources (ideas): A. Adya, Weak Consistency (MIT, 1999); K. Kingsbury and P. Alvaro, Elle (VLDB 2020); A. Cerone and
A. Gotsman, Analysing Snapshot Isolation (JACM 2018).
"""

from __future__ import annotations

from pytikv.testing.isolation.bank import BankReport, check_bank
from pytikv.testing.isolation.report import IsolationReport, NotIsolated, check_isolation
from pytikv.testing.isolation.txns import Anomaly, Finding, Level, Op, OpKind, Txn, TxnHistory, TxnStatus

__all__ = [
    "Anomaly",
    "BankReport",
    "Finding",
    "IsolationReport",
    "Level",
    "NotIsolated",
    "Op",
    "OpKind",
    "Txn",
    "TxnHistory",
    "TxnStatus",
    "check_bank",
    "check_isolation",
]
