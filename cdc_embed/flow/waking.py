"""A sleep that a socket, another thread or a signal handler ends."""

import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from cdc_embed.postgres.connect import readable

MOST_WAKES: Final = 4096
"""The number of wakes that are taken in at once."""


class Waker:
    """Ends its owner's sleep from any thread, and from a signal handler."""

    def __init__(self) -> None:
        self._heard, self._bell = socket.socketpair()
        self._heard.setblocking(False)
        self._bell.setblocking(False)

    def wake(self) -> None:
        with suppress(OSError):  # full, so it is awake anyway; or closed, and nobody waits
            self._bell.send(b"\0")

    def sleep(self, readers: Iterable[Any], seconds: float) -> list[Any]:
        """Wait for one of ``readers``, for ``wake`` or for the time; return the readable ones."""
        ready = readable([self._heard, *readers], seconds)
        if self._heard in ready:
            ready.remove(self._heard)
            while self._hears():
                pass
        return ready

    def _hears(self) -> bool:
        try:
            return len(self._heard.recv(MOST_WAKES)) == MOST_WAKES
        except BlockingIOError:
            return False

    def close(self) -> None:
        self._heard.close()
        self._bell.close()
