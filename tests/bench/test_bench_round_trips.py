"""How often a transaction waits for an answer, counted by the benchmarks' neutral server, which answers late."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("go") is None, reason="no Go toolchain to build the neutral server with"),
]


def test_a_transaction_waits_no_more_often_than_its_protocol_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "workers"))
    import txn_measures

    lines, trips = txn_measures.round_trips(delay_ms=100, counted=3)
    assert [line.skipped for line in lines if line.skipped] == []
    assert trips == {case: allowed for case, (_, allowed) in txn_measures.TRANSACTIONS.items()}
    requests = dict(zip(trips, (line.detail for line in lines), strict=True))
    assert requests["1pc"] == "requests: KvPrewrite 1, Tso 2"
    assert requests["1pc_causal"] == "requests: KvPrewrite 1, Tso 1"
    assert requests["2pc"] == "requests: KvCommit 2, KvPrewrite 2, Tso 2"
    assert requests["1pc_1_read"] == "requests: KvGet 1, KvPrewrite 1, Tso 2"
    for module in ("txn_measures", "contest", "harness", "report"):
        sys.modules.pop(module, None)
