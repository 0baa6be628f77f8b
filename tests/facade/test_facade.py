"""The blocking and the asynchronous client are one: same methods, same signatures, same words. Imports stay light."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import pytikv
from pytikv.client.blocking import RawClient
from pytikv.client.raw import AsyncRawClient

LIFE = {"connect", "close", "with_options", "config"}


def public(cls: type) -> dict[str, object]:
    return {name: value for name, value in vars(cls).items() if not name.startswith("_") and callable(value)}


def test_same_methods() -> None:
    names = public(RawClient).keys() - LIFE
    assert names == public(AsyncRawClient).keys() - LIFE - {"is_owner"}
    assert {"get", "put", "delete", "scan", "compare_and_swap", "batch_get"} <= names


@pytest.mark.parametrize("name", sorted(public(RawClient).keys() | {"connect"}))
def test_same_signatures_and_words(name: str) -> None:
    ours, twin = getattr(RawClient, name), getattr(AsyncRawClient, name)
    mine, other = inspect.signature(ours), inspect.signature(twin)
    assert list(mine.parameters.values()) == list(other.parameters.values())
    assert str(mine.return_annotation).replace("Iterator", "") == str(other.return_annotation).replace(
        "AsyncIterator", ""
    )
    assert inspect.getdoc(ours) == inspect.getdoc(twin)
    is_lazy = name in ("scan", "scan_prefix", "with_options")
    assert inspect.iscoroutinefunction(twin) is not is_lazy


def test_public_names() -> None:
    for name in pytikv.__all__:
        assert getattr(pytikv, name) is not None
    assert set(pytikv.__all__) <= set(dir(pytikv))
    with pytest.raises(AttributeError, match="nonsense"):
        pytikv.nonsense  # noqa: B018 - reading it is the test
    assert pytikv.RawClient is RawClient
    assert pytikv.AsyncRawClient is AsyncRawClient


def loaded_after(code: str) -> set[str]:
    command = f"{code}\nimport sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_imports_are_light() -> None:
    bare = loaded_after("import pytikv")
    assert not bare & {"asyncio", "rocksdict", "typer", "rich", "uvloop", "hpack", "google.protobuf", "pytikv.server"}
    blocking = loaded_after("import pytikv; pytikv.RawClient")
    assert not blocking & {"rocksdict", "typer", "uvloop", "pytikv.server", "pytikv.embedded"}
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
