"""A simulated cluster whose calls are written down: with which headers they came, with what context, how they ended."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "txn_fakes"))

import pytikv
from pytikv.codec import memcomparable
from pytikv.proto import kvrpcpb_pb2 as kvrpcpb
from pytikv.proto import tikvpb_pb2 as tikvpb
from pytikv.testing.fleet import URL, Fleet
from pytikv.testing.sim import SimRuntime, World
from pytikv.wire import server
from pytikv.wire.server import CallInfo, ServerConnection, Streaming, Unary


@dataclasses.dataclass
class Seen:
    """One unary call, or one stream, or one command of BatchCommands (`slot` is its field's name)."""

    process: str
    method: str
    headers: dict[str, str]
    left_s: float | None
    request: bytes
    ended: str = "answered"

    @property
    def context(self) -> kvrpcpb.Context:
        return kvrpcpb.RawGetRequest.FromString(self.request).context


class WatchedStream:
    """A handler that passes everything on, and writes down what it sees."""

    def __init__(self, inner: server.StreamHandler, seen: Seen, note: Callable[[Seen, bytes], None]) -> None:
        self._inner, self._seen, self._note = inner, seen, note
        self.on_half_close, self.on_shutdown = inner.on_half_close, inner.on_shutdown

    def on_message(self, message: bytes) -> None:
        self._note(self._seen, message)
        self._inner.on_message(message)

    def on_cancel(self) -> None:
        self._seen.ended = "cancelled"
        self._inner.on_cancel()


class Watch:
    """Keeps account of what comes in. Unary calls of the methods in `hold` are never answered."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.hold: set[str] = set()

    def routes(self, rt: Any, process: str, routes: Mapping[bytes, server.Route]) -> dict[bytes, server.Route]:
        return {path: self._watch(rt, process, path, route) for path, route in routes.items()}

    def _watch(self, rt: Any, process: str, path: bytes, route: server.Route) -> server.Route:
        if isinstance(route, Unary):
            return Unary(partial(self._unary, rt, process, path, route))
        return Streaming(partial(self._stream, rt, process, path, route))

    def _entry(self, rt: Any, process: str, path: bytes, info: CallInfo, request: bytes) -> Seen:
        headers = {name.decode(): value.decode() for name, value in info.metadata}
        left_s = None if info.deadline is None else info.deadline - rt.now()
        seen = Seen(process, path.rpartition(b"/")[2].decode(), headers, left_s, request)
        self.seen.append(seen)
        return seen

    async def _unary(self, rt: Any, process: str, path: bytes, route: Unary, request: bytes, info: CallInfo) -> bytes:
        seen = self._entry(rt, process, path, info, request)
        try:
            if seen.method in self.hold:
                await rt.create_future()
            answer = route.handler(request, info)
            return answer if isinstance(answer, bytes) else await answer
        except BaseException as error:
            seen.ended = "cancelled" if isinstance(error, rt.Cancelled) else "failed"
            raise

    def _stream(self, rt: Any, process: str, path: bytes, route: Streaming, stream: server.ServerStream) -> Any:
        seen = self._entry(rt, process, path, stream.info, b"")
        return WatchedStream(route.factory(stream), seen, self._note_message)

    def _note_message(self, stream: Seen, message: bytes) -> None:
        if stream.method != "BatchCommands":
            return
        for request in tikvpb.BatchCommandsRequest.FromString(message).requests:
            name = str(request.WhichOneof("cmd"))
            command = getattr(request, name).SerializeToString()
            self.seen.append(Seen(stream.process, name, stream.headers, None, command))

    def of(self, method: str) -> list[Seen]:
        """Return what was seen of a method (unary: RawGet, in a batch: RawGet too), and forget it."""
        found = [seen for seen in self.seen if seen.method == method]
        self.seen = [seen for seen in self.seen if seen.method != method]
        return found


class Watched(Watch, Fleet):
    """A simulated fleet that is watched."""

    def __init__(self, world: World, **options: Any) -> None:
        Watch.__init__(self)
        Fleet.__init__(self, world, **options)

    def start(self) -> None:
        self._listen = self._listen_and_watch  # type: ignore[method-assign]
        super().start()

    def _listen_and_watch(self, rt: SimRuntime, port: int, routes: dict[bytes, server.Route]) -> None:
        watched = self.routes(rt, rt.name, routes)
        rt.world.network.bind(rt, rt.name, port, lambda: ServerConnection(rt, watched))


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """A watch over all servers on real sockets."""
    watch = Watch()
    make = ServerConnection.__init__

    def made(self: Any, rt: Any, routes: Any, *args: Any, **kwargs: Any) -> None:
        make(self, rt, watch.routes(rt, "server", routes), *args, **kwargs)

    monkeypatch.setattr(ServerConnection, "__init__", made)
    return watch


@pytest.fixture(scope="session")
def serving() -> Any:
    """The class `Serving` of the raw client's tests: a server in a thread of its own."""
    from txn_regions import raw_fakes

    return raw_fakes().Serving


@pytest.fixture
def world() -> Iterator[World]:
    with World(11) as world:
        yield world


@pytest.fixture
def fleet(world: World) -> Watched:
    fleet = Watched(world, borders=[memcomparable.encode(b"g"), memcomparable.encode(b"p")])  # for both kinds of data
    fleet.start()
    return fleet


@pytest.fixture
def run(world: World, fleet: Watched) -> Callable[..., Any]:
    """`run(body, client_type, **options)`: connect, await `body(client)` and close; returns what it returned."""

    def run(body: Callable[[Any], Any], client_type: Any = pytikv.AsyncRawClient, **options: Any) -> Any:
        rt = world.process("client")

        async def main() -> Any:
            async with await client_type._open(rt, URL, options) as client:
                fleet.seen.clear()
                return await body(client)

        return world.run(main(), process="client")

    return run
