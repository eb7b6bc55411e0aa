"""Connections of the web side, bounded in number and in idle time.

Whoever can reach the port could otherwise take every descriptor of the process.
"""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS: Final = 100
"""The connections at a time; one more takes the place of the one that has been idle for longest."""
BACKLOG: Final = 64
"""The connections that are accepted together."""


class LimitedProtocol(H11Protocol):
    """A connection that is closed when it is idle for long, or when others need its place."""

    idle_seconds: float
    """The time that it has to make a request."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._used_at = self.loop.time()

    @property
    def _idle(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, in the place of the one that has been idle for longest."""
        if len(self.connections) >= MOST_CONNECTIONS:
            self._make_room()
        super().connection_made(transport)
        self.loop.call_later(self.idle_seconds, self._close_if_idle)

    def on_response_complete(self) -> None:
        """Let the idle time begin anew."""
        self._used_at = self.loop.time()
        super().on_response_complete()

    def _make_room(self) -> None:
        others = [one for one in self.connections if isinstance(one, LimitedProtocol) and one._idle]
        if others:
            oldest = min(others, key=lambda one: one._used_at)
            self.connections.discard(oldest)
            oldest.transport.abort()

    def _close_if_idle(self) -> None:
        if self.transport.is_closing():
            return
        left = self._used_at + self.idle_seconds - self.loop.time()
        if self._idle and left <= 0:
            self.transport.abort()
        else:
            self.loop.call_later(max(left, 1.0), self._close_if_idle)


def limited_to(idle_seconds: float) -> type[LimitedProtocol]:
    """Return the protocol of connections that have so long to make a request."""
    return type("Limited", (LimitedProtocol,), {"idle_seconds": idle_seconds})
