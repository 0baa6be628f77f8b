"""Fixtures of the tests of queries: an embedded store, and a prefix of its own for each table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

import pytikv

_prefixes = itertools.count()


@pytest.fixture(scope="module")
def db() -> Iterator[pytikv.TransactionClient]:
    with pytikv.TransactionClient.connect("embedded://:memory:") as client:
        yield client


@pytest.fixture(scope="module")
def new_prefix() -> Callable[[], bytes]:
    return lambda: b"%06d/" % next(_prefixes)
