"""What leaves a store is measured here: how long it took, for the metrics, and for the answer itself (`services.cost`).

Commands of one message that are answered at once leave together, and took the same time: from the arrival of the
message until now. So the clock is read twice a message, not a command. Belongs to the loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pytikv.server.metrics.model import Histogram
from pytikv.server.metrics.store import StoreMetrics, type_of
from pytikv.server.services.clock import ServiceClock
from pytikv.server.services.cost import get_tail, tail

__all__ = ["Answer", "Measures"]

Answer = tuple[int, bytes, int]
"""One answer of a BatchCommands message: slot, body, id."""

_GET: Final = "KvGet"


class Measures:
    """Closes and counts the answers of one store. `slots`: the RPC by slot; `details`: which RPCs' answers are open."""

    def __init__(
        self, clock: ServiceClock, metrics: StoreMetrics, slots: Mapping[int, str], details: frozenset[str]
    ) -> None:
        self._clock = clock
        self.metrics = metrics
        self._details = details
        self._get_slot = next((slot for slot, rpc in slots.items() if rpc == _GET), -1)
        self._open_slots = frozenset(slot for slot, rpc in slots.items() if rpc in details)
        self._histograms: dict[int, Histogram] = {slot: metrics.messages[type_of(rpc)] for slot, rpc in slots.items()}
        self._types = {rpc: self._histograms[slot] for slot, rpc in slots.items()}
        self._invalid = metrics.messages["invalid"]

    def leave(self, answers: list[Answer], arrived: float) -> list[Answer]:
        """Close the answers of one message that leave now, all of them together, and count them."""
        elapsed = self._clock.now() - arrived
        if len(answers) == 1:
            slot, body, ident = answers[0]
            self._histograms.get(slot, self._invalid).observe(elapsed)
            if slot not in self._open_slots:
                return answers
            return [(slot, body + self._tail(slot == self._get_slot, elapsed, 1), ident)]
        slots = [answer[0] for answer in answers]
        kinds = set(slots)
        for slot in kinds:
            self._histograms.get(slot, self._invalid).observe(elapsed, slots.count(slot))
        self.metrics.answers_in_batch.observe(len(answers))
        if kinds.isdisjoint(self._open_slots):
            return answers
        tails = {slot: self._tail(slot == self._get_slot, elapsed, len(answers)) for slot in kinds & self._open_slots}
        return [(slot, body + tails[slot] if slot in tails else body, ident) for slot, body, ident in answers]

    def leave_one(self, rpc: str, body: bytes, arrived: float) -> bytes:
        """Close an answer that leaves by itself, and count it."""
        elapsed = self._clock.now() - arrived
        self._of(rpc).observe(elapsed)
        return body + self._tail(rpc == _GET, elapsed, 1) if rpc in self._details else body

    def failed(self, rpc: str) -> None:
        """A call ended without an answer."""
        self.metrics.failures[type_of(rpc)] += 1

    def _of(self, rpc: str) -> Histogram:
        found = self._types.get(rpc)
        if found is None:
            found = self._types[rpc] = self.metrics.messages[type_of(rpc)]
        return found

    @staticmethod
    def _tail(is_get: bool, elapsed: float, commands: int) -> bytes:
        return get_tail(elapsed, elapsed / commands) if is_get else tail(elapsed)
