"""`serve`: PD and one store in this process, speaking TiKV's protocol."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from pytikv.cli.options import add_command

__all__ = ["register"]


class ApiVersion(enum.StrEnum):
    """What the data of a store is."""

    V1 = "1"
    V1TTL = "1ttl"
    V2 = "2"


def serve(
    path: Annotated[
        str | None, typer.Argument(help="Directory of the data; none: in memory.", show_default=False)
    ] = None,
    addr: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where the store listens; none: 127.0.0.1:20160.")
    ] = None,
    pd_addr: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where PD listens; none: 127.0.0.1:2379.")
    ] = None,
    status_addr: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where the status pages are; none: 127.0.0.1:20180.")
    ] = None,
    advertise_host: Annotated[
        str | None, typer.Option(metavar="HOST", help="Host that clients are told; none: the one listened on.")
    ] = None,
    api_version: Annotated[
        ApiVersion, typer.Option(help="1: plain, 1ttl: raw keys with TTL, 2: keyspaces. A path keeps its own.")
    ] = ApiVersion.V1,
    keyspace: Annotated[list[str] | None, typer.Option(help="Keyspace to make at start; several times.")] = None,
    sync: Annotated[bool, typer.Option("--sync/--no-sync", help="Answer a write when it is on the disk.")] = True,
    region_split_keys: Annotated[int, typer.Option(min=1, help="Split a region with more keys.")] = 2_560_000,
    region_split_bytes: Annotated[int, typer.Option(min=1, help="Split a region with more bytes.")] = 256 << 20,
    cert: Annotated[str | None, typer.Option(help="Certificate of the server (PEM): speak TLS.")] = None,
    key: Annotated[str | None, typer.Option(help="Its private key (PEM).")] = None,
    ca: Annotated[str | None, typer.Option(help="Authority (PEM) whose certificate clients must show.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plaintext on an address that other machines reach.")
    ] = False,
) -> None:
    """Run a development server: PD and one TiKV store in one process.

    It prints one line, `ready tikv://HOST:PORT`, when it can be used; SIGINT and SIGTERM stop it. A default port that
    is taken is replaced by a free one; port 0 takes any.
    """
    from pytikv.rt.tls import TLS
    from pytikv.server.config import ServeConfig
    from pytikv.server.serve import main_serve

    config = ServeConfig(
        path=path,
        addr=addr,
        pd_addr=pd_addr,
        status_addr=status_addr,
        advertise_host=advertise_host,
        api_version=api_version.value,
        tls=TLS(ca=ca, cert=cert, key=key) if (cert or key or ca) else None,
        insecure=insecure,
        sync=sync,
        region_split_keys=region_split_keys,
        region_split_size_bytes=region_split_bytes,
        keyspaces=tuple(keyspace or ()),
    )
    config.check()  # what is wrong with the command line is exit code 2, what is wrong with the machine 1
    raise typer.Exit(main_serve(config))


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    examples = [
        "pytikv serve",
        "pytikv serve /var/lib/tikv-dev --api-version 2 --pd-addr 127.0.0.1:0",
        "pytikv serve --cert server.pem --key server.key --ca ca.pem",
    ]
    add_command(app, serve, *examples, panel="Start here")
