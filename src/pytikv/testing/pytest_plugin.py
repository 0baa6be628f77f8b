"""Pytest fixtures of pytikv; the plugin is found where the package is installed, and imports nothing until it is used.

* `tikv`: a `RawClient` on a fresh embedded store in memory, one for each test.
* `tikv_server`: a development server in a process of its own, one for the whole session, with `.url`,
  `.client(**options)` and `.restart()`. Tests share its data: use keys of your own, or call `.clear()`.
* `pytikv_leak_guard`: fails the test that leaves behind a thread, a socket, or a task that asyncio complains about. Ask
  for it in an autouse fixture of your own conftest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytikv import RawClient
    from pytikv.testing.server import ServerProcess

__all__ = ["pytikv_leak_guard", "tikv", "tikv_server"]


@pytest.fixture
def tikv() -> Iterator[RawClient]:
    """A raw client on a fresh store in memory."""
    import pytikv

    with pytikv.RawClient.connect("embedded://:memory:") as client:
        yield client


@pytest.fixture(scope="session")
def tikv_server() -> Iterator[ServerProcess]:
    """A development server in a process of its own, for the whole session."""
    from pytikv.testing.server import ServerProcess

    with ServerProcess() as server:
        yield server


@pytest.fixture
def pytikv_leak_guard() -> Iterator[None]:
    """Fail a test that leaves threads, sockets or unfinished tasks behind."""
    from pytikv.testing.leaks import LeakGuard

    guard = LeakGuard()
    yield
    leaks = guard.finish()
    if leaks:
        pytest.fail("the test left behind: " + "; ".join(leaks), pytrace=False)
