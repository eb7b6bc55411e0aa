"""The stop of a service: requested once, with a time limit, or at once."""

import math
import time
from threading import Event


class Stop:
    """A request to stop, from any thread, and the time that it leaves."""

    def __init__(self, drain_timeout: float) -> None:
        self._drain_timeout = drain_timeout
        self._deadline = math.inf
        self._now = Event()
        self.requested = Event()
        """An event that is set when the service must end."""
        self.abandon = Event()
        """An event that is set while nothing may wait any longer, so that retries and repeated
        reads end."""

    def request(self) -> None:
        """Let batches in flight be committed, for as long as the drain timeout."""
        self._deadline = min(self._deadline, time.monotonic() + self._drain_timeout)
        self.requested.set()

    def request_now(self) -> None:
        """Wait for nothing, because changes in flight are replayed at the next start."""
        self._now.set()
        self.abandon.set()
        self.request()

    @property
    def overdue(self) -> bool:
        """Whether the time to finish batches in flight is over."""
        if self._now.is_set():
            return True
        return self.requested.is_set() and time.monotonic() > self._deadline

    def allow_waiting(self) -> None:
        """Let retries wait again, for the next connection, unless the stop is to be at once."""
        if not self._now.is_set():
            self.abandon.clear()
