"""A look at each session that waits for an answer. Another session asks the server about it.

An answer can be lost. TCP notices a peer that vanished. It does not notice a peer whose kernel
acknowledges bytes that no process reads any more, such as a proxy or a tunnel whose other side is
gone, or a connection that a load balancer forgot. A statement can take hours, and so can a wait for
a lock, so no time limit tells a slow answer from a lost one. The server can. An answer can also be
too slow for others, who wait for its locks (``giving_way``).
"""

import time
from threading import Condition, Thread
from typing import Final, Protocol
from weakref import WeakKeyDictionary

LOOK_SECONDS: Final = 1.0


class WaitingSession(Protocol):
    """A session whose thread waits for a server's answer."""

    @property
    def look_seconds(self) -> float:
        """The seconds of a wait after which it is looked at, again and again."""

    @property
    def waiting_since(self) -> float | None:
        """The time at which the wait began, in monotonic seconds; None while there is no wait."""

    def look(self) -> None:
        """Look at the wait, and end it if it must end; called in a thread of its own."""


class Pulse:
    """One thread that watches every waiting session; it ends when no session waits."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._asked: WeakKeyDictionary[WaitingSession, float] = WeakKeyDictionary()
        """The time of the last check of each session, in monotonic seconds."""
        self._running = False

    def watch(self, watched: WaitingSession) -> None:
        """Watch the session from here on."""
        with self._changed:
            self._asked.setdefault(watched, 0.0)
            if not self._running:
                self._running = True
                Thread(target=self._run, name="pulse", daemon=True).start()

    def unwatch(self, watched: WaitingSession) -> None:
        """Stop watching the session; when none is watched the thread ends at once."""
        with self._changed:
            self._asked.pop(watched, None)
            if not self._asked:
                self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._asked, LOOK_SECONDS)
                if not self._asked:
                    self._running = False
                    return
                now = time.monotonic()
                waiting = [w for w, asked in self._asked.items() if _is_due(w, asked, now)]
                self._asked.update(dict.fromkeys(waiting, now))
            for watched in waiting:
                Thread(target=watched.look, name="pulse", daemon=True).start()


def _is_due(watched: WaitingSession, asked: float, now: float) -> bool:
    since = watched.waiting_since
    return since is not None and now - max(since, asked) > watched.look_seconds
