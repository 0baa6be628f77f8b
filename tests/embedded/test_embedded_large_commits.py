"""Transactions of many keys in a store inside the process are committed by one prewrite, up to its size."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

import pytikv


@pytest.mark.parametrize(
    ("keys", "value_bytes", "requests"),
    [(3000, 100, {"KvPrewrite": 1}), (300, 10_000, {"KvPrewrite": 3, "KvCommit": 2})],
    ids=["one phase", "two phases"],
)
def test_prewrites(keys: int, value_bytes: int, requests: dict[str, int]) -> None:
    with pytikv.TransactionClient.connect("embedded://:memory:") as db:
        commands: Any = db._core._backend._commands  # type: ignore[attr-defined]
        execute, sent = commands.execute, Counter[str]()

        def counted(name: str, request: Any) -> Any:
            sent[name] += 1
            return execute(name, request)

        commands.execute = counted
        with db.begin(async_commit=False) as txn:
            for number in range(keys):
                txn.put(b"%06d" % number, b"v" * value_bytes)
        assert sent["KvPrewrite"] == requests["KvPrewrite"]
        assert bool(sent["KvCommit"]) == ("KvCommit" in requests)
        assert sum(1 for _ in db.snapshot().scan(keys_only=True)) == keys
        assert not db.check_consistency().damage
