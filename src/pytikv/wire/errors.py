"""What a call over the wire can end with, below the errors that users see.

`not_processed` is the one fact that decides whether a write may be sent again blindly: it is True only where the
request never left this side, or the peer proved that it did not act on it (REFUSED_STREAM, GOAWAY below the stream's
id, UNIMPLEMENTED). In doubt it is False.
"""

from __future__ import annotations

import enum

__all__ = ["ConnectFailed", "ConnectionLost", "RpcError", "Status"]


class Status(enum.IntEnum):
    """gRPC's status codes (grpc, doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @classmethod
    def name_of(cls, status: int) -> str:
        """Return the code's name for a message, also for a number that gRPC does not know."""
        try:
            return cls(status).name
        except ValueError:
            return f"status {status}"


class RpcError(Exception):
    """A call failed. `status`: gRPC's code; `details`: the text beside it; `not_processed`: see the module."""

    def __init__(self, status: int, details: str = "", *, not_processed: bool = False) -> None:
        super().__init__(status, details, not_processed)
        self.status = int(status)
        self.details = details
        self.not_processed = not_processed

    def __str__(self) -> str:
        return f"{Status.name_of(self.status)}: {self.details}" if self.details else Status.name_of(self.status)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.status, self.details, self.not_processed))


class ConnectionLost(RpcError):
    """The connection broke, or could not be used (UNAVAILABLE)."""

    def __init__(self, details: str = "", *, not_processed: bool = False) -> None:
        super().__init__(Status.UNAVAILABLE, details, not_processed=not_processed)


class ConnectFailed(ConnectionLost):
    """No connection could be made; nothing was sent. `reason`: "refused", "timeout", "tls" or "protocol"."""

    def __init__(self, details: str = "", *, reason: str = "refused") -> None:
        super().__init__(details, not_processed=True)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_connect_failed, (self.details, self.reason))


def _rebuild(cls: type[RpcError], status: int, details: str, not_processed: bool) -> RpcError:
    error = cls.__new__(cls)
    RpcError.__init__(error, status, details, not_processed=not_processed)
    return error


def _rebuild_connect_failed(details: str, reason: str) -> ConnectFailed:
    return ConnectFailed(details, reason=reason)
