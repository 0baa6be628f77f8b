"""What a peer speaks that does not speak HTTP/2, judged by its first bytes, for errors that say who speaks what."""

from __future__ import annotations

import ssl

from pytikv.wire.errors import ConnectFailed

__all__ = ["explain_connect_error", "is_http1_request", "is_tls_hello", "may_be_http2", "what_speaks"]

_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE ")


def what_speaks(first: bytes, secure: bool) -> str:
    """Name what sent `first` to a client that speaks HTTP/2; `secure`: through TLS."""
    if first.startswith(b"HTTP/1"):
        return "the server speaks HTTP/1, not gRPC: is this a status or metrics port?"
    if first[:1] in (b"\x15", b"\x16") and first[1:2] in (b"\x03", b""):
        return "the server speaks TLS, this client plaintext: configure TLS"
    if not first and secure:
        return "the server closed the connection before it spoke HTTP/2: does it want a client certificate?"
    if not first:
        return "the server closed the connection before it spoke HTTP/2: does the port want TLS?"
    return "the server does not speak HTTP/2"


def may_be_http2(first: bytes) -> bool:
    """Tell whether `first` may be the beginning of a server's SETTINGS frame, cut off by a connection that broke."""
    return first[:1] in (b"", b"\x00") and first[3:4] in (b"", b"\x04")


def is_http1_request(first: bytes) -> bool:
    """Tell whether a client's first bytes are a request of HTTP/1."""
    return first.startswith(_METHODS)


def is_tls_hello(first: bytes) -> bool:
    """Tell whether a client's first bytes open a TLS handshake."""
    return first[:2] == b"\x16\x03"


def explain_connect_error(address: str, error: BaseException, tls: bool) -> ConnectFailed:
    """Turn what `Runtime.connect` raised into an error that names the address, the side at fault and the remedy."""
    if isinstance(error, TimeoutError):
        what = "no TLS handshake" if tls else "no connection"
        return ConnectFailed(f"{address}: {what} in time", reason="timeout")
    if isinstance(error, ssl.SSLCertVerificationError):
        text = getattr(error, "verify_message", "") or error.reason or "refused"
        return ConnectFailed(f"{address}: the server's certificate was refused: {text}", reason="tls")
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
            text = "this client speaks TLS, the server does not seem to: it may be a plaintext port"
        elif isinstance(error, ssl.SSLEOFError) or reason == "UNEXPECTED_EOF_WHILE_READING":
            text = "the server ended the TLS handshake: is it a plaintext port?"
        else:
            text = f"the TLS handshake failed: {reason or 'connection closed by the server'}"
        return ConnectFailed(f"{address}: {text}", reason="tls")
    if tls and isinstance(error, (ConnectionResetError, EOFError)):
        return ConnectFailed(f"{address}: the server ended the TLS handshake: is it a plaintext port?", reason="tls")
    if isinstance(error, ConnectionRefusedError):
        return ConnectFailed(f"{address}: connection refused")  # the loops word it each in their own way
    return ConnectFailed(f"{address}: {error}" if str(error) else f"{address}: {type(error).__name__}")
