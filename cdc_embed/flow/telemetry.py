"""The loop's counters and ages, and the listeners that are called after commits.

The loop's thread writes them and the web's reads them, so every attribute is replaced whole, never
mutated.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from threading import Lock
from typing import Final

from cdc_embed.change.action import (
    Action,
    Annotate,
    Defer,
    Forget,
    Move,
    Refuse,
    Remove,
    Write,
    letter_of,
)
from cdc_embed.change.document import Key, Table
from cdc_embed.change.event import Change
from cdc_embed.change.pending import Pending
from cdc_embed.change.plan import Plan, skipped
from cdc_embed.flow.supply import Prepared
from cdc_embed.flow.writing import Written
from cdc_embed.lsn import LSN, ZERO, Progress
from cdc_embed.metrics import Metrics

_OPS: Final[dict[type, str]] = {
    Write: "write",
    Remove: "delete",
    Move: "move",
    Annotate: "metadata",
    Refuse: "dead_letter",
    Forget: "write",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """One row of the source whose documents were changed by a committed target transaction."""

    table: str
    """The source table with its schema, for example ``public.documents``."""
    key: Mapping[str, str | int]
    """The row's key by column name: integers as numbers, other types as PostgreSQL prints them.
    Empty for ``truncate``."""
    op: str
    """``write``: the row has other vectors. ``move``: the vectors of its former key are its own.
    ``metadata``: only the metadata columns changed. ``delete``: the row has no vectors any more.
    ``dead_letter``: the same, because its text was refused. ``truncate``: so for every row."""
    commit_lsn: LSN | None
    """The start of the commit record in the source's log. An integer that prints as X/X; None for
    a row that was read from the table (backfill, ``verify --repair``, ``dlq retry``, deferred)."""
    committed_at: datetime | None
    """The time of the commit in the source, with a time zone; None for a row that was read."""
    seconds: float | None
    """Seconds from the commit in the source to the commit in the target, at least 0; None for a
    row that was read."""


Listener = Callable[[Sequence[Committed]], None]
"""A function that is called with the rows of each committed target transaction."""


@dataclass(frozen=True, slots=True)
class Positions:
    """The loop's positions at one moment."""

    received: LSN = ZERO
    durable: LSN = ZERO
    confirmed: LSN = ZERO


@dataclass(frozen=True, slots=True)
class Oldest:
    """The oldest commit that is not reflected in the target."""

    committed_at: float
    """The Unix time of the commit, by the source's clock."""
    received_at: float
    """The time of receipt in monotonic seconds, by our clock."""


