"""A sink that remembers, and a store to talk to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytikv.observe import telemetry
from pytikv.observe.telemetry import CallRecord, Sink, Step


class Ear(Sink):
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.begun: list[CallRecord] = []
        self.steps: list[tuple[CallRecord, Step]] = []
        self.ended: list[CallRecord] = []
        self.errors: list[str] = []
        """The errors told at the ends, as text: what is kept of one keeps the caller's objects."""

    def on_begin(self, record: CallRecord) -> None:
        self.begun.append(record)

    def on_step(self, record: CallRecord, step: Step) -> None:
        self.steps.append((record, step))

    def on_end(self, record: CallRecord) -> None:
        self.ended.append(record)
        self.errors += [type(record.error).__name__] if record.error is not None else []

    def methods(self) -> list[str]:
        return [record.method for record in self.ended]

    def clear(self) -> None:
        self.begun.clear()
        self.steps.clear()
        self.ended.clear()


@pytest.fixture
def ear() -> Iterator[Ear]:
    """An installed sink; nobody listens after the test."""
    ear = Ear()
    telemetry.install(ear)
    yield ear
    telemetry.remove(ear)
    assert telemetry.sinks() == ()
