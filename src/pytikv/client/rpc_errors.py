"""What a failed RPC means: gRPC's status, read once.

A failure is *transient* (try again, elsewhere if possible) or it ends the call with an error of its own. Which of the
two a write may do is another question, and the sender's: `RpcError.not_processed` tells whether it can have run.
"""

from __future__ import annotations

from typing import Final

from pytikv.errors import ConfigError, Outcome, Overloaded, ServerError, TikvError, UnsupportedByServer
from pytikv.wire.errors import RpcError, Status

__all__ = ["fatal_error", "is_transient"]


_TRANSIENT: Final = frozenset(
    {Status.CANCELLED, Status.UNKNOWN, Status.DEADLINE_EXCEEDED, Status.ABORTED, Status.INTERNAL, Status.UNAVAILABLE}
)
_REFUSED: Final = frozenset(
    {Status.INVALID_ARGUMENT, Status.PERMISSION_DENIED, Status.UNIMPLEMENTED, Status.UNAUTHENTICATED}
)


def is_transient(error: RpcError) -> bool:
    """Tell whether another try may go better."""
    return error.status in _TRANSIENT or (error.status == Status.RESOURCE_EXHAUSTED and error.not_processed)


def fatal_error(error: RpcError, rpc_name: str, address: str) -> TikvError:
    """Return the error that ends the call. A refusal has changed nothing; of other failures that is not known."""
    place = f"{rpc_name} at {address}"
    outcome = Outcome.NOT_APPLIED if error.not_processed or error.status in _REFUSED else Outcome.UNDETERMINED
    if error.status == Status.UNIMPLEMENTED:
        return UnsupportedByServer(f"the store does not have {place}: {error.details}", outcome=outcome)
    if error.status == Status.INVALID_ARGUMENT and "cluster" in error.details.lower():
        return ConfigError(f"{place}: the store belongs to another cluster: {error.details}", outcome=outcome)
    if error.status in (Status.PERMISSION_DENIED, Status.UNAUTHENTICATED):
        return ConfigError(
            f"{place}: the store refuses this client: {error.details}; see the option tls", outcome=outcome
        )
    if error.status == Status.RESOURCE_EXHAUSTED:
        return Overloaded(f"{place}: {error.details}", outcome=outcome)
    return ServerError(
        f"{place} failed with gRPC status {Status.name_of(error.status)}: {error.details}", outcome=outcome
    )
