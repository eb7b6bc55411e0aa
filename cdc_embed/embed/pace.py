"""A limit of units a minute: requests, or tokens. Numbers alone: the caller has the clock."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

MINUTE: Final = 60.0
BURST_SECONDS: Final = 1.0
"""A second's worth can be used at once: services measure a minute in shorter parts."""


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

    def reserve(self, units: int, now: float) -> Turn:
        """Reserve units; ``now`` in seconds, by any clock that only goes forward."""
        if not self.limited:
            return Turn(now, units)
        last = self._turns[-1].at if self._turns else now
        turn = Turn(max(self._free_at, last, now), units)
        while self._turns and (
            self._turns[0].at <= turn.at - MINUTE or self._units + units > self._most
        ):
            first = self._turns.popleft()
            self._units -= first.units
            turn.at = max(turn.at, first.at + MINUTE)
        begin = max(self._free_at, turn.at - BURST_SECONDS)
        self._free_at = begin + units * self._seconds_per_unit
        self._turns.append(turn)
        self._units += units
        return turn

    def correct(self, turn: Turn, units: int) -> None:
        """Note that a call had so many units in truth."""
        more = units - turn.units
        turn.units += more
        self._free_at += more * self._seconds_per_unit
        if turn in self._turns:
            self._units += more
