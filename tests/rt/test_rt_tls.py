"""TLS from files, and connections over it on both real runtimes."""

from __future__ import annotations

import os
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest

from pytikv.errors import ConfigError
from pytikv.rt.tls import TLS, load_client_tls, load_server_tls


def echo_over(tls: Any, kit: Any, size: int = 200_000) -> Any:
    async def scenario(rt: Any, host: str, port: int) -> str | None:
        collector = kit.Collector(rt)
        transport = await rt.connect(host, port, collector, deadline=rt.now() + 10, tls=tls)
        for length in (1, 100, size):
            transport.write(b"z" * length)
            assert await collector.receive(length) == b"z" * length
        alpn = transport.alpn
        transport.close()
        assert await collector.end() is None
        return str(alpn)

    return scenario


def test_encrypted_echo_with_alpn(real_harness: Any, kit: Any, authority: Any) -> None:
    server = load_server_tls(authority.sign("server", "127.0.0.1"))
    client = load_client_tls(TLS(ca=authority.ca))
    assert real_harness.run(echo_over(client, kit), server=kit.Echo, tls=server) == "h2"


def test_mutual_tls(real_harness: Any, kit: Any, authority: Any, other_authority: Any) -> None:
    server = load_server_tls(authority.sign("server", "127.0.0.1"), require_client_cert=True)
    client = load_client_tls(authority.sign("client", "client"))
    assert real_harness.run(echo_over(client, kit), server=kit.Echo, tls=server) == "h2"

    async def refused(rt: Any, host: str, port: int) -> None:
        foreign = other_authority.sign("foreign", "client")
        for files in (TLS(ca=authority.ca), TLS(authority.ca, foreign.cert, foreign.key)):
            collector = kit.Collector(rt)
            try:
                await rt.connect(host, port, collector, deadline=rt.now() + 10, tls=load_client_tls(files))
            except (ssl.SSLError, ConnectionError):
                continue
            await collector.end()  # TLS 1.3: the refusal comes after the handshake

    real_harness.run(refused, server=kit.Echo, tls=server)


def test_host_name_is_verified_and_may_be_overridden(real_harness: Any, kit: Any, authority: Any) -> None:
    server = load_server_tls(authority.sign("server", "tikv.example"))

    async def wrong_name(rt: Any, host: str, port: int) -> None:
        client = load_client_tls(TLS(ca=authority.ca))
        collector = kit.Collector(rt)
        with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
            await rt.connect(host, port, collector, deadline=rt.now() + 10, tls=client)
        assert collector.made == 0
        assert collector.lost == []

    real_harness.run(wrong_name, server=kit.Echo, tls=server)
    named = load_client_tls(TLS(ca=authority.ca), server_name="tikv.example")
    assert real_harness.run(echo_over(named, kit), server=kit.Echo, tls=server) == "h2"


@pytest.mark.parametrize("fault", ["wrong ca", "expired"])
def test_certificates_that_must_not_be_trusted(
    real_harness: Any, kit: Any, authority: Any, other_authority: Any, fault: str
) -> None:
    server = load_server_tls(authority.sign("server", "127.0.0.1", expired=fault == "expired"))
    client = load_client_tls(TLS(ca=other_authority.ca if fault == "wrong ca" else authority.ca))

    async def scenario(rt: Any, host: str, port: int) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            await rt.connect(host, port, kit.Collector(rt), deadline=rt.now() + 10, tls=client)

    real_harness.run(scenario, server=kit.Echo, tls=server)


def test_tls_to_a_server_that_speaks_plainly(real_harness: Any, kit: Any, authority: Any) -> None:
    async def scenario(rt: Any, host: str, port: int) -> None:
        client = load_client_tls(TLS(ca=authority.ca))
        with pytest.raises(OSError):  # noqa: PT011  # SSLError, whose text is OpenSSL's
            await rt.connect(host, port, kit.Collector(rt), deadline=rt.now() + 10, tls=client)

    real_harness.run(scenario, server=kit.Echo)


