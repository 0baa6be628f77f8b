"""The Tso call: one stream, many requests, answered in order and many at a time.

Requests that arrive in one turn of the loop, on any stream, are answered together at its end, so that each connection
writes once. Answers keep the order of the requests, which carry no id. Where the oracle's bound must be saved first,
everything waits for one save off the loop; well before that a save runs in the background, so that it rarely waits.

A stream ends with OK when the client has half-closed it and its last request is answered (client-java opens a stream
for each timestamp). It fails on a wrong cluster id and on a count that is not served, as PD's does. Limit: MAX_WAITING
requests wait for a save; more fail with RESOURCE_EXHAUSTED. Source: PD server/grpc_service.go `Tso`.
"""

from __future__ import annotations

from typing import Final

from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.interface import Runtime
from pytikv.server.metrics.pd import PdMetrics
from pytikv.server.pd.edge import check_cluster, decode
from pytikv.server.pd.server import PdServer
from pytikv.server.pd.tso import BoundReached
from pytikv.wire.errors import RpcError, Status
from pytikv.wire.server import ServerStream, StreamHandler

__all__ = ["MAX_WAITING", "TsoService"]

MAX_WAITING: Final = 100_000


class TsoService:
    """All Tso streams of one PD; `open` is the factory for the route."""

    def __init__(self, rt: Runtime, pd: PdServer, metrics: PdMetrics | None = None) -> None:
        self._rt = rt
        self.pd = pd
        self._metrics = metrics or PdMetrics(rt.now)
        self._waiting: list[tuple[_TsoStream, int, float]] = []
        self._is_scheduled = False
        self._is_saving = False

    def open(self, stream: ServerStream) -> StreamHandler:
        """Serve one stream."""
        self._metrics.tso_streams += 1
        return _TsoStream(self, stream)

    def submit(self, stream: _TsoStream, count: int) -> None:
        """Answer `stream` with `count` timestamps at the end of this turn. Raises RpcError when too many wait."""
        if len(self._waiting) >= MAX_WAITING:
            raise RpcError(Status.RESOURCE_EXHAUSTED, f"more than {MAX_WAITING} timestamp requests wait")
        self._metrics.tso_batches.observe(count)
        self._waiting.append((stream, count, self._rt.now()))
        if not self._is_scheduled and not self._is_saving:
            self._is_scheduled = True
            self._rt.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        waiting, self._waiting = self._waiting, []
        now = self._rt.now()
        for index, (stream, count, since) in enumerate(waiting):
            try:
                physical_ms, logical = self.pd.oracle.try_take(count)
            except BoundReached:
                self._waiting = waiting[index:]
                self._save()
                return
            except ValueError as error:
                stream.fail(_failed(error))
                continue
            stream.answer(physical_ms, logical, count)
            self._metrics.tso_durations.observe(now - since)
        if self.pd.oracle.bound_due():
            self._save()

    def _save(self) -> None:
        if not self._is_saving:
            self._is_saving = True
            self._rt.spawn(self._run_save(), name="pd-tso-save")

    async def _run_save(self) -> None:
        try:
            await self._rt.run_blocking(self.pd.oracle.save_bound)
        except Exception as error:  # whatever the engine raises: those who wait must hear of it
            waiting, self._waiting = self._waiting, []
            for stream, _, _ in waiting:
                stream.fail(_failed(error))
        finally:
            self._is_saving = False
        if self._waiting:
            self._flush()


def _failed(error: Exception) -> RpcError:
    return RpcError(Status.UNKNOWN, f"[PD:tso:ErrGenerateTimestamp]generate timestamp failed, {error}")


class _TsoStream(StreamHandler):
    def __init__(self, service: TsoService, stream: ServerStream) -> None:
        self._service = service
        self._stream = stream
        self._unanswered = 0
        self._is_half_closed = False

    def on_message(self, message: bytes) -> None:
        request = decode(pdpb.TsoRequest, message)
        check_cluster(self._service.pd, request.header)
        self._unanswered += 1
        self._service.submit(self, request.count)

    def on_half_close(self) -> None:
        self._is_half_closed = True
        self._finish_if_done()

    def answer(self, physical_ms: int, logical: int, count: int) -> None:
        """Send the block that ends with the timestamp given; nothing where the call is over."""
        self._unanswered -= 1
        response = pdpb.TsoResponse(
            header=pdpb.ResponseHeader(cluster_id=self._service.pd.cluster_id),
            count=count,
            timestamp=pdpb.Timestamp(physical=physical_ms, logical=logical),
        )
        self._stream.send(response.SerializeToString())
        self._finish_if_done()

    def fail(self, error: RpcError) -> None:
        """End the stream with a failure."""
        self._stream.finish(error.status, error.details)

    def _finish_if_done(self) -> None:
        if self._is_half_closed and not self._unanswered:
            self._stream.finish()
