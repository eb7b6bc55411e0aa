"""Waiting for what will come back: how long, and until when.

Retrying is a few lines here rather than a library's, because a wait must end at once when the
service stops, and must be visible while it lasts: readiness and ``status`` show it.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Final, TypeVar

from cdc_embed.errors import (
    CdcEmbedError,
    EmbedderUnavailableError,
    SourceUnavailableError,
    TargetUnavailableError,
)

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 30.0
PASSING: Final = (EmbedderUnavailableError, SourceUnavailableError, TargetUnavailableError)

T = TypeVar("T")


class AbandonedError(Exception):
    """The service stops and does not wait any longer; nothing of the batch was written."""


def delay(attempt: int, chance: float, asked: float | None = None) -> float:
    """Seconds before the next attempt: doubling, jittered by ``chance`` in [0, 1).

    What the other side asked for (Retry-After) is the least.
    """
    backoff = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempt, 16))
    return max(backoff * (0.5 + chance / 2), asked or 0.0)


@dataclass(slots=True)
class Trouble:
    """What is waited for right now; written by a worker, read by the loop and the web."""

    problem: str
    since: float
    """Monotonic seconds."""


class Patience:
    """Repeats an attempt until it succeeds, for as long as it takes, or until abandoned."""

    def __init__(self, abandon: Event, on_error: Callable[[str, CdcEmbedError], None]) -> None:
        self._abandon = abandon
        self._on_error = on_error
        self.troubles: dict[str, Trouble] = {}

    def keep_trying(self, stage: str, attempt: Callable[[], T]) -> T:
        """The result of ``attempt``; a passing error is waited out. Others are raised.

        Raises ``AbandonedError`` when the service stops first.
        """
        tries = 0
        try:
            while not self._abandon.is_set():
                try:
                    return attempt()
                except PASSING as exc:
                    self._on_error(stage, exc)
                    self.troubles.setdefault(stage, Trouble(str(exc), time.monotonic()))
                    asked = getattr(exc, "retry_after", None)
                    self._abandon.wait(delay(tries, random.random(), asked))
                    tries += 1
            raise AbandonedError
        finally:
            self.troubles.pop(stage, None)