def test_handshake_that_never_ends_meets_the_deadline(real_harness: Any, kit: Any, authority: Any) -> None:
    class Silent(kit.Echo):  # type: ignore[misc, name-defined]  # a class from a fixture
        def data_received(self, data: bytes) -> None:
            pass

    async def scenario(rt: Any, host: str, port: int) -> None:
        client = load_client_tls(TLS(ca=authority.ca))
        with pytest.raises((TimeoutError, ConnectionError)):
            await rt.connect(host, port, kit.Collector(rt), deadline=rt.now() + 0.1, tls=client)

    real_harness.run(scenario, server=Silent)


def test_renewed_certificate_serves_the_next_connection(real_harness: Any, kit: Any, authority: Any) -> None:
    files = authority.sign("server", "old.example")
    renewed = authority.sign("renewed", "new.example")
    server = load_server_tls(files)

    async def scenario(rt: Any, host: str, port: int) -> None:
        async def connect(name: str) -> None:
            tls = load_client_tls(TLS(ca=authority.ca), server_name=name)
            collector = kit.Collector(rt)
            transport = await rt.connect(host, port, collector, deadline=rt.now() + 10, tls=tls)
            transport.close()
            await collector.end()

        await connect("old.example")
        # A renewal half-way: the certificate without its key keeps the former pair in service.
        replace(renewed.cert, files.cert)
        await connect("old.example")
        replace(renewed.key, files.key)
        await connect("new.example")

    real_harness.run(scenario, server=kit.Echo, tls=server)


def replace(source: str, target: str) -> None:
    shutil.copy(source, target + ".new")
    os.replace(target + ".new", target)


def test_context_is_kept_while_the_files_are(authority: Any) -> None:
    tls = load_client_tls(TLS(ca=authority.ca))
    first = tls.context()
    assert tls.context() is first
    assert first.minimum_version == ssl.TLSVersion.TLSv1_2
    assert first.check_hostname
    replace(authority.ca, authority.ca)
    assert tls.context() is not first


def test_system_trust_store() -> None:
    assert load_client_tls(TLS()).context().verify_mode == ssl.CERT_REQUIRED


def test_faults_at_the_start_name_the_file(authority: Any, tmp_path: Path) -> None:
    good, other = authority.sign("good", "x"), authority.sign("other", "x")
    missing, garbage = str(tmp_path / "missing.pem"), str(tmp_path / "garbage.pem")
    Path(garbage).write_text("no certificate")
    cases = [
        (TLS(ca=missing), missing),
        (TLS(ca=garbage), garbage),
        (TLS(ca=str(tmp_path)), str(tmp_path)),
        (TLS(cert=missing, key=good.key), missing),
        (TLS(cert=good.cert, key=missing), missing),
        (TLS(cert=garbage, key=good.key), garbage),
        (TLS(cert=good.cert, key=garbage), garbage),
        (TLS(cert=good.cert, key=other.key), "does not belong"),
        (TLS(cert=good.cert), "together"),
    ]
    for files, text in cases:
        with pytest.raises(ConfigError) as caught:
            load_client_tls(files)
        assert text in str(caught.value)
    with pytest.raises(ConfigError, match="both"):
        load_server_tls(TLS(ca=authority.ca))
    with pytest.raises(ConfigError, match="needs ca"):
        load_server_tls(TLS(cert=good.cert, key=good.key), require_client_cert=True)


def test_encrypted_key_is_refused_and_nobody_is_asked(authority: Any, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    good = authority.sign("good", "x")
    key = serialization.load_pem_private_key(Path(good.key).read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ConfigError, match="encrypted"):
        load_client_tls(TLS(cert=good.cert, key=str(locked)))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_unreadable_key(authority: Any) -> None:
    good = authority.sign("good", "x")
    Path(good.key).chmod(0)
    with pytest.raises(ConfigError, match="Permission"):
        load_client_tls(TLS(cert=good.cert, key=good.key))
