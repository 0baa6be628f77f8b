"""What leaves a store is measured here: how long it took, for the metrics, and for the answer itself (`services.cost`).

Commands of one message that are answered at once leave together, and took the same time: from the arrival of the
message until now. So the clock is read twice a message, not a command. Belongs to the loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

from pytikv.codec import envelope
from pytikv.server.metrics.model import Histogram
from pytikv.server.metrics.store import StoreMetrics, type_of
from pytikv.server.services import cost
from pytikv.server.services.clock import ServiceClock
from pytikv.server.services.cost import TICKS_PER_S

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
        self._slots = slots
        self._get_slot = next((slot for slot, rpc in slots.items() if rpc == _GET), -1)
        self._open_slots = frozenset(slot for slot, rpc in slots.items() if rpc in details)
        self._tails = {slot: cost.LONE_GET_TAILS if slot == self._get_slot else cost.TAILS for slot in self._open_slots}
        self._histograms: dict[int, Histogram] = {slot: metrics.messages[type_of(rpc)] for slot, rpc in slots.items()}
        self._types = {rpc: self._histograms[slot] for slot, rpc in slots.items()}
        self._invalid = metrics.messages["invalid"]

    def leave(self, answers: list[Answer], arrived: float) -> bytes:
        """Return the message with the answers of one message that leave now, all together; close and count them."""
        elapsed = self._clock.now() - arrived
        count = len(answers)
        slot, body, ident = answers[0]
        if count == 1:
            times = self._histograms.get(slot, self._invalid)
            bounds = times.bounds  # `observe`, spelled out: once for each lone get
            times.counts[bisect_left(bounds, elapsed) if elapsed > bounds[0] else 0] += 1
            times.sum += elapsed
            tails = self._tails.get(slot)
            if tails is not None:
                return envelope.encode_one(slot, body, ident, tails[int(elapsed * TICKS_PER_S)])
            return envelope.encode_one(slot, body, ident) if slot else envelope.encode(answers)
        self.metrics.answers_in_batch.observe(count)
        slots = [answer[0] for answer in answers]
        if slots.count(slot) == count:  # one kind, as nearly always
            self._histograms.get(slot, self._invalid).observe(elapsed, count)
            if slot in self._open_slots:
                return envelope.encode_alike(slot, answers, self._tail(slot, elapsed, count))
            return envelope.encode(answers)
        return envelope.encode(self._close_mixed(answers, slots, elapsed))

    def _close_mixed(self, answers: list[Answer], slots: list[int], elapsed: float) -> list[Answer]:
        kinds = set(slots)
        for slot in kinds:
            self._histograms.get(slot, self._invalid).observe(elapsed, slots.count(slot))
        tails = {slot: self._tail(slot, elapsed, len(answers)) for slot in kinds & self._open_slots}
        return [(slot, body + tails[slot] if slot in tails else body, ident) for slot, body, ident in answers]

    def leave_one(self, rpc: str, body: bytes, arrived: float) -> bytes:
        """Close an answer that leaves by itself, and count it."""
        elapsed = self._clock.now() - arrived
        self._of(rpc).observe(elapsed)
        if rpc not in self._details:
            return body
        return body + (cost.get_tail(elapsed, 1) if rpc == _GET else cost.tail(elapsed))

    def failed(self, rpc: str) -> None:
        """A call ended without an answer."""
        self.metrics.failures[type_of(rpc)] += 1

    def failed_in(self, slot: int) -> None:
        """A command in a message of many ended it without an answer."""
        self.failed(self._slots.get(slot, "invalid"))

    def _of(self, rpc: str) -> Histogram:
        found = self._types.get(rpc)
        if found is None:
            found = self._types[rpc] = self.metrics.messages[type_of(rpc)]
        return found

    def _tail(self, slot: int, elapsed: float, commands: int) -> bytes:
        return cost.get_tail(elapsed, commands) if slot == self._get_slot else cost.tail(elapsed)
