"""`pytikv serve` as a process: its one line, its signals, its refusals, and timestamps over kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.aio import AioRuntime
from pytikv.wire.channel import ClientChannel
from pytikv.wire.errors import RpcError

pytestmark = pytest.mark.process
ANY = "127.0.0.1:0"
PROGRAM = """
import json, sys
from pytikv.server.serve import ServeConfig, main_serve
sys.exit(main_serve(ServeConfig(**json.loads(sys.argv[1]))))
"""


def with_pd(port: int, body):
    """Run `body(rt, channel, header)` against PD and return what it returns."""

    async def main():
        rt = AioRuntime()
        channel = ClientChannel(rt, address=f"127.0.0.1:{port}")
        try:
            await channel.connect("127.0.0.1", port, rt.now() + 10)
            data = await channel.unary("/pdpb.PD/GetMembers", b"", deadline=rt.now() + 10)
            cluster_id = pdpb.GetMembersResponse.FromString(data).header.cluster_id
            return await body(rt, channel, pdpb.RequestHeader(cluster_id=cluster_id))
        finally:
            await channel.close()
            await rt.close()

    return asyncio.run(asyncio.wait_for(main(), 30))


async def timestamps(rt, channel, header, count: int):
    """Yield the last timestamp of one block after the other."""
    stream = channel.stream("/pdpb.PD/Tso", deadline=None)
    while True:
        stream.send(pdpb.TsoRequest(header=header, count=count).SerializeToString())
        answer = pdpb.TsoResponse.FromString(await stream.recv(rt.now() + 10))
        yield (answer.timestamp.physical << 18) + answer.timestamp.logical


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("on_disk", [False, True])
def test_one_line_and_a_clean_end(start_server, tmp_path, number, on_disk):
    server = start_server(path=str(tmp_path / "data") if on_disk else None)
    assert server.url == f"tikv://127.0.0.1:{server.pd_port}"
    server.send(number)
    assert server.wait() == 0
    assert server.process.stdout.read() == b""
    assert "Traceback" not in server.stderr()


def test_it_stops_while_clients_are_busy(start_server):
    server = start_server()

    async def body(rt, channel, header):
        taken = 0
        with contextlib.suppress(RpcError):
            async for _ in timestamps(rt, channel, header, 1):
                taken += 1
                if taken == 100:
                    server.send(signal.SIGTERM)
        return taken

    assert with_pd(server.pd_port, body) >= 100
    assert server.wait() == 0


def test_timestamps_never_go_back_over_kill_9(start_server, tmp_path):
    path, last = str(tmp_path / "data"), 0
    for _ in range(3):
        server = start_server(path=path)

        async def body(rt, channel, header, server=server, before=last):
            taken = 0
            with contextlib.suppress(RpcError):
                async for ts in timestamps(rt, channel, header, 200_000):  # runs the clock ahead: bounds must be saved
                    assert ts - 200_000 >= before
                    before = ts
                    taken += 1
                    if taken == 2000:
                        server.kill()
            return before

        last = with_pd(server.pd_port, body)
        assert last > 0
    # 2000 blocks of 200 000 are over 1.5 seconds of counters: the window was renewed while they were taken.


def test_taken_ports(start_server):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for option in ("addr", "pd_addr", "status_addr"):
            server = start_server(ready=False, **{option: address})
            assert server.wait() == 1
            assert f"cannot listen on {address}" in server.stderr()
            assert "Traceback" not in server.stderr()
            assert server.process.stdout.read() == b""


def test_paths_that_cannot_be(start_server, tmp_path, as_nobody):
    a_file = tmp_path / "file"
    a_file.write_text("x")
    cases = [(str(a_file), "is a file"), (str(a_file / "below"), "file"), ("/proc/pytikv", "/proc/pytikv")]
    if as_nobody:
        read_only = tmp_path / "read-only"
        read_only.mkdir(mode=0o500)
        cases.append((str(read_only), "cannot write"))
    for path, words in cases:
        server = start_server(ready=False, path=path)
        assert server.wait() == 1
        assert words in server.stderr()
        assert "Traceback" not in server.stderr()


def test_a_read_only_file_system(tmp_path):
    """Permissions do not bind root, a read-only mount does: in a namespace of its own, so that nothing is left."""
    mount = 'mount -t tmpfs -o ro none "$0" && exec "$@"'
    options = json.dumps({"path": str(tmp_path), "addr": ANY, "pd_addr": ANY, "status_addr": ANY})
    command = ["unshare", "-m", "sh", "-c", mount, str(tmp_path), sys.executable, "-c", PROGRAM, options]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if "pytikv serve" not in ended.stderr:
        pytest.skip("no right to mount here")
    assert ended.returncode == 1
    assert "Read-only file system" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_second_server_names_the_first(start_server, tmp_path):
    first = start_server(path=str(tmp_path))
    second = start_server(ready=False, path=str(tmp_path))
    assert second.wait() == 1
    assert f"in use by process {first.process.pid}" in second.stderr()
    first.kill()
    start_server(path=str(tmp_path))  # what a killed process held is free


def test_the_directory_is_private(start_server, tmp_path):
    start_server(path=str(tmp_path / "data"))
    assert os.stat(tmp_path / "data").st_mode & 0o777 == 0o700
