"""The network of a simulated world: named hosts, links with delays and faults, TCP connections.

A connection is two `SimTransport`s. What one writes is cut into segments (at places that the seed chooses, as TCP
promises no message borders), each travels for the link's delay and is delivered in order; across connections the order
is open. Faults:

* *partition*, of one or both directions: segments are held, as TCP would go on to send them again; `heal` lets them
  through. A connect meanwhile runs into its deadline.
* *break*: both ends see a reset, what was under way is lost. By hand (`break_connections`) or by the link's chance.
* *crash* of a process: its ends vanish. With `silent` (a lost machine) the other side hears nothing, otherwise a reset.

Bounds: none in memory but the high-water mark that `write` reports.
"""

from __future__ import annotations

import dataclasses
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from pytikv.rt.interface import StreamProtocol
from pytikv.rt.tasks import LoopFuture
from pytikv.testing.seeded import SeededRandom

__all__ = ["Link", "Network", "SimListener", "SimTransport"]

T = TypeVar("T")

_HIGH_WATER_BYTES: Final = 1 << 20
_LOW_WATER_BYTES: Final = 1 << 18
_FIRST_FREE_PORT: Final = 32768
_OWN_HOST: Final = ("", "0.0.0.0", "127.0.0.1", "localhost", "::", "::1")


class Process(Protocol):
    """What the network needs of a process: `SimRuntime`. `lost`: it died with its machine."""

    name: str
    dead: bool
    lost: bool
    ready: deque[Callable[[], None]]

    async def wait(self, awaitable: LoopFuture[T], deadline: float | None) -> T:
        """See `Runtime.wait`."""
        ...


