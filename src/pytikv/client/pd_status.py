"""What PD's refusals mean: gRPC statuses and the error in a response's header.

PD calls change nothing that a repetition would spoil, so every failure that another try (at another leader) may mend
is transient. What ends the call at once: another cluster, a refusal of this client, a method that PD lacks.
"""

from __future__ import annotations

from typing import Final

from pytikv.errors import ConfigError, ServerError, TikvError, UnsupportedByServer
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.wire.errors import RpcError, Status

__all__ = ["accuses_leader", "check_header", "fatal_status", "header_error"]

_MISMATCH: Final = "mismatch cluster id"
_REFUSED: Final = "[PD:gc:"  # how the older calls about GC refuse: with status UNKNOWN, which else may pass
_FAIR_S: Final = 1.0
_FATAL: Final = frozenset({Status.INVALID_ARGUMENT, Status.NOT_FOUND, Status.OUT_OF_RANGE, Status.DATA_LOSS})


def accuses_leader(error: Exception, silent_s: float) -> bool:
    """Tell whether another leader should be looked for; `silent_s`: since this one last answered.

    Silence for a caller's short time says little of a leader that answered a moment ago.
    """
    if not isinstance(error, RpcError):
        return True
    if error.status == Status.DEADLINE_EXCEEDED:
        return silent_s >= _FAIR_S
    return error.status != Status.UNIMPLEMENTED


def fatal_status(error: RpcError, method: str, address: str) -> TikvError | None:
    """Return the error that ends the call; None when another try may go better."""
    status, text = error.status, f"{method} at {address}: {error.details}"
    if _MISMATCH in error.details.lower():
        return ConfigError(f"{text}: the PD endpoints now belong to another cluster")
    if status == Status.UNIMPLEMENTED:
        return UnsupportedByServer(f"PD does not have {text}")
    if status in (Status.PERMISSION_DENIED, Status.UNAUTHENTICATED):
        return ConfigError(f"PD refuses this client ({text}); see the option tls")
    is_refusal = status in _FATAL or _REFUSED in error.details
    return ServerError(f"PD failed with {Status.name_of(status)}: {text}") if is_refusal else None


def header_error(header: pdpb.ResponseHeader) -> pdpb.Error | None:
    """Return the error in a response's header, if there is one."""
    return header.error if header.HasField("error") and header.error.type != pdpb.OK else None


def check_header(header: pdpb.ResponseHeader, method: str) -> None:
    """Raise ServerError, or ConfigError for another cluster, when the header holds an error."""
    error = header_error(header)
    if error is None:
        return
    if _MISMATCH in error.message.lower():
        raise ConfigError(f"{method}: {error.message}: the PD endpoints now belong to another cluster")
    raise ServerError(f"PD refused {method}: {pdpb.ErrorType.Name(error.type)}: {error.message}")
