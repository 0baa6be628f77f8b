"""What PD refuses, as its header errors say it.

`PdError` travels from the logic to the edge, where it becomes either a header error inside a normal answer (`type` set)
or the failure of the call (`type` None: gRPC status UNKNOWN), as PD itself chooses case by case.
"""

from __future__ import annotations

__all__ = ["PdError"]


class PdError(Exception):
    """A refusal of PD. `type` is a value of pdpb.ErrorType; None: the call itself fails with status UNKNOWN."""

    def __init__(self, message: str, *, type: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.type = type
