"""TLS from files: contexts with ALPN `h2`, certificates read again when their files change."""

from __future__ import annotations

import dataclasses
import ssl
from typing import Protocol

__all__ = ["TLS", "TlsContext"]


@dataclasses.dataclass(frozen=True, slots=True)
class TLS:
    """Paths of PEM files: the CA to trust (None: the system's), and this side's certificate and key."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class TlsContext(Protocol):
    """What `connect` and `listen` take: the context for a new connection, and the name to verify (None: the host)."""

    def context(self) -> ssl.SSLContext: ...

    @property
    def server_name(self) -> str | None: ...
