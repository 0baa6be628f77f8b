"""Where the data is: the target that `connect` takes, parsed.

Accepted: ``embedded://:memory:`` (a store of its own), ``embedded://:memory:NAME`` (shared inside the process),
``embedded:///absolute/path`` (also ``embedded://relative/path``), ``tikv://HOST[:PORT],HOST[:PORT]/KEYSPACE``, the bare
``HOST:PORT`` list that other clients take, and a list of such endpoints, each with or without ``http://`` or
``https://``. IPv6 addresses stand in brackets. The query holds options of `ClientConfig`, percent-encoded.

Whatever is wrong is a `ConfigError`. What may be a password is never repeated, in a message or in the `repr` of a
`Target`: what stands between an endpoint's first colon and its end or an ``@``, and the values of parameters with such
a name. `redacted` does the same for a target as it was typed.
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from pytikv.errors import ConfigError, WrongType
from pytikv.settings.kinds import is_secret

__all__ = ["DEFAULT_PD_PORT", "Target", "parse_target", "redacted", "split_endpoint"]

DEFAULT_PD_PORT: Final = 2379
_MEMORY: Final = ":memory:"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9._-]+\Z")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\Z")
_PARAMETER = re.compile(r"(?<=[?&])([^=&]*)=([^&]*)")
_NO_USER: Final = "a target must not hold a user name or password; use TLS certificates (ca, cert, key)"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Target:
    """A parsed target.

    `endpoints`: PD's addresses as ``host:port`` (``tikv``). `path`: directory of an embedded store, None in memory;
    `name`: of a shared store in memory, None for a private one. `query`: the options given in the URL.
    """

    scheme: Literal["embedded", "tikv"]
    endpoints: tuple[str, ...] = ()
    keyspace: str | None = None
    path: str | None = None
    name: str | None = None
    query: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """The target without its query, for messages."""
        if self.scheme == "tikv":
            return f"tikv://{','.join(self.endpoints)}" + (f"/{self.keyspace}" if self.keyspace else "")
        return f"embedded://{self.path if self.path is not None else _MEMORY + (self.name or '')}"

    def __repr__(self) -> str:
        query = "&".join(f"{name}={'***' if is_secret(name) else value}" for name, value in self.query.items())
        return f"Target({str(self) + ('?' + query if query else '')!r})"


def redacted(target: str) -> str:
    """Return a target, as it was typed, without what may be secret: all before the last `@`, and such parameters.

    >>> redacted("tikv://me:hunter2@pd1:2379?timeout=5&token=abc")
    'tikv://***@pd1:2379?timeout=5&token=***'
    """
    match = _SCHEME.match(target)
    scheme, rest = (match[1] + "://", match[2]) if match else ("", target)
    if scheme.lower() != "embedded://" and "@" in rest:
        rest = "***@" + rest.rpartition("@")[2]
    return scheme + _PARAMETER.sub(lambda m: f"{m[1]}=***" if is_secret(m[1]) else m[0], rest)


def parse_target(target: str | Sequence[str]) -> Target:
    """Parse what `connect` takes. Raises ConfigError, and WrongType for anything but text or a list of texts.

    >>> parse_target("tikv://[::1]:2379,pd2/shop?timeout=1.5").endpoints
    ('[::1]:2379', 'pd2:2379')
    """
    if isinstance(target, str):
        match = _SCHEME.match(target)
        if match is None or match[1].lower() in ("http", "https"):
            return _parse_endpoints(target.split(","))
        return _parse_url(match[1].lower(), match[2])
    if not isinstance(target, Sequence) or isinstance(target, (bytes, bytearray)):
        raise WrongType(f"the target must be a URL or a list of PD endpoints, not a {type(target).__name__}")
    if not all(isinstance(endpoint, str) for endpoint in target):
        raise WrongType("the target's endpoints must all be strings")
    return _parse_endpoints(target)


def split_endpoint(endpoint: str, default_port: int = DEFAULT_PD_PORT) -> tuple[str, int]:
    """Split ``host:port`` (or ``[v6]:port``) into host, without brackets, and port. Raises ConfigError."""
    if "@" in endpoint:
        raise ConfigError(_NO_USER)
    if endpoint.startswith("["):
        host, bracket, rest = endpoint[1:].partition("]")
        if not bracket or not _IPV6.match(host) or (rest and not rest.startswith(":")):
            raise ConfigError(f"{_shown(endpoint)} is not an IPv6 endpoint; write it as [::1]:{default_port}")
        return host, _port(rest[1:], host) if rest else default_port
    if endpoint.count(":") > 1:
        raise ConfigError(
            f"{_shown(endpoint)} is not an endpoint; an IPv6 address stands in brackets: [::1]:{default_port}"
        )
    host, colon, port = endpoint.partition(":")
    if not _HOST.match(host):
        raise ConfigError(f"{_shown(endpoint)} is not an endpoint; write it as host:{default_port}")
    return host, _port(port, host) if colon else default_port


def _shown(endpoint: str) -> str:
    host, colon, _ = endpoint.partition(":")
    return repr(endpoint if not colon or _IPV6.match(endpoint.strip("[]")) else host + ":***")


def _port(text: str, host: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 65_535:
        raise ConfigError(f"the endpoint at {host!r} has no valid port; it must be between 1 and 65535")
    return int(text)


def _parse_url(scheme: str, rest: str) -> Target:
    rest, _, query_text = rest.partition("?")
    if scheme != "embedded" and "@" in rest + query_text.partition("&")[0].partition("=")[0]:
        raise ConfigError(_NO_USER)
    if "#" in rest or "#" in query_text:
        raise ConfigError("a target has no fragment; write '#' in a path as %23")
    query = _parse_query(query_text)
    if scheme == "embedded":
        return _parse_embedded(rest, query)
    if scheme == "tikv":
        return _parse_tikv(rest, query)
    if scheme == "k8s":
        raise ConfigError("k8s:// comes with a later release; use tikv:// with the addresses of PD's service")
    raise ConfigError(f"unknown scheme {scheme!r} in the target; it must be embedded:// or tikv://")


def _parse_query(text: str) -> dict[str, str]:
    try:
        pairs = urllib.parse.parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
    except ValueError:
        raise ConfigError("the target's query is malformed; write it as ?name=value&name=value") from None
    query = dict(pairs)
    if len(query) != len(pairs):
        names = [name for name, _ in pairs]
        raise ConfigError(f"option {next(n for n in names if names.count(n) > 1)!r} stands twice in the target's query")
    return query


def _parse_embedded(rest: str, query: Mapping[str, str]) -> Target:
    place = urllib.parse.unquote(rest)
    if "\x00" in place:
        raise ConfigError("an embedded store's path must not hold a NUL byte")
    if place.startswith(_MEMORY):
        return Target("embedded", name=place.removeprefix(_MEMORY) or None, query=query)
    if not place:
        raise ConfigError("embedded:// needs a place: embedded://:memory: or embedded:///path/to/directory")
    return Target("embedded", path=place, query=query)


def _parse_tikv(rest: str, query: Mapping[str, str]) -> Target:
    hosts, _, path = rest.partition("/")
    keyspace = urllib.parse.unquote(path.rstrip("/")) or None
    if keyspace is not None and "/" in keyspace:
        raise ConfigError("the target's path is one keyspace name: tikv://host:port/keyspace")
    return dataclasses.replace(_parse_endpoints(hosts.split(",")), keyspace=keyspace, query=query)


def _parse_endpoints(endpoints: Sequence[str]) -> Target:
    if any("@" in endpoint for endpoint in endpoints):
        raise ConfigError(_NO_USER)
    found: list[str] = []
    query: dict[str, str] = {}
    for endpoint in endpoints:
        scheme, separator, rest = endpoint.strip().rpartition("://")
        if separator and scheme.lower() == "https":
            query["tls"] = "true"
        elif separator and scheme.lower() != "http":
            raise ConfigError(f"unknown scheme {scheme!r} in an endpoint; it must be http:// or https://, or none")
        host, port = split_endpoint(rest.rstrip("/"))
        found.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    if not found:
        raise ConfigError("the target names no PD endpoint; write it as tikv://host:2379")
    return Target("tikv", endpoints=tuple(dict.fromkeys(found)), query=query)
