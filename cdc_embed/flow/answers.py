"""The state of the service, as its answers to all batches tell it, and when it is called next.

While it fails, one call at a time asks whether it is back, after delays that double. It is one for
all batches, the deferred rows and the rows that are read. The first success lets all of them call.
"""

from collections.abc import Callable, Sequence
from math import inf
from threading import Lock
from typing import Final

from cdc_embed.embed.base import Call
from cdc_embed.errors import EmbedderUnavailableError
from cdc_embed.flow.pauses import Pauses

GO_ON_SECONDS: Final = 5.0
"""The seconds for which whatever comes behind a text waits for it."""
DOUBLINGS: Final = 6
"""The delay between two calls of a service that fails grows up to 6 s, because one call for all
batches costs little, and a service that is back is soon used."""
TRYING_SECONDS: Final = 0.1
"""The time between two looks whether the call that asks for all is answered."""


class Answers:
    """Notes every answer, and says whether it is time for a call; for several threads."""

    def __init__(
        self, clock: Callable[[], float], delay: Callable[[int, float | None], float]
    ) -> None:
        """``delay``: seconds before a call, by the failures before, and the seconds asked for."""
        self._clock = clock
        self._delay = delay
        self._lock = Lock()
        self.taken_at = -inf
        """The time at which it last took a text, in seconds of the clock."""
        self.away_since: float | None = None
        """The time of its first failure since then; None if there is none."""
        self.back_at = -inf
        """The time at which its last outage ended."""
        self.held_since: float | None = None
        """The time since which our own rate limit holds every call back; None if it does not."""
        self._calls: set[Call] = set()
        """The calls that are not answered."""
        self._took_seconds = 0.0
        """The time that it took for its last texts."""
        self._failures = 0
        """The failures in a row; of calls at once, the first one."""
        self._failure: EmbedderUnavailableError | None = None
        """The last one."""
        self._failed_at = -inf
        self._call_at = -inf
        self._pauses = Pauses()
        self._trying = False
        """Whether a call asks for all whether it is back."""

    def is_to_be_left_alone(self, now: float) -> bool:
        """Return whether it wants to be called later."""
        return now < self._pauses.until

    @property
    def is_unproven(self) -> bool:
        """Whether nothing was taken since it wanted to be called later, so that the known-good text
        goes first."""
        return self._pauses.unproven

    def begin(self, call: Call) -> None:
        """Note that it is called."""
        call.sent_at = self._clock()
        self._calls.add(call)

    def end(self, call: Call) -> None:
        """Note that a call is over."""
        self._calls.discard(call)

    @property
    def sent(self) -> int:
        """The number of calls that are sent and not answered."""
        return sum(not call.held for call in list(self._calls))

    @property
    def held(self) -> bool:
        """Whether our own rate limit holds every call back."""
        calls = list(self._calls)
        return bool(calls) and all(call.held for call in calls)

    @property
    def outage(self) -> bool:
        """Whether it is called and takes nothing, for so long that it is not only slow; a wait for
        our own turn counts for nothing."""
        sent = [call.sent_at for call in list(self._calls) if not call.held]
        since = min([at for at in sent if at >= self.taken_at], default=inf)
        if self.away_since is not None:
            since = min(since, self.away_since)
        now = self._failed_at if self.held else self._clock()
        return now - since > max(GO_ON_SECONDS, 2 * self._took_seconds)

    def took(self, asked_at: float, texts: Sequence[str] = ()) -> None:
        """Note that it took the texts of a call that was made then."""
        with self._lock:
            self.taken_at = self._clock()
            self._took_seconds = self.taken_at - asked_at
            self._pauses.took(texts, asked_at)
            self._failures, self._call_at, self._trying = 0, self._pauses.until, False
            if self.taken_at < self._pauses.until:
                return  # that call is older than the pause
            since = self.away_since
            if since is not None and self.taken_at - since > GO_ON_SECONDS:
                self.back_at = self.taken_at
            self.away_since = None

    def mark_failed(
        self, failure: EmbedderUnavailableError, began: float, texts: Sequence[str] = ()
    ) -> None:
        """Note a failure that is waited out, of a call that began then; if it asks for time, decide
        whether all are to wait, or those texts alone."""
        with self._lock:
            now = self._clock()
            since = min(began, now) if self.away_since is None else self.away_since
            self._pauses.ask(failure, texts, now=now, taken_at=self.taken_at, away_since=since)
            self.away_since = since
            if began < self._failed_at and not failure.retry_after:
                return  # it was under way together with one that failed
            self._failures += 1
            self._failure, self._failed_at, self._trying = failure, now, False
            self._call_at = max(self._pauses.until, now + self._next_delay())

    def refused(self) -> None:
        """Note that it refused a text, so it is not away, but nothing is taken yet."""
        with self._lock:
            self._call_at, self._trying = self._pauses.until, False

    def expect_time(self) -> None:
        """Raise its last failure, with the seconds to wait, if it is not time for a call."""
        with self._lock:
            now = self._clock()
            left = self._call_at - now
            if self._failure is not None and left > 0:
                seconds = min(left, TRYING_SECONDS) if self._trying else left
                raise self._failure.at_another_time(seconds)
            if self._failure is not None and self._trying and self.held:  # and is not sent yet
                raise self._failure.at_another_time(TRYING_SECONDS)
            if self._failures:
                self._failures += self._trying  # the call before is not answered
                self._trying = True
                self._call_at = now + max(GO_ON_SECONDS, self._next_delay())

    def not_sent(self) -> None:
        """Note that a call, for which it was time, was called off."""
        with self._lock:
            if self._trying:
                self._call_at, self._trying = self._clock(), False

    def _next_delay(self) -> float:
        return self._delay(min(self._failures - 1, DOUBLINGS), None)
