"""The decision to go on without some texts, because the batches behind them wait for too long.

It calls nothing, because ``embedding`` looks again and again, and acts.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol

from cdc_embed.flow.answers import GO_ON_SECONDS, Answers
from cdc_embed.flow.texts import Run

ASK_SECONDS: Final = GO_ON_SECONDS / 2
"""The seconds without progress after which a known-good text tells whether the service is well."""
OUTAGE_SECONDS: Final = 0.25
"""The seconds without progress that suffice in an outage that lasts longer than that already."""

OthersWait = Callable[[], bool]
"""A function that returns whether something else than new texts waits."""


class OthersBehind(Protocol):
    """A function that returns whether something behind a batch waits for it. In an outage it also
    returns true if something can wait there."""

    def __call__(self, *, outage: bool) -> bool: ...


def nothing_behind(*, outage: bool) -> bool:  # noqa: ARG001  the same at any time
    return False


class Decision(Enum):
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
        """Whether the service took nothing since the wait began, or was not called."""
        self.held = False
        """Whether our own rate limit held its texts back."""

    def look(self, now: float, answers: Answers) -> Decision:
        """Return the next step."""
        self.away = answers.taken_at < self._began or self._run.held
        if self._run.settled > self._settled:
            self._settled, self._progressed, self._asked = self._run.settled, now, False
        if self._run.held:  # no sign of anything
            self._progressed, self.held = now, True
            answers.held_since = now if answers.held_since is None else answers.held_since
        if self._others_wait is None:
            if not self._run.failing:
                return Decision.WAIT
        elif self._is_late(now, answers) and self._others_wait():
            return Decision.LEAVE
        stalled = now - max(self._progressed, answers.back_at)
        well = answers.taken_at > self._progressed
        if stalled > GO_ON_SECONDS and well:
            return Decision.LEAVE
        needless = well or self._asked or answers.is_to_be_left_alone(now)
        if stalled > ASK_SECONDS and not needless:
            self._asked = True
            return Decision.ASK
        return Decision.WAIT

    def _is_late(self, now: float, answers: Answers) -> bool:
        held_since = answers.held_since if self._run.held else None
        known = [at for at in (answers.away_since, held_since) if at is not None]
        began = min([self._began, *known])
        return now - began > GO_ON_SECONDS and now - self._began > OUTAGE_SECONDS
