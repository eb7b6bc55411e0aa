"""A TCP proxy whose network fails on command, in the ways in which real ones do.

Four failures, because different things notice them:

- ``cut``: both ends get an RST at once, or only the client where the connection is held;
- ``stall``: a frozen peer, or a load balancer whose other side is gone: the sockets stay open and
  every byte is acknowledged, so TCP sees nothing wrong, but nothing is passed on;
- ``vanish``: a pulled cable: nothing is acknowledged, no FIN, no RST, no answer to a SYN. A socket
  filter that drops every segment does it in the kernel, for any user;
- ``refuse``: nobody listens.

``resume`` ends all of them; what was held back is delivered then, as the network would. With
``strand`` the connections that exist stall or vanish for ever, and new ones are as good as any.
"""

import ctypes
import select
import socket
import struct
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Final, Self
from urllib.parse import urlsplit, urlunsplit

CHUNK: Final = 1 << 16
BEGINNING: Final = 2048
SO_ATTACH_FILTER: Final = 26
SO_DETACH_FILTER: Final = 27
_DROP_ALL: Final = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # BPF: return 0
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: closing sends an RST."""


@dataclass(eq=False)
class _Way:
    """One direction of a connection; what was read and is not passed on yet."""

    source: socket.socket
    sink: socket.socket
    pending: bytearray = field(default_factory=bytearray)
    ended: bool = False
    held: bool = False


@dataclass(eq=False)
class _Link:
    """One connection through the proxy."""

    up: _Way
    down: _Way
    beginning: bytearray = field(default_factory=bytearray)
    """The first bytes of the client, with its ``application_name``."""
    sent: bytearray = field(default_factory=bytearray)
    """The bytes of the client since the last step towards the place to stall at."""
    step: int = 0
    stranded: bool = False

    @property
    def ways(self) -> tuple[_Way, _Way]:
        return self.up, self.down

    @property
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        return self.up.source, self.up.sink


@dataclass
class _Place:
    """The place to stall at: the client's name, and the bytes sent before, in this order."""

    name: bytes
    steps: tuple[bytes, ...]
    lost: bool
    reached: Event = field(default_factory=Event)


