"""Seeing what clients do: metrics, traces, logs, profiles. No exporter is needed by the core.

`telemetry` is the middle: the request path reports to it, exporters (sinks) hear from it.
"""

from __future__ import annotations

from types import ModuleType

_MODULES = frozenset({"metrics", "profile", "telemetry", "tracing"})


def __getattr__(name: str) -> ModuleType:
    """Load a module of this package when it is first asked for, as `pytikv.observe.tracing`."""
    if name not in _MODULES:
        raise AttributeError(f"module 'pytikv.observe' has no attribute {name!r}")
    import importlib

    return importlib.import_module(f"pytikv.observe.{name}")
