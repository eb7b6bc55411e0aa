"""The wait for a service or database that will come back.

Retrying is a few lines here rather than a library's, because a wait must end at once when the
service stops, and must be visible while it lasts, because readiness and ``status`` show it.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Final, TypeVar

from cdc_embed.embed.base import CALL, Call
from cdc_embed.errors import (
    CdcEmbedError,
    EmbedderUnavailableError,
    SourceUnavailableError,
    TargetUnavailableError,
)

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 30.0
MOST_DOUBLINGS: Final = 16
LONGEST_ASKED: Final = 600.0
"""The longest pause that a service is given, in seconds, because it can name a far day in error."""
SLOW_SECONDS: Final = 30.0
"""The seconds after which an attempt seems to wait for somebody (a lock, a server that hangs)."""
PASSING: Final = (EmbedderUnavailableError, SourceUnavailableError, TargetUnavailableError)

T = TypeVar("T")


class AbandonedError(Exception):
    """The service stops and waits no longer; nothing of the batch was written."""


def delay(attempt: int, chance: float, asked: float | None = None) -> float:
    """Return the seconds before the next attempt, doubling, jittered by ``chance`` in [0, 1).

    What the other side asked for (Retry-After) is the least, within reason.
    """
    backoff = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempt, MOST_DOUBLINGS))
    return max(backoff * (0.5 + chance / 2), min(asked or 0.0, LONGEST_ASKED))


Delay = Callable[[int, float, float | None], float]
"""The seconds before an attempt, by its number, a chance in [0, 1), and the seconds asked for."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A failure or silence that is being waited out."""

    problem: str
    since: float
    """The time at which it began, in monotonic seconds."""
    lasts: bool = False
    """Whether no short while mends it, so that it is told at once."""


@dataclass(slots=True, eq=False)
class _Wait:
    """A call that is not done yet."""

    stage: str
    began: float
    over: Event | None = None
    call: Call | None = None
    """The calls of its thread; one that our own rate limit holds back waits for nobody."""
    trouble: Trouble | None = None

    def seen_at(self, now: float) -> Trouble | None:
        if self.over is not None and self.over.is_set():
            return None
        began = self.began
        if self.call is not None:
            began = now if self.call.held else max(began, self.call.sent_at)
        if self.trouble is None and now - began > SLOW_SECONDS:
            return Trouble(f"no answer for {now - began:.0f} s", began + SLOW_SECONDS)
        return self.trouble


class Patience:
    """Repeats an attempt until it succeeds, for as long as it takes, or until abandoned.

    Several workers can wait for the same stage. If one succeeds, the others can still fail.
    """

    def __init__(
        self,
        abandon: Event,
        on_error: Callable[[str, CdcEmbedError], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        delay: Delay = delay,
        wait: Callable[[Event, float], object] = lambda event, seconds: event.wait(seconds),
    ) -> None:
        self._abandon = abandon
        self._on_error = on_error
        self._clock = clock
        self._delay = delay
        self._wait = wait
        self._waits: list[_Wait] = []

    @property
    def troubles(self) -> dict[str, Trouble]:
        """The longest wait of each stage; from any thread."""
        now = self._clock()
        found: dict[str, Trouble] = {}
        for wait in list(self._waits):
            trouble = wait.seen_at(now)
            if trouble is not None and trouble.since <= found.get(wait.stage, trouble).since:
                found[wait.stage] = trouble
        return found

    @property
    def abandoned(self) -> bool:
        """Whether the service stops, so that nothing is waited for any more."""
        return self._abandon.is_set()

    def delay(self, tries: int, asked: float | None = None) -> float:
        """Return the seconds before an attempt that comes after so many."""
        return self._delay(tries, random.random(), asked)

    def keep_trying(
        self,
        stage: str,
        attempt: Callable[[], T],
        over: Event | None = None,
        *,
        doublings: int = MOST_DOUBLINGS,
    ) -> T:
        """Return the result of ``attempt``; wait out a passing error, raise any other.

        After ``over`` is set, nobody waits for the result, so a passing error is raised, too. The
        delay doubles so often at the most. Raises ``AbandonedError`` when the service stops first.
        """
        tries = 0
        wait = _Wait(stage, self._clock(), over, CALL.get())
        self._waits.append(wait)
        try:
            while not self._abandon.is_set():
                try:
                    return attempt()
                except PASSING as exc:
                    untried = getattr(exc, "untried", False)
                    if not untried:
                        self._on_error(stage, exc)
                    since = wait.trouble.since if wait.trouble else self._clock()
                    wait.trouble = Trouble(str(exc), since, getattr(exc, "lasts", False))
                    asked = getattr(exc, "retry_after", None)
                    self._wait(over or self._abandon, self.delay(0 if untried else tries, asked))
                    if over is not None and over.is_set():
                        raise
                    tries = tries if untried else min(tries + 1, doublings)
            raise AbandonedError
        finally:
            self._waits.remove(wait)
