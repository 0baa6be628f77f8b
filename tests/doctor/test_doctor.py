"""`pytikv doctor` against real servers: each trouble is made to happen, and found."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

import pytikv
from pytikv.cli.app import app
from pytikv.cli.topology import find_stores
from pytikv.client.base import client_config
from pytikv.doctor import gather, judges
from pytikv.doctor.examine import CHECKS
from pytikv.doctor.site import open_site
from pytikv.rt.aio import AioRuntime
from pytikv.testing.proxy import FaultProxy
from pytikv.testing.server import ServerProcess

GOSERVER = Path(__file__).resolve().parents[2] / "benchmarks" / "bin" / "goserver"
BEHIND_A_PROXY = ["--addr", "127.0.0.2:0", "--pd-addr", "127.0.0.2:0", "--advertise-host", "127.0.0.1"]
"""Options of a server that listens where nobody looks, and says that it is where the proxies are."""


class Seen:
    """A report as `--json` tells it."""

    def __init__(self, url: str, timeout_s: float = 20.0) -> None:
        done = CliRunner().invoke(app, ["doctor", "--url", url, "--json", "--timeout", str(timeout_s)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        self.text = done.stdout
        self.code = done.exit_code
        self.report: dict[str, Any] = json.loads(done.stdout)
        self.checks = {check["check"]: check for check in self.report["checks"]}

    def severity(self, name: str) -> str:
        return str(self.checks[name]["severity"])

    def words(self, name: str) -> str:
        return json.dumps(self.checks[name], ensure_ascii=False)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as running:
        yield running


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> None:
    if "server" in request.fixturenames:
        request.getfixturevalue("server").clear()


def test_a_healthy_server(server: ServerProcess) -> None:
    seen = Seen(server.url)
    assert seen.code == 0, seen.text
    assert list(seen.checks) == [check.name for check in CHECKS]
    assert seen.report["target"] == server.url
    names = "endpoints tls versions clock latency stores balance hotspots locks values process"
    for name in names.split():
        assert seen.severity(name) == "ok", seen.words(name)
    assert "network" in seen.words("latency")
    assert "queue" in seen.words("latency")


def test_as_people_see_it(server: ServerProcess) -> None:
    with server.client() as client:
        client.put(b"large", b"x" * (2 << 20))
    done = CliRunner().invoke(app, ["doctor", "--url", f"{server.url}?timeout=5"])
    assert done.exit_code == 1, done.output
    assert "✓ Endpoints" in done.stdout
    assert "! Sizes of values" in done.stdout
    assert "raw large: 2.0 MiB" in done.stdout
    assert "-> keep values below 1 MiB" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"{server.url}: 0 critical, 1 warning;")


def test_large_values_of_transactions(server: ServerProcess) -> None:
    with pytikv.TransactionClient.connect(server.url) as db:
        with db.begin() as txn:
            txn.put(b"page", b"x" * (3 << 20))
        seen = Seen(server.url)
        with db.begin() as txn:
            txn.delete(b"page")
    assert seen.severity("values") == "warning"
    assert "txn page: 3.0 MiB" in seen.words("values")


def test_a_lock_that_outlived_its_owner(server: ServerProcess) -> None:
    program = (
        "import os, sys, pytikv\n"
        "db = pytikv.TransactionClient.connect(sys.argv[1])\n"
        "txn = db.begin(pessimistic=True, lock_ttl_ms=1000)\n"
        "txn.lock_keys([b'seat 7', b'seat 8'])\n"
        "print(int(txn.start_ts), flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, server.url], capture_output=True, text=True, check=True)
    start_ts = done.stdout.strip()
    end = time.monotonic() + 30
    while (seen := Seen(server.url)).severity("locks") != "warning":
        assert time.monotonic() < end, seen.words("locks")
    assert "outlived" in seen.words("locks")
    assert start_ts in seen.words("locks")
    assert "seat 7" in seen.words("locks")
    with pytikv.TransactionClient.connect(server.url) as db:
        assert db.resolve_locks().items == 2, "the advice helps"
    assert Seen(server.url).severity("locks") == "ok"


def test_garbage_collection(server: ServerProcess) -> None:
    assert "never collected" in Seen(server.url).words("gc")
    with pytikv.TransactionClient.connect(server.url) as db:
        db.gc(life_time=0)
    seen = Seen(server.url)
    assert seen.severity("gc") == "ok"
    assert "GC safe point" in seen.words("gc")


def test_a_store_far_away() -> None:
    with ServerProcess(None, *BEHIND_A_PROXY) as server:
        pd_port = int(server.url.rpartition(":")[2])
        with FaultProxy("127.0.0.2", pd_port, listen_port=pd_port):
            port = int(find_stores(server.url)[0].address.rpartition(":")[2])
            with FaultProxy("127.0.0.2", port, listen_port=port) as way:
                way.delay(0.06)
                seen = Seen(server.url)
    assert seen.severity("latency") == "warning", seen.words("latency")
    assert "for a read of one key" in seen.words("latency")
    assert "most of it is spent on the network" in seen.words("latency")
    assert seen.code == 1


def test_a_server_that_stands_still() -> None:
    with ServerProcess() as server:
        server.pause()
        began = time.monotonic()
        seen = Seen(server.url, timeout_s=3)
        assert time.monotonic() - began < 10
        server.resume()
    assert seen.code == 2
    assert "no PD answers" in seen.words("endpoints")
    assert seen.severity("latency") == "unknown"
    assert seen.severity("process") in ("ok", "warning")


def test_nobody_there() -> None:
    seen = Seen("tikv://127.0.0.1:1", timeout_s=2)
    assert seen.code == 2
    assert "refused" in seen.words("endpoints")


def test_wrong_usage() -> None:
    done = CliRunner().invoke(app, ["doctor", "--url", "tikv://127.0.0.1:1?nonsense=1"])
    assert done.exit_code == 2
    assert "nonsense" in done.stderr
    done = CliRunner().invoke(app, ["doctor", "--url", "tikv://127.0.0.1:1?ca=/nowhere/ca.pem"])
    assert done.exit_code == 2
    assert "/nowhere/ca.pem: No such file" in done.stderr
    assert "secret" not in CliRunner().invoke(app, ["doctor", "--url", "tikv://me:secret@127.0.0.1:1"]).output


def test_stores_of_api_version_2() -> None:
    with ServerProcess(api_version="2") as server:
        seen = Seen(server.url)
        assert seen.severity("versions") == "warning"
        assert "api_version=2" in seen.words("versions")
        assert seen.severity("latency") == "ok"
        assert Seen(f"{server.url}?api_version=2").severity("versions") == "ok"


def test_an_embedded_store() -> None:
    seen = Seen("embedded://:memory:")
    assert seen.code == 0, seen.text
    assert seen.severity("endpoints") == "unknown"
    for name in ("versions", "clock", "locks", "values", "process"):
        assert seen.severity(name) == "ok", seen.words(name)


@pytest.mark.skipif(not GOSERVER.exists(), reason="the neutral Go server is not built (make bench builds it)")
def test_a_server_of_another_make() -> None:
    command = [str(GOSERVER), "-stores", "3", "-regions", "12", "-txn", "-until-eof"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        seen = Seen(process.stdout.readline().split()[1])
        process.stdin.close()
        process.wait(10)
    assert seen.code == 0, seen.text
    assert "1 PD and 3 stores answer" in seen.words("endpoints")
    assert "does not split its time" in seen.words("latency")
    assert seen.severity("hotspots") == "unknown"


# --- TLS --------------------------------------------------------------------------------------------------------------


def certificate(directory: Path, days: float) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = directory / "server.pem", directory / "server.key"
    cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, plain))
    return cert_path, key_path


@pytest.mark.parametrize(
    ("days", "severity", "words"),
    [(90, "ok", "good for"), (10.5, "warning", "expires soon"), (1, "critical", "about to expire")],
)
def test_certificates(tmp_path: Path, days: float, severity: str, words: str) -> None:
    cert, key = certificate(tmp_path, days)
    with ServerProcess(None, "--cert", str(cert), "--key", str(key)) as server:
        seen = Seen(f"{server.url}?ca={cert}")
    assert seen.severity("tls") == severity, seen.words("tls")
    assert words in seen.words("tls")
    assert seen.severity("stores") == "ok", "PD's pages come over TLS too"
    assert str(cert) not in seen.text


def test_an_expired_certificate(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, -1)
    with ServerProcess(None, "--cert", str(cert), "--key", str(key)) as server:
        seen = Seen(f"{server.url}?ca={cert}", timeout_s=5)
    assert seen.code == 2
    assert "expired" in seen.words("endpoints")
    assert seen.severity("tls") == "critical"
    assert "expired" in seen.words("tls")


def test_a_server_that_is_down_says_nothing_of_its_certificate(tmp_path: Path) -> None:
    cert, _ = certificate(tmp_path, 90)
    seen = Seen(f"tikv://127.0.0.1:1?ca={cert}", timeout_s=2)
    assert seen.severity("tls") == "unknown"


def test_a_port_without_tls_shows_no_certificate_to_judge(server: ServerProcess, tmp_path: Path) -> None:
    cert, _ = certificate(tmp_path, 90)
    seen = Seen(f"{server.url}?ca={cert}", timeout_s=2)
    assert seen.code == 2
    assert "plaintext port" in seen.words("endpoints")
    assert seen.severity("tls") == "unknown"


def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, 90)
    with ServerProcess(None, "--cert", str(cert), "--key", str(key)) as server:
        seen = Seen(f"{server.url}?ca={cert}&tls_server_name=tikv.example", timeout_s=5)
        assert Seen(f"{server.url}?ca={cert}&tls_server_name=127.0.0.1").code == 0
    assert seen.severity("tls") == "critical"
    assert "tikv.example" in seen.words("tls")


# --- this process -----------------------------------------------------------------------------------------------------


def process_findings(url: str) -> str:
    async def ask() -> str:
        rt = AioRuntime()
        site = await open_site(rt, *client_config(url, {}))
        try:
            return " ".join(finding.title for finding in judges.process(await gather.process(site, rt.now() + 10)))
        finally:
            await site.close()
            await rt.close()

    return asyncio.run(ask())


def test_threads_that_compute_are_seen() -> None:
    stop = threading.Event()

    def compute() -> None:
        number = 0
        while not stop.is_set():
            for _ in range(1000):
                number = (number * 31 + 7) % 1_000_003

    threads = [threading.Thread(target=compute) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert "contended" in process_findings("embedded://:memory:")
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_calls_that_wait_for_connections_are_seen() -> None:
    with ServerProcess() as server, server.client(max_connections=2, timeout=20) as client:
        client.get(b"k")
        server.pause()
        threads = [threading.Thread(target=client.get, args=(b"k",)) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            end = time.monotonic() + 10
            while "wait for connections" not in process_findings("embedded://:memory:"):
                assert time.monotonic() < end
        finally:
            server.resume()
            for thread in threads:
                thread.join()


def test_pages_of_hot_regions_are_read() -> None:
    """As PD shows them; `pytikv serve` has no such page."""
    entries = [{"region_id": 7, "flow_bytes": 3e6, "flow_query": 10.0}, {"region_id": 8, "flow_bytes": 1e6}]
    page = {"as_leader": {"1": {"statistics": entries}, "2": {"statistics": None}}, "as_peer": {}}
    found = gather._hot_regions("write", page)
    assert [(one.region_id, one.store_id, one.share) for one in found] == [(7, 1, 0.75), (8, 1, 0.25)]
    assert gather._hot_regions("read", {"as_leader": None}) == []


def test_stores_without_transactions() -> None:
    with ServerProcess(api_version="1ttl") as server:
        seen = Seen(server.url)
    assert seen.severity("locks") == "unknown"
    assert "transactions" in seen.words("locks")
    assert seen.severity("latency") == "ok", "by the health service then"
    assert seen.severity("values") == "ok"


def test_values_at_both_ends_are_sampled(server: ServerProcess) -> None:
    with server.client() as client:
        client.batch_put({b"%05d" % number: b"v" for number in range(3000)})
        client.put(b"zz-large", b"x" * (2 << 20))
        seen = Seen(server.url)
    assert "zz-large" in seen.words("values")
    assert "1,0" in seen.words("values"), "a bounded number of values"


def test_a_store_that_is_gone() -> None:
    """PD is reached through a proxy, the store's port is closed."""
    with ServerProcess(None, *BEHIND_A_PROXY) as server:
        port = int(server.url.rpartition(":")[2])
        with FaultProxy("127.0.0.2", port, listen_port=port):
            seen = Seen(server.url, timeout_s=8)
    assert seen.code == 2
    assert "1 of 1 stores do not answer" in seen.words("endpoints")
    assert "connection refused" in seen.words("endpoints")
    assert seen.severity("latency") == "critical"
    assert seen.severity("clock") == "ok"
    assert seen.severity("process") in ("ok", "warning"), "no check before it uses its time up"
    assert seen.severity("locks") == "unknown", seen.words("locks")
    assert seen.severity("values") == "unknown", seen.words("values")


def test_options_that_do_not_fit(server: ServerProcess) -> None:
    seen = Seen(f"{server.url}/nowhere")
    assert seen.code == 2
    assert "cannot connect" in seen.words("endpoints")
    assert "api_version" in seen.words("endpoints")