class TcpProxy:
    """Forwards a free port of 127.0.0.1 to another one. One thread owns every socket."""

    def __init__(self, port: int) -> None:
        self._upstream = ("127.0.0.1", port)
        self._listener: socket.socket | None = None
        self.port = 0
        self._links: list[_Link] = []
        self._kept: list[socket.socket] = []
        """Ends of servers that have not heard that their client is gone."""
        self._accepting = True
        self._holding = (False, False)
        self._place: _Place | None = None
        self._calls: SimpleQueue[tuple[Callable[[], None], Future[None]]] = SimpleQueue()
        self._wake, self._waker = socket.socketpair()
        self._closed = False
        self._listen()
        self._thread = Thread(target=self._run, name="tcp proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close)
        self._thread.join(10)
        self._wake.close()
        self._waker.close()

    def dsn(self, dsn: str, **parameters: object) -> str:
        """The same database through this proxy; ``parameters`` are libpq's."""
        parts = urlsplit(dsn)
        netloc = f"{parts.username}@127.0.0.1:{self.port}"
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return urlunsplit(parts._replace(netloc=netloc, query=query))

    # -- failures ------------------------------------------------------------------------------

    def cut(self, *, unheard: bool = False) -> None:
        """Reset every connection; new ones are let through.

        With ``unheard`` the server of a connection that is held for ever does not hear of it until
        the network is back: it goes on with what it was told, as if its client still waited.
        """
        self._do(lambda: self._cut(unheard=unheard))

    def lead_to(self, port: int) -> None:
        """Lead to another server from now on; reset every connection."""
        self._upstream = (self._upstream[0], port)
        self.cut()

    def refuse(self) -> None:
        """Reset every connection, and refuse new ones."""
        self._do(self._refuse)

    def stall(self, *, up: bool = True, down: bool = True) -> None:
        """Pass nothing on in these directions, and accept nobody; everything stays open."""
        self._do(lambda: self._stall(up, down))

    def stall_at(self, name: bytes, *steps: bytes, lost: bool = False) -> Event:
        """Stall the one connection that began with ``name`` once these were sent, in this order.

        With ``lost`` the last one does not arrive any more, else its answer does not.
        The event says that it happened.
        """
        place = _Place(name, steps, lost)
        self._do(lambda: self._expect(place))
        return place.reached

    def strand(self, *, silently: bool = False) -> None:
        """The connections that exist stall for ever, or vanish ``silently``; new ones pass."""
        self._do(lambda: self._strand(silently))

    def vanish(self) -> None:
        """Nothing that is sent to this address is acknowledged any more."""
        self._do(self._vanish)

    def resume(self) -> None:
        """The network is back, with what it held back."""
        self._do(self._resume)

    @property
    def connections(self) -> int:
        return len(self._links)

    def unanswered(self) -> int:
        """Count the connections whose client sent something that is held back."""
        found: list[Any] = []
        self._do(lambda: found.extend(self._held_back()))
        return len(found)

    # -- the same, in the thread that owns the sockets -----------------------------------------

    def _cut(self, *, unheard: bool = False) -> None:
        for link in list(self._links):
            self._drop(link, reset=True, unheard=unheard and link.stranded)

    def _forget(self) -> None:
        for end in self._kept:
            _reset(end)
        self._kept.clear()

    def _refuse(self) -> None:
        self._cut()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _stall(self, up: bool, down: bool) -> None:
        self._accepting = False
        self._holding = (up, down)
        for link in self._links:
            link.up.held, link.down.held = up, down

    def _expect(self, place: _Place) -> None:
        self._place = place
        for link in self._links:
            link.sent.clear()
            link.step = 0

    def _strand(self, silently: bool) -> None:
        for link in self._links:
            link.stranded = link.up.held = link.down.held = True
            if silently:
                for end in link.sockets:
                    _drop_segments(end)

    def _vanish(self) -> None:
        self._stall(True, True)
        for end in self._ends():
            _drop_segments(end)

    def _resume(self) -> None:
        self._forget()
        if self._listener is None:
            self._listen()
        for end in self._ends():
            if not any(link.stranded and end in link.sockets for link in self._links):
                _let_segments_pass(end)
        self._accepting = True
        self._holding = (False, False)
        for link in self._links:
            link.up.held = link.down.held = link.stranded

    def _close(self) -> None:
        self._refuse()
        self._forget()
        self._closed = True

    def _held_back(self) -> list[socket.socket]:
        clients = [link.up.source for link in self._links if link.up.held]
        return select.select(clients, [], [], 0)[0]

    # -- forwarding ----------------------------------------------------------------------------

    def _do(self, call: Callable[[], None]) -> None:
        done: Future[None] = Future()
        self._calls.put((call, done))
        self._waker.send(b"\0")
        done.result(10)

    def _run(self) -> None:
        while not self._closed:
            ways = [way for link in self._links for way in link.ways if not way.held]
            reading: list[Any] = [self._wake]
            reading += [way.source for way in ways if not way.pending and not way.ended]
            if self._accepting and self._listener is not None:
                reading.append(self._listener)
            writing = [way.sink for way in ways if way.pending]
            readable, writable, _ = select.select(reading, writing, [])
            if self._listener in readable:
                self._accept()
            for link in list(self._links):
                self._forward(link, readable, writable)
            if self._wake in readable:
                self._wake.recv(1)
                call, done = self._calls.get()
                call()
                done.set_result(None)

    def _accept(self) -> None:
        assert self._listener is not None
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(self._upstream)
        except OSError:
            _reset(client)
            return
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links.append(_Link(_Way(client, server), _Way(server, client)))

    def _forward(self, link: _Link, readable: list[Any], writable: list[Any]) -> None:
        try:
            for way in link.ways:
                if way.source in readable and not way.held:
                    data = way.source.recv(CHUNK)
                    way.pending += data
                    way.ended = not data
                    if way is link.up:
                        self._follow(link, data)
                if way.pending and way.sink in writable and not way.held:
                    del way.pending[: way.sink.send(way.pending)]
            if any(way.ended and not way.pending and not way.held for way in link.ways):
                self._drop(link)
        except OSError:
            self._drop(link, reset=True)

    def _follow(self, link: _Link, data: bytes) -> None:
        if len(link.beginning) < BEGINNING:
            link.beginning += data
        place = self._place
        if place is None or place.name not in link.beginning:
            return
        link.sent += data
        while link.step < len(place.steps):
            step = place.steps[link.step]
            at = link.sent.find(step)
            if at < 0:
                return
            del link.sent[: at + len(step)]
            link.step += 1
        if not place.lost:
            link.up.sink.sendall(link.up.pending)
            link.up.pending.clear()
        link.stranded = link.up.held = link.down.held = True
        self._place = None
        place.reached.set()

    def _drop(self, link: _Link, *, reset: bool = False, unheard: bool = False) -> None:
        self._links.remove(link)
        client, server = link.sockets
        if unheard:
            self._kept.append(server)
        for end in (client,) if unheard else (client, server):
            if reset:
                _reset(end)
            else:
                end.close()

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]

    def _ends(self) -> list[socket.socket]:
        ends = [end for link in self._links for end in link.sockets]
        return ends if self._listener is None else [*ends, self._listener]


def _reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    end.close()


def _drop_segments(end: socket.socket) -> None:
    program = struct.pack("HL", 1, ctypes.addressof(_DROP_ALL))
    end.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def _let_segments_pass(end: socket.socket) -> None:
    try:
        end.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    except FileNotFoundError:  # it has none
        return