class Surroundings(Protocol):
    """What the network needs of the `World`."""

    now: float
    rng: SeededRandom

    def knows(self, name: str) -> bool:
        """Whether there is, or was, a process of that name."""
        ...

    def process(self, name: str) -> Process:
        """Return the present process of that name."""
        ...

    def at(self, when: float, runtime: Any, callback: Callable[[], None], label: str) -> None:
        """Let `callback` run in a process at `when`."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """How messages travel from one process to another. Delays in seconds, uniform between both."""

    min_delay: float = 0.0002
    max_delay: float = 0.002
    break_chance: float = 0.0
    """How likely each write breaks its connection."""


class SimListener:
    """A listening port of a process."""

    def __init__(self, network: Network, runtime: Process, port: int, factory: Callable[[], StreamProtocol]) -> None:
        self._network = network
        self.runtime = runtime
        self.factory = factory
        self._port = port

    @property
    def port(self) -> int:
        """The port bound to."""
        return self._port

    async def close(self) -> None:
        """Stop accepting; open connections are left to their owners."""
        self._network.unbind(self)


class SimTransport:
    """One end of a connection. `peer` is the other end."""

    def __init__(self, network: Network, runtime: Process, protocol: StreamProtocol, peer_name: str) -> None:
        self.network = network
        self.runtime = runtime
        self.protocol = protocol
        self.peer: SimTransport
        self.closed = False
        self._peer_name = peer_name
        self._incoming: deque[Callable[[], None]] = deque()  # on the way to here, in the order of sending
        self._arrived: deque[bytes] = deque()
        self._ending: list[BaseException | None] = []
        self._paused = False
        self._closing = False
        self._full = False
        self._last_arrival = 0.0
        self._under_way_bytes = 0
        self._held: list[Callable[[], None]] = []

    @property
    def peer_name(self) -> str:
        """See `Transport.peer_name`."""
        return self._peer_name

    @property
    def alpn(self) -> str | None:
        """None: there is no TLS in a simulation."""
        return None

    def write(self, data: bytes) -> bool:
        """See `Transport.write`."""
        if self.closed or self._closing or not data:
            return True
        if self.network.chance(self._link().break_chance):
            self.reset(ConnectionResetError("the connection broke"))
            return True
        data = bytes(data)
        self._under_way_bytes += len(data)
        for segment in self.network.cut(data):
            self._send(lambda segment=segment: self.peer.arrive(segment))  # type: ignore[misc]  # a default is inferred
        self._full = self._full or self._under_way_bytes > _HIGH_WATER_BYTES
        return not self._full

    def close(self) -> None:
        """See `Transport.close`."""
        if self.closed or self._closing:
            return
        self._closing = True
        self._send(lambda: self.peer.end(None))
        self.runtime.ready.append(lambda: self.lose(None))

    def abort(self) -> None:
        """See `Transport.abort`."""
        if not self.closed:
            self._closing = True
            self._send(lambda: self.peer.end(ConnectionResetError("the peer reset the connection")))
            self.runtime.ready.append(lambda: self.lose(None))

    def pause_reading(self) -> None:
        """See `Transport.pause_reading`."""
        self._paused = True

    def resume_reading(self) -> None:
        """See `Transport.resume_reading`."""
        self._paused = False
        self.runtime.ready.append(self._deliver)

    # --- what travels ---

    def _link(self) -> Link:
        return self.network.link(self.runtime.name, self.peer.runtime.name)

    def _send(self, arrival: Callable[[], None]) -> None:
        """Let `arrival` happen at the other end after the link's delay, in the order of sending."""
        if self._held or self.network.is_cut(self.runtime.name, self.peer.runtime.name):
            self._held.append(arrival)
            return
        world = self.network.world
        arrives = world.now + self.network.delay(self._link())
        if self.peer.runtime.dead:
            if not world.process(self.peer.runtime.name).dead:  # the machine is there, the process another
                world.at(arrives, self.runtime, lambda: self.end(ConnectionResetError("no such connection")), "net")
            return
        self._last_arrival = max(self._last_arrival, arrives)
        self.peer.expect(arrival)
        world.at(self._last_arrival, self.peer.runtime, self.peer.arrival, f"net {self.runtime.name}")

    def expect(self, arrival: Callable[[], None]) -> None:
        """Something has been sent to here."""
        self._incoming.append(arrival)

    def arrival(self) -> None:
        """The next of what was sent is here: callbacks run in any order, a stream keeps its own."""
        if self._incoming:
            self._incoming.popleft()()

    def release_held(self) -> None:
        """The link is whole again: send what was held."""
        held, self._held = self._held, []
        for arrival in held:
            self._send(arrival)

    def arrive(self, segment: bytes) -> None:
        """A segment of the peer's has come."""
        if self.closed:
            self._send(lambda: self.peer.end(ConnectionResetError("the peer had closed the connection")))
        else:
            self._arrived.append(segment)
            self._deliver()

    def end(self, error: BaseException | None) -> None:
        """The peer's end of the stream has come."""
        if not self.closed:
            self._ending.append(error)
            if error is not None:
                self._arrived.clear()
            self._deliver()

    def _deliver(self) -> None:
        while self._arrived and not self._paused and not self.closed:
            segment = self._arrived.popleft()
            self.peer.taken(len(segment))
            self.protocol.data_received(segment)
        if self._ending and not self._arrived and not self.closed:
            self.lose(self._ending[0])

    def taken(self, size: int) -> None:
        """The peer has read `size` bytes of ours."""
        self._under_way_bytes -= size
        if self._full and self._under_way_bytes <= _LOW_WATER_BYTES and not self.closed:
            self._full = False
            self.runtime.ready.append(lambda: None if self.closed else self.protocol.writable())

    def reset(self, error: BaseException) -> None:
        """Break the connection: both ends see `error` soon, what was under way is lost."""
        for side in (self, self.peer):
            side._held.clear()
            side._closing = True
            side.runtime.ready.append(lambda side=side: side.lose(error))  # type: ignore[misc]  # as above

    def lose(self, error: BaseException | None) -> None:
        """End this side."""
        if self.closed:
            return
        self.closed = True
        self._arrived.clear()
        self.network.forget(self)
        self.protocol.connection_lost(error)

    def vanish(self, silent: bool) -> None:
        """This side's process has crashed."""
        if self.closed:
            return
        self.closed = True
        self._held.clear()
        self.network.forget(self)
        if not silent:
            self._send(lambda: self.peer.end(ConnectionResetError("the peer's process died")))


