"""The connections that ended, counted for the delay before the next one, and for a position at
which all end.

Only what became durable counts as progress, because a connection that ends as soon as it is made
would otherwise be made again at once, for ever.
"""

from dataclasses import dataclass
from typing import Final

from cdc_embed.errors import FencedError, SlotBusyError, TargetUnavailableError
from cdc_embed.lsn import LSN

MOST_FAILURES: Final = 3
"""The connections that can end at one position before that counts as unready."""
LONGEST_SECONDS: Final = 30.0
"""The seconds after which it counts so, if there were fewer."""
LASTING_SECONDS: Final = 10.0
"""The seconds that a good connection lasts, though idle, once it has reached the end of the log."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """Connections that end again and again before anything becomes durable."""

    position: LSN
    times: int
    problem: str
    way_out: str

    def __str__(self) -> str:
        return f"the stream ended {self.times} times at {self.position}; {self.way_out}"


class Failures:
    """The failures in a row, of any kind for the delay, at one position for readiness."""

    def __init__(self) -> None:
        self.attempt = 0
        """The failures since the last progress."""
        self._times = 0
        self._since = 0.0
        self._last = Stuck(LSN(0), 0, "", "")

    def forget(self) -> None:
        """Note progress, so that the next failure is the first one."""
        self.attempt = self._times = 0

    def streaming_failed(self, position: LSN, problem: str, way_out: str, now: float) -> None:
        """Note that the stream ended at a position; ``now`` in monotonic seconds."""
        if not self._times:
            self._since = now
        self._times += 1
        self._last = Stuck(position, self._times, problem, way_out)

    def stuck(self, now: float) -> Stuck | None:
        """Return the place at which connections end; None while that can still be an outage."""
        long = self._times > 1 and now - self._since > LONGEST_SECONDS
        if self._times < MOST_FAILURES and not long:
            return None
        return self._last


def reason_of(error: Exception) -> str:
    """Return the word of a lost connection's reason, for the metrics and the log."""
    if isinstance(error, FencedError | SlotBusyError):
        return "slot"
    if isinstance(error, TargetUnavailableError):
        return "target"
    return "connection"
