"""Options of transactions and snapshots: what is refused, and in what words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import pytikv
from pytikv.client.txn.backend import DEFAULT_CONTEXT, RequestContext
from pytikv.client.txn.options import ReadOptions, TxnOptions, read_options, txn_options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pessimistic": 1}, "option 'pessimistic' must be True or False, not int"),
        ({"pessimistic": []}, "option 'pessimistic' must be True or False, not list"),
        ({"pesimistic": True}, "unknown option 'pesimistic' of a transaction; did you mean 'pessimistic'"),
        ({"isolation": 1}, "option 'isolation' must be one of 'SI', 'RC', not int"),
        ({"lock_ttl_ms": 1.5}, "option 'lock_ttl_ms' must be an int between 1 and 3600000, not float"),
        ({"lock_ttl_ms": True}, "not bool"),
        ({"max_entry_bytes": None}, "not None"),
        ({"commit_ts_check": 7}, "must be a function"),
        ({"request_source": b"x"}, "must be a string"),
        ({"resource_group_tag": "x"}, "must be bytes"),
        ({"kind": 1}, "unknown option 'kind'"),
    ],
)
def test_wrong_types_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(pytikv.WrongType) as caught:
        txn_options(options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"isolation": "si"}, "must be one of 'SI', 'RC', not 'si'; did you mean 'SI'?"),
        ({"isolation": "RCCheckTS"}, "must be one of 'SI', 'RC', not 'RCCheckTS'"),
        ({"priority": "urgent"}, "must be one of 'low', 'normal', 'high'"),
        ({"lock_ttl_ms": 0}, "must be between 1 and 3600000, not 0"),
        ({"start_ts": 1 << 64}, "must be between 1 and"),
        ({"pipelined": True, "pessimistic": True}, "contradicts 'pessimistic'"),
        ({"fair_locking": True}, "needs pessimistic=True"),
    ],
)
def test_values_out_of_range_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(pytikv.InvalidArgument) as caught:
        txn_options(options)
    assert words in str(caught.value)
    assert not isinstance(caught.value, TypeError)


def test_reading_options() -> None:
    with pytest.raises(pytikv.InvalidArgument, match="stale_read"):
        read_options({"stale_read": True, "isolation": "RC"})
    with pytest.raises(pytikv.InvalidArgument, match="contradicts replica_read"):
        read_options({"stale_read": True, "replica_read": "leader"})
    with pytest.raises(pytikv.WrongType, match="unknown option 'pessimistic' of a snapshot"):
        read_options({"pessimistic": True})
    made = read_options({"isolation": "RC", "priority": "high", "not_fill_cache": True, "task_id": 9})
    assert made.context() == RequestContext(isolation=1, priority="high", not_fill_cache=True, task_id=9)
    assert ReadOptions().context() == DEFAULT_CONTEXT


def test_a_transaction_reads_and_writes_with_its_options() -> None:
    made = txn_options({"isolation": "RC", "priority": "low", "replica_read": "follower", "txn_source": 3})
    assert made.read_options() == ReadOptions(isolation="RC", priority="low", replica_read="follower")
    assert made.write_context() == RequestContext(priority="low", txn_source=3)  # isolation is a matter of reads
    assert txn_options({"disk_full": "already_full"}).write_context().disk_full_opt == 2


def test_recurring_options_are_made_once() -> None:
    assert txn_options({}) is txn_options({})
    assert txn_options({"pessimistic": True}) is txn_options({"pessimistic": True})
    assert txn_options({}) == TxnOptions()
    with pytest.raises(pytikv.WrongType):  # 1 == True, yet it is not what was asked for before
        txn_options({"pessimistic": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        txn_options({}).pessimistic = True  # type: ignore[misc]