class Network:
    """All hosts, links and connections of a `World`."""

    def __init__(self, world: Surroundings, link: Link) -> None:
        self.world = world
        self._default = link
        self._links: dict[tuple[str, str], Link] = {}
        self._cut: dict[tuple[str, str], None] = {}
        self._listeners: dict[tuple[str, int], SimListener] = {}
        self._transports: dict[SimTransport, None] = {}
        self._next_port: dict[str, int] = {}
        self._rng = world.rng.child("network")

    # --- faults ---

    def set_link(self, link: Link, source: str | None = None, target: str | None = None) -> None:
        """Let messages from `source` to `target` travel by `link`; both None: all that have no own."""
        if source is None or target is None:
            self._default = link
        else:
            self._links[source, target] = link

    def partition(self, side: list[str], other: list[str], *, one_way: bool = False) -> None:
        """Cut the processes of `side` off from those of `other`; `one_way`: only what `side` sends is held."""
        for a in side:
            for b in other:
                self._cut[a, b] = None
                if not one_way:
                    self._cut[b, a] = None

    def heal(self) -> None:
        """Mend all partitions; what was held is sent."""
        self._cut.clear()
        for transport in list(self._transports):
            transport.release_held()

    def break_connections(self, side: str, other: str | None = None) -> int:
        """Break all connections of `side` (to `other`); returns how many."""
        found = [
            t
            for t in self._transports
            if t.runtime.name == side and other in (None, t.peer.runtime.name) and not t.closed
        ]
        for transport in found:
            transport.reset(ConnectionResetError("the connection broke"))
        return len(found)

    def process_crashed(self, runtime: Process, silent: bool) -> None:
        """Drop what belonged to a process."""
        runtime.lost = silent
        for key in [key for key, listener in self._listeners.items() if listener.runtime is runtime]:
            del self._listeners[key]
        for transport in [t for t in self._transports if t.runtime is runtime]:
            transport.vanish(silent)

    # --- for transports ---

    def link(self, source: str, target: str) -> Link:
        """The link in force."""
        return self._links.get((source, target), self._default)

    def is_cut(self, source: str, target: str) -> bool:
        """Whether a partition holds what `source` sends to `target`."""
        return (source, target) in self._cut

    def delay(self, link: Link) -> float:
        """Draw a delay."""
        return self._rng.uniform(link.min_delay, link.max_delay)

    def chance(self, probability: float) -> bool:
        """Throw a loaded coin; no randomness is used up for 0."""
        return probability > 0 and self._rng.random() < probability

    def cut(self, data: bytes) -> list[bytes]:
        """Cut a write into segments, mostly one."""
        if len(data) < 2 or self._rng.random() < 0.7:
            return [data]
        place = self._rng.randrange(1, len(data))
        return [data[:place], data[place:]]

    def forget(self, transport: SimTransport) -> None:
        """An end is closed."""
        self._transports.pop(transport, None)

    # --- for runtimes ---

    def bind(self, runtime: Process, host: str, port: int, factory: Callable[[], StreamProtocol]) -> SimListener:
        """Listen. Raises OSError when the port is taken or the host is another's."""
        if host not in _OWN_HOST and host != runtime.name:
            raise OSError(f"{host} is no address of {runtime.name}")
        if port == 0:
            port = self._next_port.get(runtime.name, _FIRST_FREE_PORT)
            self._next_port[runtime.name] = port + 1
        if (runtime.name, port) in self._listeners:
            raise OSError(f"{runtime.name}:{port} is in use")
        listener = self._listeners[runtime.name, port] = SimListener(self, runtime, port, factory)
        return listener

    def unbind(self, listener: SimListener) -> None:
        """Stop listening."""
        key = (listener.runtime.name, listener.port)
        if self._listeners.get(key) is listener:
            del self._listeners[key]

    async def connect(
        self, runtime: Process, host: str, port: int, protocol: StreamProtocol, deadline: float
    ) -> SimTransport:
        """Connect `runtime` to `host:port`: one way there, one back."""
        name = runtime.name if host in _OWN_HOST else host
        if not self.world.knows(name):
            raise socket.gaierror(f"no host is called {host}")
        met: LoopFuture[SimListener | None] = LoopFuture()

        def answer(found: SimListener | None) -> None:
            if not met.done():
                met.set_result(found)

        def ask() -> None:
            self._travel(name, runtime, lambda: answer(self._listeners.get((name, port))), "connect back")

        target = self.world.process(name)
        if target.dead and not target.lost:  # the machine answers for its dead process
            self._travel(runtime.name, runtime, lambda: answer(None), "refused")
        else:
            self._travel(runtime.name, target, ask, "connect")
        listener = await runtime.wait(met, deadline)
        if listener is None or listener.runtime.dead:
            raise ConnectionRefusedError(f"{host}:{port} refused the connection")
        return self._join(runtime, listener, protocol, f"{host}:{port}")

    def _travel(self, source: str, target: Process, arrival: Callable[[], None], label: str) -> None:
        """Let a packet of a handshake travel; a partition swallows it, and the one who connects waits in vain."""
        if not self.is_cut(source, target.name):
            self.world.at(self.world.now + self.delay(self.link(source, target.name)), target, arrival, label)

    def _join(self, runtime: Process, listener: SimListener, protocol: Any, peer_name: str) -> SimTransport:
        near = SimTransport(self, runtime, protocol, peer_name)
        far = SimTransport(self, listener.runtime, listener.factory(), f"{runtime.name}:1")
        near.peer, far.peer = far, near
        self._transports[near] = self._transports[far] = None
        far.expect(lambda: None if far.closed else far.protocol.connection_made(far))
        far.runtime.ready.append(far.arrival)
        near.protocol.connection_made(near)
        return near
