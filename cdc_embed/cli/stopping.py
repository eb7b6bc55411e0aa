"""SIGTERM and SIGINT, received in a thread of their own, because the main one can wait in the
driver.

The first signal lets the service drain; a service that only starts has nothing to drain, and the
process ends. A second signal, or the end of the drain timeout, ends the process even if a server
does not answer or a model computes. Nothing is lost by that, some changes are replayed.
"""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread, Timer
from typing import Final

import structlog

from cdc_embed.cli.context import INTERRUPTED
from cdc_embed.service import Service

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
LEEWAY_SECONDS: Final = 3.0
"""The time for the steps after the drain: to record, confirm and close."""
AT_ONCE_SECONDS: Final = 1.0

log = structlog.get_logger()


class Stopping:
    """The service that a signal stops, if one runs."""

    def __init__(self, drain_timeout: float) -> None:
        self._drain_timeout = drain_timeout
        self._service: Service | None = None
        self._received = 0
        self.exit_code = 0
        """The exit code that the first signal asks for."""

    @contextmanager
    def drains(self, service: Service) -> Iterator[None]:
        """Let a signal drain this service while the context lasts."""
        self._service = service
        try:
            yield
        finally:
            if not self._received:
                self._service = None

    @property
    def heard(self) -> bool:
        """Whether a signal was received."""
        return self._received > 0

    def on_signal(self, number: int) -> None:
        """Stop the service: gently at the first signal, at once at the second."""
        if not self._received and number == signal.SIGINT:
            self.exit_code = INTERRUPTED
        self._received += 1
        if self._service is None or not self._service.begun:
            os._exit(self.exit_code)
        if self._received == 1:
            self._service.stop()
            self._end_after(self._drain_timeout + LEEWAY_SECONDS)
        else:
            self._service.stop_now()
            self._end_after(AT_ONCE_SECONDS)

    def _end_after(self, seconds: float) -> None:
        timer = Timer(seconds, _end, [self.exit_code])
        timer.daemon = True
        timer.start()


@contextmanager
def signals(drain_timeout: float) -> Iterator[Stopping]:
    """Receive the signals while the context lasts."""
    stopping = Stopping(drain_timeout)
    hear, tell = socket.socketpair()
    tell.setblocking(False)

    def listen() -> None:
        while number := hear.recv(1):
            if number[0] in SIGNALS:
                stopping.on_signal(number[0])

    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    waker = signal.set_wakeup_fd(tell.fileno())
    thread = Thread(target=listen, name="signals", daemon=True)
    thread.start()
    try:
        yield stopping
    finally:
        signal.set_wakeup_fd(waker)
        for number, handler in before.items():
            # a second one must not change the exit code while the interpreter ends
            signal.signal(number, signal.SIG_IGN if stopping.heard else handler)
        tell.close()
        thread.join()
        hear.close()


def _end(exit_code: int) -> None:
    log.warning("ended before all was finished", hint="it is replayed at the next start")
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(exit_code)
