"""Every certificate, of a server and of a client with mutual TLS, is replaced while they work, with no restart."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

import pytikv
from pytikv.rt.tls import TLS, load_client_tls
from pytikv.testing.server import ServerProcess


def install(target: str | None, *sources: str | None) -> None:
    """Put the files' contents, one after another, where `target` is, at once."""
    assert target is not None
    with open(target + ".new", "wb") as file:
        for source in sources:
            assert source is not None
            file.write(Path(source).read_bytes())
    os.replace(target + ".new", target)


def in_place(folder: Path, files: TLS) -> TLS:
    folder.mkdir()
    paths = [shutil.copy(source, folder) for source in (files.ca, files.cert, files.key) if source is not None]
    return TLS(*paths)


@pytest.mark.process
def test_all_certificates_rotate_while_a_client_works(tmp_path: Path, authority: Any, other_authority: Any) -> None:
    old_client = authority.sign("client", "client")
    servers = in_place(tmp_path / "server", authority.sign("server", "127.0.0.1"))
    clients = in_place(tmp_path / "client", old_client)
    new_server, new_client = other_authority.sign("server2", "127.0.0.1"), other_authority.sign("client2", "client")
    stop, worked, failures = threading.Event(), threading.Semaphore(0), []

    def work(kv: pytikv.RawClient) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                kv.put(b"rotation", b"%d" % number)
                if kv.get(b"rotation") != b"%d" % number:
                    failures.append("another value")
            except pytikv.TikvError as error:
                failures.append(str(error))
            worked.release()

    flags = [text for name in ("ca", "cert", "key") for text in (f"--{name}", getattr(servers, name))]
    with ServerProcess(None, *flags) as server, pytikv.RawClient.connect(server.url, tls=clients) as kv:
        pool = kv._core._connection.backend._cluster.connections

        def connect_anew() -> None:
            """Have the worker do without the connections that there are, and wait until it has worked on new ones."""
            for address in list(pool._addresses):
                pool.forget(address)
            for _ in range(5):
                assert worked.acquire(timeout=20)

        worker = threading.Thread(target=work, args=(kv,))
        worker.start()
        try:
            connect_anew()
            for ca in (servers.ca, clients.ca):  # both trust both
                install(ca, authority.ca, other_authority.ca)
            connect_anew()
            install(servers.cert, new_server.cert)  # half-way: certificates without their keys
            install(clients.cert, new_client.cert)
            connect_anew()
            install(servers.key, new_server.key)
            install(clients.key, new_client.key)
            connect_anew()
            for ca in (servers.ca, clients.ca):  # both trust the new one alone
                install(ca, other_authority.ca)
            connect_anew()
        finally:
            stop.set()
            worker.join()
        assert failures == []
        for refused in (old_client, TLS(other_authority.ca, old_client.cert, old_client.key)):
            with pytest.raises(pytikv.ConnectionFailed):
                pytikv.RawClient.connect(server.url, tls=refused, timeout=2)


def test_one_warning_for_each_bad_state(authority: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = in_place(tmp_path / "files", authority.sign("a", "a"))
    renewed = authority.sign("b", "b")
    tls = load_client_tls(files)
    first = tls.context()

    def warnings() -> int:
        return sum(record.levelno == logging.WARNING for record in caplog.records)

    install(files.cert, renewed.cert)
    for _ in range(3):
        assert tls.context() is first
    assert warnings() == 1
    Path(str(files.key)).write_bytes(Path(str(renewed.key)).read_bytes()[:50])  # written half
    for _ in range(3):
        assert tls.context() is first
    assert warnings() == 2
    install(files.key, renewed.key)
    assert tls.context() is not first
    assert tls.context() is tls.context()
    assert warnings() == 2
    assert str(files.key) in caplog.text
