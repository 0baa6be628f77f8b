"""What stores say of their own health beside their answers: a store with a high slow score is avoided for a time.

TiKV hangs a `kvrpcpb.HealthFeedback` onto a response of BatchCommands now and then. Its slow score goes from 1, all
well, to 100; from `SLOW_SCORE` on, other replicas are preferred for `AVOIDED_S`. Each further feedback of that kind
renews the mark. None takes it away before its time: a store that is avoided is asked little, so that time, and not what
it says, has to give it its next chance.

What cannot be read, or speaks of a store that was never met, is ignored: it is advice, and no answer hangs on it.

Source: client-go internal/locate/store_cache.go, for the threshold.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import DecodeError

from pytikv.client.store_cache import StoreCache
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.rt.interface import Runtime

__all__ = ["AVOIDED_S", "SLOW_SCORE", "HealthFeedbacks"]

SLOW_SCORE: Final = 80
AVOIDED_S: Final = 10.0


class HealthFeedbacks:
    """Takes the feedback of all connections, from whichever thread reads them."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self.stores: StoreCache | None = None
        """Who is told. None until the cache is made, which needs the connections first; so long nothing is kept."""

    def take(self, data: bytes) -> None:
        """Take a serialized HealthFeedback. Never raises."""
        if self.stores is None:
            return
        try:
            feedback = kvrpcpb.HealthFeedback.FromString(data)
        except DecodeError:
            return
        if feedback.slow_score >= SLOW_SCORE and self.stores.knows(feedback.store_id):
            self.stores.mark_slow(feedback.store_id, self._rt.now(), AVOIDED_S)
