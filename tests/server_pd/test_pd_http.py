"""PD's HTTP API and the status port over real sockets: PD's shapes, plain and TLS, and hostile requests."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import pathlib
import socket
import ssl
import urllib.error
import urllib.request

import pytest

from pytikv.proto import metapb_pb2 as metapb
from pytikv.rt.tls import TLS, load_client_tls
from pytikv.server.pd.http_api import _duration, _size
from pytikv.wire.channel import ClientChannel

RECORDED = pathlib.Path(__file__).parent / "pd_http"
# What PD computes for scheduling, or this PD does not have.
NOT_OURS = {"deploy_path", "git_hash"}


def fetch(port: int, path: str, context: ssl.SSLContext | None = None):
    url = f"http{'s' if context else ''}://127.0.0.1:{port}{path}"
    with urllib.request.urlopen(url, timeout=10, context=context) as answer:
        return answer.status, answer.read()


async def page(calls, path: str):
    _, body = await asyncio.to_thread(fetch, calls.server.pd_port, f"/pd/api/v1/{path}")
    return json.loads(body)


def shape(value, where=""):
    """List the paths of all fields with the kind of their value; lists by their first item."""
    if isinstance(value, dict):
        if value and all(key.isdigit() for key in value):
            value = {"N": next(iter(value.values()))}
        fields = [shape(item, f"{where}.{key}") for key, item in value.items() if key not in NOT_OURS]
        return set().union(*fields) if fields else {f"{where}: object"}
    if isinstance(value, list):
        return shape(value[0], f"{where}[]") if value else {f"{where}: list"}
    kind = "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__
    return {f"{where}: {kind}"}


def give_three_regions(calls) -> None:
    pd = calls.server.pd
    meta = pd.regions.search(b"").meta
    for region_id, start, end in ((100, b"", b"g"), (101, b"g", b"p"), (meta.id, b"p", b"")):
        region = metapb.Region.FromString(meta.SerializeToString())
        region.id, region.start_key, region.end_key, region.region_epoch.version = region_id, start, end, 2
        pd.region_heartbeat(region, region.peers[0], approximate_size_mib=1, approximate_keys=7)


def test_pages_have_pds_shape(with_server, tmp_path):
    pages = {path.stem: json.loads(path.read_text()) for path in sorted(RECORDED.glob("*.json"))}
    assert len(pages) == 17

    async def body(calls):
        give_three_regions(calls)
        store_id = calls.server.pd.stores.all()[0].meta.id
        for name, recorded in pages.items():
            path = recorded["path"].removeprefix("/pd/api/v1/")
            path = path.replace("store/1", f"store/{store_id}") if "store/1" in path else path
            ours, theirs = shape(await page(calls, path)), shape(recorded["body"])
            if name == "config":
                top = {field.split(".")[1].split(":")[0] for field in theirs}
                assert {field.split(".")[1].split(":")[0] for field in ours} <= top | {"security"}
            else:
                assert ours == theirs, name

    with_server(body, path=str(tmp_path / "data"))


def test_values(with_server):
    async def body(calls):
        give_three_regions(calls)
        server, pd = calls.server, calls.server.pd
        stores = await page(calls, "stores")
        assert stores["count"] == 1
        store = stores["stores"][0]
        assert store["store"]["address"] == f"127.0.0.1:{server.port}"
        assert store["store"]["status_address"] == f"127.0.0.1:{server.status_port}"
        assert store["store"]["state_name"] == "Up"
        assert (store["status"]["region_count"], store["status"]["leader_count"]) == (3, 3)
        assert (await page(calls, "regions/count"))["count"] == 3
        regions = await page(calls, "regions")
        assert [r["start_key"] for r in regions["regions"]] == ["", "67", "70"]
        assert (await page(calls, "region/id/101"))["end_key"] == "70"
        assert (await page(calls, "region/key/h"))["id"] == 101
        assert (await page(calls, "region/key/%67"))["id"] == 101
        assert await page(calls, "region/id/999") is None
        assert (await page(calls, f"regions/store/{store['store']['id']}"))["count"] == 3
        assert (await page(calls, "regions/store/999"))["count"] == 0
        members = await page(calls, "members")
        assert members["header"]["cluster_id"] == pd.cluster_id
        assert members["leader"]["client_urls"] == [f"http://127.0.0.1:{server.pd_port}"]
        assert (await page(calls, "health"))[0]["health"] is True
        assert (await page(calls, "cluster"))["id"] == pd.cluster_id

    with_server(body)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        ("/pd/api/v1/none", 404),
        ("/pd/api/v1/store/999", 404),
        ("/pd/api/v1/store/x", 400),
        ("/pd/api/v1/store/-1", 400),
        ("/pd/api/v1/region/id/99999999999999999999999", 400),
        ("/pd/api/v1/../../../etc/passwd", 400),
        ("/%2e%2e/%2e%2e/etc/passwd", 400),
        ("/debug/pprof/", 404),
        ("/pd/api/v1/stores/%00", 404),
    ],
)
def test_bad_paths(with_server, path, status):
    async def body(calls):
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(fetch, calls.server.pd_port, path)
        assert refused.value.code == status
        assert b"root:" not in refused.value.read()
        refused.value.close()

    with_server(body)


def test_hostile_bytes_leave_the_server_alive(with_server):
    attacks = [
        b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % i for i in range(100_000)) + b"\r\n",
        b"POST /pd/api/v1/stores HTTP/1.1\r\nHost: evil\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        bytes(range(256)) * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
        b"PRI * HTTP/1.1\r\n\r\n",
        b"",
    ]

    async def attack(port: int, data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = b""
        try:
            writer.write(data)
            writer.write_eof()
            await writer.drain()
            answer = await asyncio.wait_for(reader.read(65536), 20)
        except ConnectionError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        return answer

    async def body(calls):
        server = calls.server
        for port in (server.pd_port, server.status_port, server.port):
            for data in attacks:
                answer = await attack(port, data)
                assert not answer.startswith(b"HTTP/1.1 2"), data[:40]
                assert not answer.startswith(b"HTTP/1.1 500"), data[:40]
        assert (await page(calls, "health"))[0]["health"]
        assert (await asyncio.to_thread(fetch, server.status_port, "/status")) == (200, b"")

    with_server(body)


def over_http2(port: int, method: str, path: str):
    """One request in HTTP/2, by another implementation."""
    h2 = pytest.importorskip("h2.connection")
    events = pytest.importorskip("h2.events")
    body, headers = b"", {}
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        connection = h2.H2Connection()
        connection.initiate_connection()
        names = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "x")]
        connection.send_headers(1, names, end_stream=True)
        while True:
            sock.sendall(connection.data_to_send())
            for event in connection.receive_data(sock.recv(65536)):
                if isinstance(event, events.ResponseReceived):
                    headers = {bytes(name): bytes(value) for name, value in event.headers}
                elif isinstance(event, events.DataReceived):
                    body += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, 1)
                elif isinstance(event, events.StreamEnded):
                    return headers, body


def test_pages_over_http2(with_server):
    async def body(calls):
        port = calls.server.pd_port
        headers, text = await asyncio.to_thread(over_http2, port, "GET", "/pd/api/v1/members?x=1")
        assert headers[b":status"] == b"200"
        assert headers[b"content-type"].startswith(b"application/json")
        assert json.loads(text)["header"]["cluster_id"] == calls.server.pd.cluster_id
        headers, nothing = await asyncio.to_thread(over_http2, port, "HEAD", "/pd/api/v1/members")
        assert (headers[b"content-length"], nothing) == (b"%d" % len(text), b"")
        for method, path, status in (
            ("GET", "/none", b"404"),
            ("GET", "/a/../b", b"400"),
            ("POST", "/pd/api/v1/stores", b"415"),
            ("DELETE", "/pd/api/v1/store/1", b"405"),
        ):
            headers, _ = await asyncio.to_thread(over_http2, port, method, path)
            assert headers[b":status"] == status

    with_server(body)


@pytest.mark.parametrize(("version", "number", "ttl"), [("1", 1, False), ("1ttl", 1, True), ("2", 2, True)])
def test_status_port(with_server, version, number, ttl):
    async def body(calls):
        server = calls.server
        assert await asyncio.to_thread(fetch, server.status_port, "/status") == (200, b"")
        config = json.loads((await asyncio.to_thread(fetch, server.status_port, "/config"))[1])
        assert (config["storage"]["api-version"], config["storage"]["enable-ttl"]) == (number, ttl)
        assert config["server"]["addr"] == f"127.0.0.1:{server.port}"
        assert config["coprocessor"]["region-split-size"] == "256MiB"
        assert config["pessimistic-txn"] == {"wait-for-lock-timeout": "1s", "wake-up-delay-duration": "20ms"}
        assert config["raftstore"]["raft-entry-max-size"] == "8MiB"
        assert config["raftstore"]["pd-store-heartbeat-tick-interval"] == "10s"
        assert config["storage"]["ttl-check-poll-interval"] == "10m"
        for path in ("/none", "/pd/api/v1/stores"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                await asyncio.to_thread(fetch, server.status_port, path)
            assert refused.value.code == 404
            refused.value.close()

    with_server(body, api_version=version)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (20.799416319, "20.799416319s"), (61, "1m1s"), (3600.5, "1h0m0.5s")]
)
def test_durations(seconds, text):
    assert _duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0B"), (1023, "1023B"), (20 << 30, "20GiB"), (270 << 20, "270MiB")])
def test_sizes(number, text):
    assert _size(number) == text


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority of our own, and one certificate of it for both sides."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)
    where = tmp_path_factory.mktemp("tls")

    def name(text):
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    def build(subject, issuer, key, signer, *extensions):
        builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(signer, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = build("ca", "ca", ca_key, ca_key, (x509.BasicConstraints(True, None), True), (ca_id, False), (usage, True))
    import ipaddress

    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    cert = build("node", "ca", key, ca_key, (names, False), (authority, False))
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (where / "ca.pem").write_bytes(ca.public_bytes(pem))
    (where / "cert.pem").write_bytes(cert.public_bytes(pem))
    (where / "key.pem").write_bytes(key.private_bytes(pem, private, serialization.NoEncryption()))
    return TLS(*(str(where / f"{part}.pem") for part in ("ca", "cert", "key")))


def test_tls_on_every_port(certificates, with_tls_server):
    async def body(rt, server):
        context = ssl.create_default_context(cafile=certificates.ca)
        context.load_cert_chain(certificates.cert, certificates.key)
        for alpn in (None, ["http/1.1"]):
            if alpn:
                context.set_alpn_protocols(alpn)
            status, text = await asyncio.to_thread(fetch, server.pd_port, "/pd/api/v1/members", context)
            assert status == 200
            assert json.loads(text)["leader"]["client_urls"] == [f"https://127.0.0.1:{server.pd_port}"]
            assert await asyncio.to_thread(fetch, server.status_port, "/status", context) == (200, b"")
        for port in (server.pd_port, server.port):
            channel = ClientChannel(rt, address=f"127.0.0.1:{port}")
            await channel.connect("127.0.0.1", port, rt.now() + 10, load_client_tls(certificates))
            await channel.unary("/grpc.health.v1.Health/Check", b"", deadline=rt.now() + 10)
            await channel.close()
        nameless = ssl.create_default_context(cafile=certificates.ca)
        with pytest.raises((urllib.error.URLError, ConnectionError, ssl.SSLError)):
            await asyncio.to_thread(fetch, server.pd_port, "/pd/api/v1/members", nameless)
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            await asyncio.to_thread(fetch, server.pd_port, "/pd/api/v1/members")

    with_tls_server(body, certificates)


def test_no_region_is_hot(with_server):
    async def body(calls):
        store_id = str(calls.server.pd.stores.all()[0].meta.id)
        for kind in ("read", "write"):
            found = await page(calls, f"hotspot/regions/{kind}")
            for of in ("as_peer", "as_leader"):
                assert list(found[of]) == [store_id]
                assert found[of][store_id]["statistics"] == []
        assert set((await page(calls, "hotspot/stores"))["bytes-read-rate"]) == {store_id}

    with_server(body)
