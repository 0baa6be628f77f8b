"""What `pytikv serve` is told: one frozen value, checked before anything is opened.

Sources of the defaults: ports are PD's and TiKV's own; region sizes are TiKV's (components/raftstore/src/coprocessor
config.rs: 256 MiB since TiKV 8.4, 10 000 keys a MiB).
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Final

from pytikv.errors import ConfigError
from pytikv.rt.tls import TLS
from pytikv.server.ports import split_address

__all__ = ["API_VERSIONS", "ServeConfig"]

API_VERSIONS: Final = ("1", "1ttl", "2")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Options of a server. An address is ``host:port``; port 0 takes any free port."""

    path: str | None = None
    """Directory of the data, made where it is missing. None: in memory."""

    addr: str | None = None
    """Where the store listens. None: 127.0.0.1:20160, or another free port where that is taken."""

    pd_addr: str | None = None
    """Where PD listens, gRPC and HTTP alike. None: 127.0.0.1:2379, or another free port where that is taken."""

    status_addr: str | None = None
    """Where the store's status pages are. None: 127.0.0.1:20180, or another free port where that is taken."""

    advertise_host: str | None = None
    """Host name or address that clients are told. None: the one that is listened on."""

    api_version: str = "1"
    """What the data is: "1" plain, "1ttl" raw keys with TTL, "2" with keyspaces. A path keeps what it was made with."""

    tls: TLS | None = None
    """Certificate and key of this server; with `ca`, clients must show a certificate of that authority."""

    insecure: bool = False
    """Allow an address that is not loopback without TLS: whoever reaches it can read and write everything."""

    sync: bool = True
    """Answer a write when it is on the disk. False: once the system has it: a power failure loses the last."""

    region_split_size_bytes: int = 256 << 20
    """A region larger than this is split."""

    region_split_keys: int = 2_560_000
    """A region with more keys than this is split."""

    keyspaces: tuple[str, ...] = ()
    """Keyspaces to make at start where they are missing, beside DEFAULT."""

    stop_timeout: float = 5.0
    """Seconds that running requests have when the server stops."""

    def check(self) -> None:
        """Raise ConfigError, naming the option and the remedy, for what cannot be served."""
        if self.api_version not in API_VERSIONS:
            raise ConfigError(f"api_version is {self.api_version!r}; it must be one of {', '.join(API_VERSIONS)}")
        if self.tls is not None and (self.tls.cert is None or self.tls.key is None):
            raise ConfigError("tls needs a certificate and a key: give both cert and key")
        if self.region_split_size_bytes < 1 or self.region_split_keys < 1:
            raise ConfigError("region_split_size_bytes and region_split_keys must be positive")
        for option in ("addr", "pd_addr", "status_addr"):
            address = getattr(self, option)
            if address is not None:
                self._check_address(option, address)

    def _check_address(self, option: str, address: str) -> None:
        try:
            host, _ = split_address(address)
        except ValueError as error:
            raise ConfigError(f"{option}: {error}") from None
        if not host:
            raise ConfigError(f"{option}: {address!r} has no host; write 127.0.0.1{address}, or 0.0.0.0{address}")
        if not _is_loopback(host) and self.tls is None and not self.insecure:
            raise ConfigError(
                f"{option}: {host} can be reached from other machines; use TLS (cert and key), or say insecure"
            )
        if _is_wildcard(host) and self.advertise_host is None:
            raise ConfigError(f"{option}: {host} is no address that clients can be told; give advertise_host")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
