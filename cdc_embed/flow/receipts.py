"""The time since a change was received, by our own clock, whatever the source's clock says."""

from collections import deque
from typing import Final

from cdc_embed.change.event import Change, Event
from cdc_embed.lsn import LSN

STEP_SECONDS: Final = 0.25
"""The seconds within which received events share one mark."""


class Receipts:
    """The marks of received events, oldest first, each with its time and the end of its last
    event."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, LSN]] = deque()

    def mark(self, event: Event, now: float) -> None:
        """Note that an event was received at ``now``, in monotonic seconds."""
        end = event.position.commit_lsn if isinstance(event, Change) else event.end_lsn
        if self._marks and now - self._marks[-1][0] < STEP_SECONDS:
            now = self._marks.pop()[0]
        self._marks.append((now, end))

    def oldest(self, durable: LSN, *, idle: bool) -> float | None:
        """Return when the oldest event was received that is not reflected in the target."""
        if idle:
            self._marks.clear()
        while self._marks and self._marks[0][1] <= durable:
            self._marks.popleft()
        return self._marks[0][0] if self._marks else None
