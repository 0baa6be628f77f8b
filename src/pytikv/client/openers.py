"""Finding the implementation of a backend by the scheme of a target, `tikv` or `embedded`.

The tables hold names, not modules: the client half must not import the server half, and a program that never embeds a
store must not load one.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from pytikv.config import ClientConfig
from pytikv.rt.interface import Runtime
from pytikv.url import Target

__all__ = ["Opener", "opener"]

BackendT_co = TypeVar("BackendT_co", covariant=True)


class Opener(Protocol[BackendT_co]):
    """How a backend is opened."""

    async def __call__(self, rt: Runtime, target: Target, config: ClientConfig) -> BackendT_co:
        """Open the data at `target`. Raises ConfigError, ConnectionFailed, DeadlineExceeded, StorageError."""
        ...


def opener(function: str, modules: Mapping[str, str]) -> Opener[Any]:
    """Return what opens a backend: the `function` of the module that `modules` names for the target's scheme."""

    async def open_there(rt: Runtime, target: Target, config: ClientConfig) -> Any:
        open_here: Opener[Any] = getattr(importlib.import_module(modules[target.scheme]), function)
        return await open_here(rt, target, config)

    return open_there
