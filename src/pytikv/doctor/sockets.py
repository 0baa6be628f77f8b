"""What the doctor asks by blocking sockets, in a thread: pages over HTTP, and the certificate that an address shows.

The client's own connections speak HTTP/2 and keep no certificate; these are few, short and apart from them. An answer
is bounded by `_MAX_ANSWER_BYTES`. Errors are OSError (`ssl.SSLError` among them) and ValueError.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from typing import Any, Final

from pytikv.rt.tls import TLS, load_client_tls
from pytikv.url import split_endpoint

__all__ = ["get_json", "peer_certificate"]

_MAX_ANSWER_BYTES: Final = 16 << 20


def get_json(address: str, path: str, tls: TLS | None, server_name: str | None, timeout_s: float) -> Any:
    """Return the JSON at `path` of the server at `address`. Raises OSError, or ValueError for another answer."""
    host, port = split_endpoint(address)
    connection = http.client.HTTPConnection(host.strip("[]"), port, timeout=timeout_s)
    try:
        connection.sock = _open(host.strip("[]"), port, tls, server_name, timeout_s)
        connection.request("GET", path, headers={"Host": address})
        answer = connection.getresponse()
        body = answer.read(_MAX_ANSWER_BYTES)
        if answer.status != 200:
            raise ValueError(f"GET {path} at {address}: HTTP status {answer.status}")
        return json.loads(body)
    except http.client.HTTPException as error:
        raise ValueError(f"GET {path} at {address}: no HTTP answer ({type(error).__name__})") from error
    finally:
        connection.close()


def peer_certificate(address: str, tls: TLS, server_name: str | None, timeout_s: float) -> tuple[float, list[str]]:
    """Return until when (Unix seconds) the certificate at `address` is good, and the names in it; it is verified."""
    host, port = split_endpoint(address)
    with _open(host.strip("[]"), port, tls, server_name, timeout_s) as connection:
        assert isinstance(connection, ssl.SSLSocket)
        shown: Any = connection.getpeercert()
    return ssl.cert_time_to_seconds(shown["notAfter"]), [name for _, name in shown.get("subjectAltName", ())]


def _open(host: str, port: int, tls: TLS | None, server_name: str | None, timeout_s: float) -> socket.socket:
    connection = socket.create_connection((host, port), timeout_s)
    if tls is None:
        return connection
    try:
        context = load_client_tls(tls).context()
        context.set_alpn_protocols(["http/1.1"])  # the context is this call's own
        return context.wrap_socket(connection, server_hostname=server_name or host)
    except BaseException:
        connection.close()
        raise
