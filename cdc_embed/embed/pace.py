"""Limits of units a minute, requests or tokens, and the order in which calls wait for them."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition
from typing import Final

from cdc_embed.embed.base import CALL, Call, CalledOffError
from cdc_embed.errors import EmbedderUnavailableError

MINUTE: Final = 60.0
BURST_SECONDS: Final = 1.0
"""The seconds' worth that can be used at once, because services measure a minute in shorter
parts."""
LOOK_SECONDS: Final = 0.1
"""The time between two looks whether somebody still waits for a call."""
_NO_TIME: Final = 1e-7
"""The seconds that the sum of two floats can lack."""


@dataclass(slots=True, eq=False)
class Turn:
    """The place of one call in the order of all."""

    at: float
    units: int


class Pace:
    """Gives each call the time at which it can begin.

    No minute has more units than the limit, but for a single call that has more of them itself;
    and within the minute they are spread, except for one second's worth. 0 is no limit.
    """

    def __init__(self, per_minute: int) -> None:
        self._most = per_minute or math.inf
        self._seconds_per_unit = MINUTE / self._most
        self._free_at = -math.inf
        self._turns: deque[Turn] = deque()
        """The calls of the last minute."""
        self._units = 0

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._most < math.inf

    def first(self, units: int, now: float) -> float:
        """Return the first time, from ``now`` on, that has room for so many units."""
        if not self.limited:
            return now
        last = self._turns[-1].at if self._turns else now
        at, used = max(self._free_at, last, now), self._units
        for turn in self._turns:
            if turn.at > at - MINUTE and used + units <= self._most:
                break
            used -= turn.units
            at = max(at, turn.at + MINUTE)
        return at

    def reserve(self, units: int, now: float) -> Turn:
        """Reserve units; ``now`` in seconds, by any clock that only goes forward."""
        turn = Turn(self.first(units, now), units)
        if not self.limited:
            return turn
        while self._turns and self._turns[0].at <= turn.at - MINUTE:
            self._units -= self._turns.popleft().units
        begin = max(self._free_at, turn.at - BURST_SECONDS)
        self._free_at = begin + units * self._seconds_per_unit
        self._turns.append(turn)
        self._units += units
        return turn

    def correct(self, turn: Turn, units: int) -> None:
        """Correct the units of a call, once they are known."""
        more = units - turn.units
        turn.units += more
        self._free_at += more * self._seconds_per_unit
        if turn in self._turns:
            self._units += more


WaitForTurn = Callable[[Condition, float], object]
"""A function that waits until a condition is notified, at most for so many seconds."""


class Turns:
    """Makes the calls of several threads wait in one line, so that no minute has too many requests
    or tokens.

    A call uses up its requests and tokens when its wait ends, not when it begins. So a call that is
    given up while it waits uses none.
    """

    def __init__(
        self,
        requests_per_minute: int,
        tokens_per_minute: int,
        clock: Callable[[], float],
        wait: WaitForTurn = Condition.wait,
    ) -> None:
        self._requests = Pace(requests_per_minute)
        self._tokens = Pace(tokens_per_minute)
        self._clock = clock
        self._changed = Condition()
        self._wait = wait
        self._waiting: deque[object] = deque()
        self._closed = False

    @property
    def of_tokens(self) -> bool:
        """Whether tokens are limited, and must be counted."""
        return self._tokens.limited

    def take(self, tokens: int) -> Turn:
        """Wait until a call with so many tokens can be sent; raise CalledOffError if nobody waits
        for it any more."""
        call, place = CALL.get(), object()
        with self._changed:
            self._waiting.append(place)
            try:
                while (left := self._left(place, tokens)) > _NO_TIME:
                    self._hold(call, left)
                if call is not None:
                    call.sent_at = self._clock()
                self._requests.reserve(1, self._clock())
                return self._tokens.reserve(tokens, self._clock())
            finally:
                self._waiting.remove(place)
                self._changed.notify_all()
                if call is not None:
                    call.held = False

    def correct(self, turn: Turn, tokens: int) -> None:
        """Correct the tokens of a call, once they are known."""
        with self._changed:
            self._tokens.correct(turn, tokens)

    def close(self) -> None:
        """End every wait with ``EmbedderUnavailableError``."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _left(self, place: object, tokens: int) -> float:
        """Return the seconds before a call's turn comes, or before another look."""
        if self._waiting[0] is not place:
            return LOOK_SECONDS
        now = self._clock()
        return self._tokens.first(tokens, self._requests.first(1, now)) - now

    def _hold(self, call: Call | None, seconds: float) -> None:
        if self._closed:
            raise EmbedderUnavailableError(problem="the connection is closed")
        if call is not None:
            if call.over.is_set():
                raise CalledOffError
            call.held = True
        self._wait(self._changed, min(seconds, LOOK_SECONDS))
