"""BatchCommands: many commands in one message, answered in any order, each id exactly once.

What a message brings is carried out in order within its turn. Answers that may go at once leave together in one
message; those that wait for the disk leave together when it is done; what runs off the loop, or waits for a lock,
leaves by itself. When the client ends its side, the stream ends with the last answer. A command that this store does
not know gets an empty entry; bytes that are no message, and another cluster's id, end the stream, as with TiKV.

Source: TiKV src/server/service/kv.rs (batch_commands, handle_batch_commands_request), service/batch.rs.
"""

from __future__ import annotations

from typing import Final, Protocol

from google.protobuf.message import DecodeError

from pytikv.codec import envelope
from pytikv.errors import StorageError
from pytikv.proto import tikvpb_pb2 as tikvpb
from pytikv.rt.interface import Runtime
from pytikv.server.services.durable import DurableGate
from pytikv.server.services.kv_service import KvService
from pytikv.server.services.measures import Answer
from pytikv.server.services.outcome import Blocking, Durable, Waits
from pytikv.wire.errors import RpcError, Status
from pytikv.wire.server import ServerStream, StreamHandler

__all__ = ["BatchCommands"]

_EMPTY_SLOT: Final = 255
_MAX_DELAY_MS: Final = 60_000


class OnLoop(Protocol):
    """What is used of `tikv.AsyncKvService`."""

    rt: Runtime
    service: KvService
    gate: DurableGate

    async def complete(self, outcome: Blocking | Waits) -> bytes | Durable:
        """Carry out what takes time."""
        ...


class BatchCommands(StreamHandler):
    """The handler of one BatchCommands stream."""

    def __init__(self, service: OnLoop, stream: ServerStream) -> None:
        self._rt = service.rt
        self._on_loop = service
        self._service = service.service
        self._slots = service.service.slots
        self._gate = service.gate
        self._clock = service.service.clock
        self._measures = service.service.measures
        self._stream = stream
        self._outstanding = 0  # messages yet to be sent for what was asked
        self._is_half_closed = False

    def on_message(self, message: bytes) -> None:
        """Carry out what the message brings."""
        clock = self._clock
        arrived = clock.arrived = clock.now()
        try:
            commands = envelope.decode(message)
        except envelope.EnvelopeError as error:
            raise RpcError(Status.INTERNAL, f"an ill-formed BatchCommandsRequest: {error}") from None
        ready: list[Answer] = []
        waiting: list[Answer] = []
        ticket = 0
        slots = self._slots
        for slot, body, ident in commands:
            handler = slots.get(slot)
            if handler is None:
                self._other(slot, body, ident, ready)
                continue
            try:
                outcome = handler(body)
            except RpcError:
                self._measures.failed_in(slot)
                raise
            if isinstance(outcome, bytes):
                ready.append((slot, outcome, ident))
            elif isinstance(outcome, Durable):
                waiting.append((slot, outcome.body, ident))
                ticket = max(ticket, outcome.ticket)
            else:
                self._outstanding += 1
                self._rt.spawn(self._run(outcome, slot, ident, arrived), name="batch command")
        if ready:
            self._stream.send(self._measures.leave(ready, arrived))
        if waiting:
            self._outstanding += 1
            self._send_when_durable(waiting, ticket, arrived)
        if len(commands) > 1:
            self._measures.metrics.requests_in_batch.observe(len(commands))

    def on_half_close(self) -> None:
        """The client has no more to ask."""
        self._is_half_closed = True
        if not self._outstanding:
            self._stream.finish()

    def _send_late(self, message: bytes) -> None:
        """Send answers that were outstanding."""
        self._stream.send(message)
        self._outstanding -= 1
        if self._is_half_closed and not self._outstanding:
            self._stream.finish()

    def _send_when_durable(self, answers: list[Answer], ticket: int, arrived: float) -> None:
        def tell(error: StorageError | None) -> None:
            if error is None:
                self._send_late(self._measures.leave(answers, arrived))
            else:
                body = self._service.not_durable(error)
                self._send_late(envelope.encode((slot, body, ident) for slot, _, ident in answers))

        self._gate.when_durable(ticket, tell)

    async def _run(self, outcome: Blocking | Waits, slot: int, ident: int, arrived: float) -> None:
        try:
            result = await self._on_loop.complete(outcome)
        except RpcError as error:
            self._measures.failed_in(slot)
            self._stream.finish(error.status, error.details)
            return
        if isinstance(result, bytes):
            self._send_late(self._measures.leave([(slot, result, ident)], arrived))
        else:
            self._send_when_durable([(slot, result.body, ident)], result.ticket, arrived)

    def _other(self, slot: int, body: bytes, ident: int, ready: list[Answer]) -> None:
        if slot != _EMPTY_SLOT:
            ready.append((0, b"", ident))
            return
        try:
            request = tikvpb.BatchCommandsEmptyRequest.FromString(body)
        except DecodeError:
            raise RpcError(Status.INTERNAL, "the request is not a BatchCommandsEmptyRequest") from None
        answer = tikvpb.BatchCommandsEmptyResponse(test_id=request.test_id).SerializeToString()
        if request.delay_time:
            self._outstanding += 1
            self._rt.spawn(self._echo(answer, ident, min(request.delay_time, _MAX_DELAY_MS)), name="batch echo")
        else:
            ready.append((slot, answer, ident))

    async def _echo(self, answer: bytes, ident: int, delay_ms: int) -> None:
        await self._rt.sleep(delay_ms / 1000)
        self._send_late(envelope.encode_one(_EMPTY_SLOT, answer, ident))
