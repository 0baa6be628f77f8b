"""The fault proxy, against a server that echoes."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pytikv.testing.proxy import Direction, FaultProxy


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except OSError:
            pass


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False


@pytest.fixture(scope="module")
def echo_port() -> Iterator[int]:
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo_port: int) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", echo_port) as running:
        yield running


def connect(proxy: FaultProxy, timeout: float = 5.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout)


def echo(connection: socket.socket, data: bytes = b"hello") -> bytes:
    connection.sendall(data)
    return receive(connection, len(data))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := connection.recv(count - len(data))):
        data += piece
    return data


def test_passes_data_through(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        payload = bytes(range(256)) * 1000
        sender = threading.Thread(target=connection.sendall, args=(payload,))
        sender.start()
        assert receive(connection, len(payload)) == payload
        sender.join()
    assert proxy.connections == 1
    assert proxy.bytes_passed == {"up": len(payload), "down": len(payload)}


def test_half_close_passes(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        assert echo(connection) == b"hello"
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_cut_resets(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        assert echo(connection) == b"hello"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with connect(proxy) as connection:
        assert echo(connection) == b"hello"


def test_close_all_is_orderly(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        assert echo(connection) == b"hello"
        proxy.close_all()
        assert connection.recv(1) == b""


def test_stall_and_heal(proxy: FaultProxy) -> None:
    with connect(proxy, timeout=0.05) as connection:
        proxy.stall()
        connection.sendall(b"late")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        with connect(proxy, timeout=0.05) as another:  # new ones are accepted, and hear nothing
            another.sendall(b"x")
            with pytest.raises(TimeoutError):
                another.recv(1)
        proxy.heal()
        connection.settimeout(5)
        assert receive(connection, 4) == b"late"


@pytest.mark.parametrize("direction", ["up", "down"])
def test_one_direction_is_lost(proxy: FaultProxy, direction: Direction) -> None:
    with connect(proxy, timeout=0.05) as connection:
        proxy.drop(direction)
        connection.sendall(b"lost")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        until(lambda: proxy.bytes_dropped[direction] == 4)
        proxy.heal()
        connection.settimeout(5)
        assert echo(connection, b"found") == b"found"
    assert proxy.bytes_passed["up"] == (5 if direction == "up" else 9)


def test_delay(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        proxy.delay(0.05)
        started = time.monotonic()
        assert echo(connection) == b"hello"
        assert time.monotonic() - started >= 0.1


def test_refuse(proxy: FaultProxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionResetError), connect(proxy) as connection:
        connection.recv(1)
    proxy.heal()
    with connect(proxy) as connection:
        assert echo(connection) == b"hello"


def test_reset_after_some_bytes(proxy: FaultProxy) -> None:
    proxy.reset_after(7, "up")
    with connect(proxy) as connection:
        assert echo(connection, b"12345") == b"12345"
        connection.sendall(b"678")
        with pytest.raises(ConnectionResetError):
            receive(connection, 3)
    assert proxy.bytes_passed["up"] == 7


def test_server_away_resets(echo_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with FaultProxy("127.0.0.1", port) as proxy, pytest.raises(ConnectionResetError), connect(proxy) as connection:
        connection.recv(1)
