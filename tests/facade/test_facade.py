"""The blocking and the asynchronous client are one: same methods, same signatures, same words. Imports stay light."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import pytikv
from pytikv.client.blocking import RawClient
from pytikv.client.raw import AsyncRawClient
from pytikv.client.txn.blocking import Snapshot, Transaction, TransactionClient
from pytikv.client.txn.client import AsyncTransactionClient
from pytikv.client.txn.snapshot import AsyncSnapshot
from pytikv.client.txn.transaction import AsyncTransaction

LIFE = {"connect", "close", "with_options"}
TWINS = [
    (RawClient, AsyncRawClient),
    (TransactionClient, AsyncTransactionClient),
    (Transaction, AsyncTransaction),
    (Snapshot, AsyncSnapshot),
]
CALLBACKS = {"run", "attempts"}
"""They call back into the program, which is asynchronous in one of the two, and so are their words."""
OWN_WORDS = {(TransactionClient, "begin"), (TransactionClient, "snapshot"), (Snapshot, "ts")}
"""What waits in the blocking class is lazy in the other one, and says so."""


def public(cls: type) -> dict[str, object]:
    found: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        found |= vars(base)
    return {name: value for name, value in found.items() if not name.startswith("_")}


def members(kind: type) -> list[str]:
    return sorted(public(kind))


@pytest.mark.parametrize(("ours", "twin"), TWINS)
def test_same_members(ours: type, twin: type) -> None:
    assert set(members(ours)) == set(members(twin)) - {"is_owner"}
    assert all(inspect.getdoc(getattr(ours, name)) for name in members(ours))


def test_members_that_must_be_there() -> None:
    assert {"get", "put", "delete", "scan", "compare_and_swap", "batch_get"} <= set(members(RawClient))
    assert {"begin", "run", "attempts", "snapshot", "current_timestamp", "gc"} <= set(members(TransactionClient))
    assert {"split", "delete_range", "unsafe_destroy_range"} <= set(members(TransactionClient))
    assert {"get", "get_for_update", "lock_keys", "savepoint", "commit", "outcome"} <= set(members(Transaction))


@pytest.mark.parametrize(("ours", "twin", "name"), [(*pair, name) for pair in TWINS for name in members(pair[0])])
def test_same_signatures_and_words(ours: type, twin: type, name: str) -> None:
    mine, other = getattr(ours, name), getattr(twin, name)
    if (ours, name) not in OWN_WORDS and name not in CALLBACKS:
        assert inspect.getdoc(mine) == inspect.getdoc(other)
    if isinstance(mine, property):
        assert isinstance(other, property)
        return
    here, there = inspect.signature(mine), inspect.signature(other)
    if name in CALLBACKS:
        assert list(here.parameters) == list(there.parameters)
        return
    assert list(here.parameters.values()) == list(there.parameters.values())
    plain, twins = str(here.return_annotation), str(there.return_annotation)
    assert plain == twins.replace("AsyncIterator", "Iterator").replace("Async", "")
    if name not in LIFE:
        is_lazy = name in (
            "scan",
            "scan_prefix",
            "savepoint",
            "begin",
            "snapshot",
            "serve_metrics",
            "batch",
        ) or name.startswith("assert_")
        assert inspect.iscoroutinefunction(other) is not is_lazy


def test_public_names() -> None:
    for name in pytikv.__all__:
        assert getattr(pytikv, name) is not None
    assert set(pytikv.__all__) <= set(dir(pytikv))
    with pytest.raises(AttributeError, match="nonsense"):
        pytikv.nonsense  # noqa: B018 - reading it is the test
    assert pytikv.RawClient is RawClient
    assert pytikv.AsyncRawClient is AsyncRawClient
    assert pytikv.TransactionClient is TransactionClient
    assert pytikv.AsyncTransactionClient is AsyncTransactionClient
    assert pytikv.Transaction is Transaction
    assert pytikv.Snapshot is Snapshot


def loaded_after(code: str) -> set[str]:
    command = f"{code}\nimport sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_imports_are_light() -> None:
    bare = loaded_after("import pytikv")
    assert not bare & {"asyncio", "rocksdict", "typer", "rich", "uvloop", "hpack", "google.protobuf", "pytikv.server"}
    blocking = loaded_after("import pytikv; pytikv.RawClient")
    assert not blocking & {"rocksdict", "typer", "uvloop", "pytikv.server", "pytikv.embedded"}
    transactions = loaded_after("import pytikv; pytikv.TransactionClient")
    assert not transactions & {"rocksdict", "typer", "uvloop", "asyncio", "pytikv.server", "pytikv.embedded_store"}
    embedded = loaded_after("import pytikv; pytikv.RawClient.connect('embedded://:memory:').close()")
    assert not embedded & {"rocksdict", "typer", "uvloop", "grpc"}


def test_connect_refuses_before_it_connects() -> None:
    for target, options in [
        ("redis://x", {}),
        ("k8s://ns/c", {}),
        ("tikv://u:p@h", {}),
        ("embedded://:memory:", {"timeot": 1}),
        ("tikv://h/ks", {"keyspace": "other"}),
        ("tikv://h/ks", {"api_version": 1}),
        ("tikv://h", {"api_version": 2, "cf": "write"}),
    ]:
        with pytest.raises(pytikv.ConfigError):
            pytikv.RawClient.connect(target, **options)
    with pytest.raises(pytikv.WrongType):
        pytikv.RawClient.connect(7)  # type: ignore[arg-type]
