"""The decision to go on without some texts, when all that is behind them waits for too long.

It calls nothing: ``embedding`` looks again and again, and acts.
"""

from collections.abc import Callable
from enum import Enum
from math import inf
from typing import Final, Protocol

from cdc_embed.errors import EmbedderUnavailableError
from cdc_embed.flow.patience import LONGEST_ASKED
from cdc_embed.flow.texts import Run

GO_ON_SECONDS: Final = 5.0
"""For so long whatever comes behind a text waits for it."""
ASK_SECONDS: Final = GO_ON_SECONDS / 2
"""After so long without progress a known-good text tells whether the service is well."""
OUTAGE_SECONDS: Final = 0.25
"""The same in an outage that lasts longer than that already."""

OthersWait = Callable[[], bool]
"""Returns whether something else than new texts waits."""


class OthersBehind(Protocol):
    """The same of what is behind a batch; in an outage, also whether something can wait there."""

    def __call__(self, *, outage: bool) -> bool: ...


def nothing_behind(*, outage: bool) -> bool:  # noqa: ARG001  the same at any time
    return False


class Answers:
    """The state of the service, as its answers to all batches tell it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.taken_at = -inf
        """When it last took a text."""
        self.away_since: float | None = None
        """When it failed first since then."""
        self._asked_at: float | None = None
        """When it was called first since then."""
        self._took_seconds = 0.0
        """The time that it took for its last texts."""
        self._pause: tuple[float, EmbedderUnavailableError] | None = None

    def asked(self) -> float:
        """Note that it is called; return when."""
        now = self._clock()
        if self._asked_at is None:
            self._asked_at = now
        return now

    def took(self, asked_at: float) -> None:
        """Note that it took the texts of a call that was made then."""
        self.taken_at, self.away_since = self._clock(), None
        self._asked_at, self._took_seconds = None, self.taken_at - asked_at

    @property
    def outage(self) -> bool:
        """It is called and takes nothing, for so long that it is not only slow."""
        most = max(GO_ON_SECONDS, 2 * self._took_seconds)
        return self._asked_at is not None and self._clock() - self._asked_at > most

    def failed(self, failure: EmbedderUnavailableError) -> None:
        """Note a failure that is waited out, and until when it asks not to be called."""
        self.away(0.0)
        if failure.retry_after:
            self._pause = self._clock() + min(failure.retry_after, LONGEST_ASKED), failure

    def away(self, seconds: float) -> None:
        """Note that it has taken nothing for so long."""
        if self.away_since is None:
            self.away_since = self._clock() - seconds

    def expect_no_pause(self) -> None:
        """Raise its last failure if it asked not to be called yet, whatever batch met that."""
        if self._pause is not None and (left := self._pause[0] - self._clock()) > 0:
            self._pause[1].retry_after = left
            raise self._pause[1]


class Step(Enum):
    WAIT = "wait on"
    ASK = "try a known-good text"
    LEAVE = "go on without the texts that are not settled"


class Waiting:
    """One batch's wait for its texts."""

    def __init__(self, run: Run, others_wait: OthersWait | None, now: float) -> None:
        """``others_wait``: None if nothing ever does; then a call that hangs is waited for."""
        self._run = run
        self._others_wait = others_wait
        self._began = self._progressed = now
        self._settled = 0
        self._asked = False
        self.away = True
        """The service has taken nothing since the wait began."""

    def look(self, now: float, answers: Answers) -> Step:
        """Return the next step."""
        self.away = answers.taken_at < self._began
        if self._run.settled > self._settled:
            self._settled, self._progressed, self._asked = self._run.settled, now, False
        if self._others_wait is None:
            if not self._run.failing:
                return Step.WAIT
        elif self._is_late(now, answers.away_since) and self._others_wait():
            return Step.LEAVE
        stalled, well = now - self._progressed, answers.taken_at > self._progressed
        if stalled > GO_ON_SECONDS and well:
            return Step.LEAVE
        if stalled > ASK_SECONDS and not (well or self._asked) and self._run.may_ask:
            self._asked = True
            return Step.ASK
        return Step.WAIT

    def _is_late(self, now: float, away_since: float | None) -> bool:
        began = self._began if away_since is None else min(self._began, away_since)
        return now - began > GO_ON_SECONDS and now - self._began > OUTAGE_SECONDS