class Telemetry:
    """Everything that the loop shows to the outside."""

    def __init__(self, metrics: Metrics, on_committed: Listener | None = None) -> None:
        self.metrics = metrics
        self._on_committed = on_committed
        self._lock = Lock()
        self.positions = Positions()
        self.ticked_at = time.monotonic()
        self._oldest: Oldest | None = None
        self.clock_ahead = 0.0
        """Seconds that the source's clock is ahead of ours."""
        self.deferrals = 0
        """Batches that deferred rows: a look at the table of these rows can be older than one."""
        self._deferred_since: float | None = None
        """Unix time of the oldest commit of which a text waits beside the stream."""
        self._full_since: float | None = None
        metrics.watch_oldest_pending(self.oldest_pending_age)

    def oldest_pending_age(self) -> float:
        """Return the seconds since the oldest commit that is not reflected; 0 when idle.

        At least the time since it was received. The commit's time is corrected by the difference
        of the clocks, as it was when the connection was made. A deferred row is not reflected.
        """
        oldest, deferred, now = self._oldest, self._deferred_since, time.time() + self.clock_ahead
        ages = [0.0] if deferred is None else [0.0, now - deferred]
        if oldest is not None:
            ages += [time.monotonic() - oldest.received_at, now - oldest.committed_at]
        return max(ages)

    def note_deferred(self, since: Iterable[float | None], deferrals: int) -> None:
        """Note since when the rows that wait beside the stream do so, for each table.

        ``deferrals`` is the number of batches that had deferred rows before that was read.
        """
        if deferrals == self.deferrals:
            self._deferred_since = min((at for at in since if at is not None), default=None)

    def turned(self) -> None:
        """Note that the loop has come round, or has tried once more to begin."""
        self.ticked_at = time.monotonic()

    def tick(self, pending: Pending, progress: Progress, oldest: Oldest | None, full: bool) -> None:
        """Note a turn of the loop, with its positions and what is pending."""
        now = time.monotonic()
        self.ticked_at = now
        self._oldest = oldest
        self.positions = Positions(progress.received, progress.durable, progress.confirmable())
        self.metrics.heartbeat.labels("loop").set_to_current_time()
        self.metrics.pending_documents.set(pending.changes)
        self.metrics.pending_bytes.set(pending.size)
        self._backpressure(full, now)

    def _backpressure(self, full: bool, now: float) -> None:
        if self._full_since is not None:
            self.metrics.backpressure_seconds.inc(now - self._full_since)
        self._full_since = now if full else None
        self.metrics.backpressure_active.set(full)

    def frame(self, payload: bytes) -> None:
        self.metrics.received_bytes.inc(len(payload))

    def change(self, change: Change) -> None:
        self.metrics.changes_received.labels(change.table.full_name, change.op.value).inc()

    def examined(self, table: Table, prepared: Prepared, written: Written) -> None:
        """Count a slice of rows that was compared, and repaired where that was asked for."""
        self.metrics.heartbeat.labels("reconcile").set_to_current_time()
        if prepared.examined is not None:
            for verdict in prepared.examined.verdicts.values():
                self.metrics.reconcile_rows.labels(table.full_name, verdict.value).inc()
        if not prepared.plan.writes:
            return
        self.metrics.write_duration.observe(written.seconds)
        self.metrics.embed_texts.labels("reused").inc(prepared.reused)
        self._count_written(prepared.plan)
        self._count_deferred(prepared.plan)
        self._tell(_committed(*row, action) for row, action in prepared.plan.actions.items())

    def _count_written(self, plan: Plan) -> None:
        for (table, _), action in plan.actions.items():
            op = _OPS.get(type(action))
            if op is not None:
                self.metrics.rows_written.labels(table.full_name, op).inc()
            letter = letter_of(action)
            if letter is not None:
                self.metrics.dead_letters.labels(table.full_name, letter.reason).inc()

    def written(self, prepared: Prepared, written: Written) -> None:
        """Count a committed batch, and tell the listeners of its rows."""
        plan = prepared.plan
        self._count_skipped(plan)
        self._count_deferred(plan)
        self.metrics.heartbeat.labels("embed").set_to_current_time()
        if not plan.writes:
            return
        self.metrics.heartbeat.labels("write").set_to_current_time()
        self.metrics.write_duration.observe(written.seconds)
        self.metrics.embed_texts.labels("reused").inc(prepared.reused)
        for table in plan.batch.truncated:
            self.metrics.rows_written.labels(table.full_name, "truncate").inc()
        self._count_written(plan)
        now = written.committed_at + self.clock_ahead
        for (table, key), action in plan.actions.items():
            if type(action) in _OPS:
                change = plan.batch.images[table, key].change
                self.metrics.end_to_end_latency.labels(table.full_name).observe(_age(change, now))
        emptied = (_truncated(change, now) for change in plan.batch.truncated.values())
        images = plan.batch.images
        rows = (_committed(*row, act, images[row].change, now) for row, act in plan.actions.items())
        self._tell(chain(emptied, rows))

    def _count_deferred(self, plan: Plan) -> None:
        deferred = [row for row, action in plan.actions.items() if isinstance(action, Defer)]
        if not deferred:
            return
        self.deferrals += 1
        images = plan.batch.images
        since = [images[row].change.committed_at.timestamp() for row in deferred if row in images]
        known = [] if self._deferred_since is None else [self._deferred_since]
        self._deferred_since = min([*since, *known], default=time.time() + self.clock_ahead)

    def _tell(self, rows: Iterable[Committed | None]) -> None:
        if self._on_committed is None:
            return
        committed = [row for row in rows if row is not None]
        if committed:
            self._on_committed(committed)

    def _count_skipped(self, plan: Plan) -> None:
        counter = self.metrics.changes_skipped
        for table, count in plan.batch.folded.items():
            counter.labels(table.full_name, "superseded").inc(count)
        for name, reason in skipped(plan):
            counter.labels(name, reason).inc()


def _committed(
    table: Table, key: Key, action: Action, change: Change | None = None, now: float = 0.0
) -> Committed | None:
    """Return the row for listeners; None when no reader of the vectors sees a difference."""
    op = _OPS.get(type(action))
    if op is None or isinstance(action, Forget):
        return None
    return Committed(
        table=table.full_name,
        key=table.key_object(key),
        op=op,
        commit_lsn=change.position.commit_lsn if change else None,
        committed_at=change.committed_at if change else None,
        seconds=_age(change, now) if change else None,
    )


def _truncated(change: Change, now: float) -> Committed:
    return Committed(
        table=change.table.full_name,
        key={},
        op="truncate",
        commit_lsn=change.position.commit_lsn,
        committed_at=change.committed_at,
        seconds=_age(change, now),
    )


def _age(change: Change, now: float) -> float:
    """Seconds from the commit in the source until ``now``, Unix time by the source's clock."""
    return max(0.0, now - change.committed_at.timestamp())
