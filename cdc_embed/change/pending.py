"""The queue of received changes, and the rows that a later change makes superfluous.

A hot row's older versions need no embedding when a newer one is already here. That is safe only if
the newer one can stand without them, after a crash as well. It must be complete by itself (an own
text for every text column, or a delete), and no change in between may carry the older text on to
another key.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from cdc_embed.change.batch import RowId
from cdc_embed.change.document import Table
from cdc_embed.change.event import Change, Event, Op, TransactionEnd


class LaterChanges:
    """The keys that some later changes make superfluous before them."""

    __slots__ = ("_complete", "_needed", "_truncated")

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._complete: dict[RowId, Event] = {}
        self._needed: dict[RowId, Event] = {}
        self._truncated: dict[Table, Event] = {}
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Add the newest event of all."""
        for marks, mark in self._marks(event):
            marks[mark] = event

    def add_oldest(self, event: Event) -> None:
        """Add an event that comes before all others. Newer marks stay."""
        for marks, mark in self._marks(event):
            marks.setdefault(mark, event)

    def drop(self, event: Event) -> None:
        """Drop an event that went into a batch, because it is no longer later."""
        for marks, mark in self._marks(event):
            if marks.get(mark) is event:
                del marks[mark]

    def _marks(self, event: Event) -> Iterator[tuple[dict[Any, Event], Any]]:
        if isinstance(event, TransactionEnd):
            return
        table = event.table
        if event.op is Op.TRUNCATE:
            yield self._truncated, table
            return
        if event.complete:
            yield self._complete, (table, event.key)
        if event.old_key is not None:
            yield (self._complete if event.complete else self._needed), (table, event.old_key)

    def needs(self, row: RowId) -> bool:
        """Return whether a later change carries this row's text on to another key."""
        return row in self._needed

    def replaces(self, row: RowId) -> bool:
        """Return whether a later change holds all that will count of this row."""
        return row in self._complete or row[0] in self._truncated


def is_other(event: Event) -> bool:
    """Return whether an event is a change that is no new row, which can need no text."""
    return isinstance(event, Change) and event.op is not Op.INSERT


class Pending:
    """The queue between the stream and the batches; bounded by bytes, by its owner."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self.later = LaterChanges()
        self.size = 0
        self.changes = 0
        self.others = 0
        """The number of changes that are no new rows. Each can be a delete, or one of metadata
        alone."""

    def __len__(self) -> int:
        return len(self._events)

    def add(self, event: Event) -> None:
        self._events.append(event)
        self.later.add(event)
        self._count(event, 1)

    def take(self, limit: int, size: int) -> list[Event]:
        """Take the oldest changes, with the transaction ends that follow them.

        At most ``limit`` changes and, unless there is only one, ``size`` bytes.
        """
        taken: list[Event] = []
        changes, bytes_taken = 0, 0
        while self._events:
            event = self._events[0]
            if isinstance(event, Change):
                if changes and (changes == limit or bytes_taken + event.size > size):
                    break
                changes += 1
                bytes_taken += event.size
            self._events.popleft()
            self.later.drop(event)
            self._count(event, -1)
            taken.append(event)
        return taken

    def put_back(self, events: Sequence[Event]) -> None:
        """Return the rest of what ``take`` gave, because a batch was cut shorter."""
        for event in reversed(events):
            self._events.appendleft(event)
            self.later.add_oldest(event)
            self._count(event, 1)

    @property
    def oldest(self) -> datetime | None:
        """The commit time of the oldest event, by the source's clock; None when empty."""
        return self._events[0].committed_at if self._events else None

    def _count(self, event: Event, sign: int) -> None:
        self.size += sign * event.size
        if isinstance(event, Change):
            self.changes += sign
            self.others += sign * is_other(event)
