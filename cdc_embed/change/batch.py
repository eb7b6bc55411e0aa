"""A batch: a contiguous range of changes, folded by key into one final image for each row.

Folding is exact. It keeps what the log said and no more. Where the log did not carry a value, the
image names the row version before the batch that holds it (``origin``). ``plan`` decides what that
version is in the target. A value of a pending version that a later change leaves out has no origin,
because its column can be dropped. Such a row is read again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from cdc_embed.change.document import Key, Table
from cdc_embed.change.event import Change, Event, Op, TransactionEnd
from cdc_embed.lsn import LSN, ZERO, Position
from cdc_embed.wire.messages import UNCHANGED, Value

RowId = tuple[Table, Key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The effect of a batch on one key: its last row version, or its absence."""

    texts: tuple[Value, ...] | None
    """The text columns' values; None when the row is gone."""
    metadata: tuple[Value, ...] = ()
    """The metadata columns' values."""
    origin: Key | None
    """The row whose version before the batch holds the unchanged values; None if there is none."""
    change: Change
    """The last change that touched the key."""

    @property
    def complete(self) -> bool:
        return self.texts is None or not (UNCHANGED in self.texts or UNCHANGED in self.metadata)


@dataclass(slots=True)
class Batch:
    """Final images of a contiguous range of the change log.

    ``last`` is the exact position of its last change and ``end_lsn`` the end of the last
    transaction that the range completes. With both in the checkpoint row a transaction can be split
    anywhere, and a replay neither skips nor repeats a change.
    """

    images: dict[RowId, Image] = field(default_factory=dict)
    truncated: dict[Table, Change] = field(default_factory=dict)
    changes: int = 0
    folded: dict[Table, int] = field(default_factory=dict)
    """The number of changes that a newer one of the same row replaced inside the batch."""
    last: Position | None = None
    end_lsn: LSN = ZERO
    size: int = 0
    committed_at: datetime | None = None
    """The commit time of the oldest transaction in it, by the source's clock."""

    @classmethod
    def of(cls, events: Iterable[Event]) -> "Batch":
        batch = cls()
        for event in events:
            batch._add(event)
        return batch

    def _add(self, event: Event) -> None:
        self.size += event.size
        if isinstance(event, TransactionEnd):
            self.end_lsn = event.end_lsn
            return
        self.changes += 1
        self.last = event.position
        if self.committed_at is None:
            self.committed_at = event.committed_at
        if (event.table, event.key) in self.images:
            self.folded[event.table] = self.folded.get(event.table, 0) + 1
        if event.op is Op.TRUNCATE:
            self._truncate(event)
        elif event.op is Op.DELETE:
            self.images[event.table, event.key] = Image(texts=None, origin=None, change=event)
        else:
            self._write(event)

    def _truncate(self, change: Change) -> None:
        self.images = {row: image for row, image in self.images.items() if row[0] != change.table}
        self.truncated[change.table] = change

    def _write(self, change: Change) -> None:
        source = change.key
        if change.old_key is not None:
            source = change.old_key
        before = self.images.get((change.table, source)) if change.op is Op.UPDATE else None
        texts, metadata, origin = change.texts, change.metadata, None
        if before is not None and before.texts is not None:
            filled = _fill(texts, before.texts), _fill(metadata, before.metadata)
            if not change.leaves_out or filled == (texts, metadata):
                texts, metadata = filled
                origin = before.origin
        elif change.op is Op.UPDATE and before is None and change.table not in self.truncated:
            origin = source
        if change.old_key is not None:
            gone = Image(texts=None, origin=None, change=change)
            self.images[change.table, change.old_key] = gone
        self.images[change.table, change.key] = Image(
            texts=texts, metadata=metadata, origin=origin, change=change
        )


def _fill(values: tuple[Value, ...], before: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return the values; an unchanged one is taken from the pending image that it follows."""
    return tuple(old if new is UNCHANGED else new for old, new in zip(before, values, strict=True))
