"""`FaultProxy`: a TCP proxy that treats connections badly, on command.

It listens on 127.0.0.1 and forwards to one address, from a thread of its own, so that blocking and asyncio code can be
tested alike. What it can do, for all connections present and future until `heal`:

* `delay(seconds)`: every piece of data waits so long in each direction;
* `stall()`: half-open. Connections stay up, new ones are accepted, no byte passes;
* `drop("up")`, `drop("down")`: what goes to the server (up) or comes from it (down) is swallowed, the other way passes;
* `refuse()`: new connections are reset at once;
* `reset_after(count, "up")`: each connection is reset when that many more bytes went that way.

And at once: `cut()` resets every connection that there is, `close_all()` ends them in an orderly way. A reset is a real
RST (SO_LINGER 0). What was stalled passes on after `heal`; what was dropped is lost, and the peers have to notice. The
methods return when the proxy has acted; they may be called from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Literal, TypeVar

__all__ = ["Direction", "FaultProxy"]

T = TypeVar("T")
Direction = Literal["up", "down"]
_CHUNK_BYTES = 64 << 10
_START_SECONDS = 10.0


class FaultProxy:
    """A proxy to `host:port`; use it as a context manager. `.address` is where to connect to.

    `connections` counts those accepted so far, `bytes_passed` and `bytes_dropped` what was forwarded and swallowed.
    """

    def __init__(self, host: str, port: int, *, listen_port: int = 0) -> None:
        self._target = (host, port)
        self._listen_port = listen_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pytikv-fault-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._faults = _Faults()
        self.port = 0
        self.connections = 0
        self.bytes_passed: dict[Direction, int] = {"up": 0, "down": 0}
        self.bytes_dropped: dict[Direction, int] = {"up": 0, "down": 0}

    @property
    def address(self) -> str:
        """The proxy's own `host:port`."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(_START_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(_START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_SECONDS)
        self._loop.close()

    # --- faults -------------------------------------------------------------------------------------------------------

    def delay(self, seconds: float) -> None:
        """Let every piece of data wait, each way."""
        self._change(lambda faults: setattr(faults, "delay_seconds", seconds))

    def stall(self) -> None:
        """Let nothing pass; connections stay up."""
        self._change(lambda faults: faults.open.clear())

    def drop(self, direction: Direction) -> None:
        """Swallow what goes one way."""
        self._change(lambda faults: faults.dropped.add(direction))

    def refuse(self) -> None:
        """Reset new connections."""
        self._change(lambda faults: setattr(faults, "refusing", True))

    def reset_after(self, count: int, direction: Direction = "down") -> None:
        """Reset each connection once `count` more bytes went `direction`; the bytes up to it still pass."""

        def change(faults: _Faults) -> None:
            faults.reset_after[direction] = count
            for link in self._links:
                link.left[direction] = count

        self._change(change)

    def heal(self) -> None:
        """End all faults: data passes again, what was held back first."""

        def change(faults: _Faults) -> None:
            faults.heal()
            for link in self._links:
                link.left.clear()

        self._change(change)

    def cut(self) -> None:
        """Reset every connection that there is now."""
        self._change(lambda _: self._for_all(_Link.reset))

    def close_all(self) -> None:
        """End every connection that there is now, in an orderly way."""
        self._change(lambda _: self._for_all(_Link.close))

    def _change(self, act: Callable[[_Faults], object]) -> None:
        async def run() -> None:
            act(self._faults)

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(_START_SECONDS)

    # --- in the proxy's thread ----------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._listen_port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self._for_all(_Link.reset)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _for_all(self, act: Callable[[_Link], None]) -> None:
        for link in list(self._links):
            act(link)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # the top of the task; asyncio 3.11 reports it as an error
            await self._forward(reader, writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._faults.refusing:
            _abort(writer)
            return
        try:
            upstream_reader, upstream = await asyncio.open_connection(*self._target)
        except OSError:
            _abort(writer)
            return
        link = _Link(writer, upstream, dict(self._faults.reset_after))
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pump(link, reader, upstream, "up"), self._pump(link, upstream_reader, writer, "down")
            )
        finally:
            self._links.discard(link)
            link.close()

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        """Forward one way until the end of it; a broken connection breaks the other side too."""
        faults = self._faults
        try:
            while data := await reader.read(_CHUNK_BYTES):
                if faults.delay_seconds:
                    await asyncio.sleep(faults.delay_seconds)
                await faults.open.wait()
                if direction in faults.dropped:
                    self.bytes_dropped[direction] += len(data)
                    continue
                data, last = link.allowed(data, direction)
                self.bytes_passed[direction] += len(data)
                writer.write(data)
                await writer.drain()
                if last:
                    link.reset()
                    return
            await faults.open.wait()
            if direction not in faults.dropped:
                writer.write_eof()
        except OSError:
            link.reset()


class _Faults:
    """What is wrong at present."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.heal()

    def heal(self) -> None:
        self.delay_seconds = 0.0
        self.dropped: set[Direction] = set()
        self.refusing = False
        self.reset_after: dict[Direction, int] = {}
        self.open.set()


class _Link:
    """One connection: both its sides, and how many bytes may still pass before it is reset."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter, left: dict[Direction, int]) -> None:
        self._sides = (client, server)
        self.left = left

    def allowed(self, data: bytes, direction: Direction) -> tuple[bytes, bool]:
        """Return what of `data` may pass, and whether that was the last of it."""
        left = self.left.get(direction)
        if left is None:
            return data, False
        self.left[direction] = max(0, left - len(data))
        return data[:left], len(data) >= left

    def reset(self) -> None:
        for side in self._sides:
            _abort(side)

    def close(self) -> None:
        for side in self._sides:
            side.close()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Reset the connection: with SO_LINGER 0, closing sends RST."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
