"""The connections to a service. Each request has one for itself, and ends in time, whatever comes.

A client's own time limits are of each read. An answer that comes in drops, or with a blank now and
then (proxies send such heartbeats), would last for ever. So a thread shuts what is late.
"""

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import Condition, Lock, Thread
from time import monotonic
from typing import Any, Final
from weakref import WeakSet

import httpx2

from cdc_embed.errors import UnusableAnswerError

LARGEST_VECTOR: Final = 1 << 20
"""The bytes of one vector in an answer, and of what is around all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request to the service, and the bounds of its answer."""

    url: httpx2.URL
    body: bytes | None = None
    """The body that is posted; None if the page is asked for."""
    headers: Mapping[str, str]
    seconds: float
    """The seconds from the first byte that is sent to the last one that comes."""
    vectors: int = 0
    """The number of vectors that the answer holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    """The headers; their names in any case."""
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_redirect(self) -> bool:
        return 300 <= self.status < 400


class HttpConnections:
    """The connections of several threads, as many as there are requests at once."""

    def __init__(self, make: Callable[[], httpx2.Client]) -> None:
        """``make``: makes a client; the first one is made here, with the errors that it raises."""
        self._make = make
        self._lock = Lock()
        self._deadlines = _Deadlines()
        self._free = [_HttpConnection(make(), self._deadlines)]
        self._made = list(self._free)
        self._closed = False

    def send(self, request: HttpRequest) -> Reply:
        """Return the answer; raise ``httpx2.RequestError`` if none came in time, RuntimeError if
        they are closed, and UnusableAnswerError for an answer without end."""
        connection = self._next_free()
        try:
            return connection.send(request)
        finally:
            with self._lock:
                self._free.append(connection)

    def close(self) -> None:
        """Close all; a request that waits for its answer ends at once."""
        with self._lock:
            self._closed = True
        for connection in self._made:
            connection.close()

    def _next_free(self) -> "_HttpConnection":
        with self._lock:
            if self._closed:
                raise RuntimeError("its connections are closed")
            if self._free:
                return self._free.pop()
            made = _HttpConnection(self._make(), self._deadlines)
            self._made.append(made)
            return made


class _HttpConnection:
    """One request after the other."""

    def __init__(self, client: httpx2.Client, deadlines: "_Deadlines") -> None:
        self._client = client
        self._deadlines = deadlines
        self._lock = Lock()
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._sent = False
        """Whether the request was sent, so that its texts can be why no answer comes."""
        self._late = False
        self._closed = False

    def send(self, request: HttpRequest) -> Reply:
        self._sent = self._late = False
        self._deadlines.begin(self, request.seconds)
        try:
            return self._exchange(request)
        except httpx2.RequestError as exc:
            if not self._late:
                raise
            late = httpx2.ReadTimeout if self._sent else httpx2.ConnectTimeout
            raise late(f"timed out: no whole answer within {request.seconds:g} s") from exc
        finally:
            self._deadlines.end(self)

    def give_up(self) -> None:
        """End the request under way, because it is late."""
        with self._lock:
            self._late = True
            self._shut()

    def close(self) -> None:
        """Shut the sockets, because closing a client does not wake the thread that reads from
        it."""
        with self._lock:
            self._closed = True
            self._shut()
        self._client.close()

    def _exchange(self, request: HttpRequest) -> Reply:
        most = (request.vectors + 1) * LARGEST_VECTOR
        with self._client.stream(
            "GET" if request.body is None else "POST",
            request.url,
            content=request.body,
            headers=request.headers,
            timeout=request.seconds,
            extensions={"trace": self._watch},
        ) as response:
            content = bytearray()
            for part in response.iter_bytes():
                content += part
                if len(content) > most:
                    problem = f"its answer has more than {most >> 20} MB"
                    raise UnusableAnswerError(problem=problem)
        return Reply(status=response.status_code, headers=response.headers, content=bytes(content))

    def _watch(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("send_request_headers.started"):
            self._sent = True
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            with self._lock:
                self._sockets.add(info["return_value"].get_extra_info("socket"))
                if self._closed or self._late:
                    self._shut()

    def _shut(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)


class _Deadlines:
    """The times by which requests must be answered, and one thread that ends those that are not.

    A thread for each request would take longer than a short call. This one looks when the first
    that it knew of is due, and ends if there is none.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._due: dict[_HttpConnection, float] = {}
        self._looks_at: float | None = None
        """The time of the next look; None without a thread."""

    def begin(self, connection: _HttpConnection, seconds: float) -> None:
        """Have the connection's request end in so many seconds, unless it is over by then."""
        with self._changed:
            self._due[connection] = due = monotonic() + seconds
            if self._looks_at is None:
                self._looks_at = due
                Thread(target=self._watch, name="embed-deadlines", daemon=True).start()
            elif due < self._looks_at:
                self._changed.notify()

    def end(self, connection: _HttpConnection) -> None:
        """Forget a request that is over."""
        with self._changed:
            self._due.pop(connection, None)

    def _watch(self) -> None:
        with self._changed:
            while self._due:
                now = monotonic()
                for connection in [each for each, due in self._due.items() if due <= now]:
                    del self._due[connection]
                    connection.give_up()
                self._looks_at = min(self._due.values(), default=now)
                self._changed.wait(self._looks_at - now)
            self._looks_at = None
