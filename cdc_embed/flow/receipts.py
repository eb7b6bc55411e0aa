"""The time since a change was received, by our own clock, whatever the source's clock says."""

from collections import deque
from typing import Final

from cdc_embed.change.event import Change, Event
from cdc_embed.flow.telemetry import Oldest
from cdc_embed.lsn import LSN
from cdc_embed.wire.messages import Begin

STEP_SECONDS: Final = 0.25
"""The seconds within which received events share one mark."""


class Receipts:
    """The marks of received events, oldest first, each with its time and the end of its last
    event."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, LSN]] = deque()
        self._opened: tuple[Begin, float] | None = None
        """The transaction that is being delivered, and when its Begin was received."""

    def mark(self, event: Event, now: float) -> None:
        """Note that an event was received at ``now``, in monotonic seconds."""
        end = event.position.commit_lsn if isinstance(event, Change) else event.end_lsn
        if self._marks and now - self._marks[-1][0] < STEP_SECONDS:
            now = self._marks.pop()[0]
        self._marks.append((now, end))

    def mark_open(self, begin: Begin | None, now: float) -> None:
        """Note which transaction is being delivered at ``now``; None: none is."""
        if begin is None:
            self._opened = None
        elif self._opened is None or self._opened[0] is not begin:
            self._opened = begin, now

    def oldest(self, durable: LSN, committed_at: float | None, now: float) -> Oldest | None:
        """Return the oldest commit that is not reflected in the target; None when there is none.

        ``committed_at``: the Unix time of the oldest commit that is pending or in flight, if any.
        """
        while self._marks and self._marks[0][1] <= durable:
            self._marks.popleft()
        if committed_at is not None:
            return Oldest(committed_at, self._marks[0][0] if self._marks else now)
        if self._opened is None:
            return None
        begin, received_at = self._opened  # reading on can have to wait for the target
        return Oldest(begin.committed_at.timestamp(), received_at)

    def clear(self) -> None:
        """Forget every mark, because nothing waits."""
        self._marks.clear()
