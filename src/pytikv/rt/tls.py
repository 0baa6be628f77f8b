"""TLS from files: contexts with ALPN `h2`, certificates read again when their files change.

A context is made when a runtime is about to open or accept a connection, and kept until one of its files changes its
inode, size, modification or change time, so that a certificate renewed on disk serves the next connection without a
restart. Looking costs a `stat` for each file, microseconds beside a handshake, so every connection looks. Connections
that are open go on as they are, until they idle out or end.

A renewal caught half-way (a certificate without its key yet) does not take the service down: once a context was good,
a failing re-read keeps it, with one warning for each state of the files; they are read again when they change again.

At the start every fault is a `ConfigError` that names the file: missing, unreadable, not PEM, key and certificate that
do not belong together. TLS 1.2 is the oldest version spoken. A client verifies the chain and the host name always.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import ssl
import threading
from typing import Final, Protocol

from pytikv.errors import ConfigError

__all__ = ["TLS", "FileTlsContext", "TlsContext", "load_client_tls", "load_server_tls"]

logger: Final = logging.getLogger("pytikv")

_ALPN: Final = ["h2"]

Fingerprint = tuple[tuple[int, int, int, int] | None, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class TLS:
    """Paths of PEM files: the CA to trust (None: the system's), and this side's certificate and key."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class TlsContext(Protocol):
    """What `connect` and `listen` take: the context for a new connection, and the name to verify (None: the host)."""

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection."""
        ...

    @property
    def server_name(self) -> str | None:
        """The name to verify; None: the host connected to."""
        ...


class FileTlsContext:
    """A `TlsContext` over files. Safe to share between threads."""

    def __init__(self, files: TLS, *, server_side: bool, require_client_cert: bool, server_name: str | None) -> None:
        self._files = files
        self._server_side = server_side
        self._require_client_cert = require_client_cert
        self._server_name = server_name
        self._lock = threading.Lock()
        self._seen = self._fingerprint()
        self._refused: Fingerprint | None = None  # the state of the files that was warned about
        self._context = self._build()

    @property
    def server_name(self) -> str | None:
        """The name that the server's certificate must carry; None: the host connected to."""
        return self._server_name

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection, made anew when a file has changed."""
        with self._lock:
            seen = self._fingerprint()
            if seen not in (self._seen, self._refused):
                try:
                    self._context = self._build()
                    self._seen, self._refused = seen, None
                except ConfigError as error:
                    self._refused = seen
                    logger.warning("TLS files changed but cannot be used; the former ones stay in use: %s", error)
            return self._context

    def _fingerprint(self) -> Fingerprint:
        return tuple(_stat(path) for path in (self._files.ca, self._files.cert, self._files.key))

    def _build(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if self._server_side else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(_ALPN)
        _load_ca(context, self._files.ca, system=not self._server_side)
        _load_pair(context, self._files.cert, self._files.key)
        if self._server_side and self._require_client_cert:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def load_client_tls(files: TLS, server_name: str | None = None) -> FileTlsContext:
    """Return the context for connections that we open; with `cert` and `key` it can answer mutual TLS.

    Args:
        files: PEM files; without `ca` the system's trust store is used.
        server_name: the name to verify instead of the host connected to.

    Raises ConfigError naming the file at fault.
    """
    if (files.cert is None) != (files.key is None):
        raise ConfigError("TLS needs cert and key together: a client certificate is of no use without its key")
    return FileTlsContext(files, server_side=False, require_client_cert=False, server_name=server_name)


def load_server_tls(files: TLS, require_client_cert: bool = False) -> FileTlsContext:
    """Return the context for connections that we accept.

    Args:
        files: PEM files; `cert` and `key` are required, `ca` signs the clients' certificates.
        require_client_cert: refuse clients without a certificate signed by `ca` (mutual TLS).

    Raises ConfigError naming the file or option at fault.
    """
    if files.cert is None or files.key is None:
        raise ConfigError("a TLS server needs both cert and key")
    if require_client_cert and files.ca is None:
        raise ConfigError("requiring client certificates needs ca, the file that they are verified against")
    return FileTlsContext(files, server_side=True, require_client_cert=require_client_cert, server_name=None)


def _stat(path: str | None) -> tuple[int, int, int, int] | None:
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _load_ca(context: ssl.SSLContext, path: str | None, *, system: bool) -> None:
    if path is None:
        if system:
            context.load_default_certs()
        return
    _check_readable("ca", path)
    try:
        context.load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"TLS ca {path}: no PEM certificate in it ({_reason(error)})") from error


def _load_pair(context: ssl.SSLContext, cert: str | None, key: str | None) -> None:
    if cert is None or key is None:
        return
    _check_readable("cert", cert)
    _check_readable("key", key)
    try:
        # The password callback refuses: else OpenSSL asks on the terminal for the key of an encrypted file.
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        if "KEY_VALUES_MISMATCH" in str(error).upper().replace(" ", "_"):
            raise ConfigError(f"TLS key {key} does not belong to cert {cert}") from error
        raise ConfigError(f"TLS cert {cert} with key {key} cannot be loaded ({_reason(error)})") from error


def _no_password() -> str:
    raise ValueError("the key is encrypted, which is not supported")


def _check_readable(option: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigError(f"TLS {option} {path}: {error.strerror or error}") from error


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
