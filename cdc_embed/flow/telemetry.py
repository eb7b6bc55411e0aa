"""The loop's counters and ages, and the listeners that hear of commits.

Written by the loop's thread, read by the web's: every attribute is replaced whole, never mutated.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final

from cdc_embed.change.action import Annotate, Delete, Forget, Move, Refuse, Write
from cdc_embed.change.document import Key, Table
from cdc_embed.change.pending import Pending
from cdc_embed.change.plan import Plan, skipped
from cdc_embed.change.transaction import Change
from cdc_embed.flow.prepare import Prepared
from cdc_embed.flow.writing import Written
from cdc_embed.lsn import LSN, ZERO, Progress
from cdc_embed.metrics import Metrics

_OPS: Final[dict[type, str]] = {
    Write: "write",
    Delete: "delete",
    Move: "move",
    Annotate: "metadata",
    Refuse: "dead_letter",
    Forget: "write",
}


@dataclass(frozen=True, slots=True)
class Committed:
    """One row whose change is committed in the target."""

    table: Table
    key: Key
    op: str
    lsn: LSN
    seconds: float
    """From the commit in the source to the commit in the target, never below 0."""


Listener = Callable[[Sequence[Committed]], None]


@dataclass(frozen=True, slots=True)
class Positions:
    """The loop's positions at one moment."""

    received: LSN = ZERO
    durable: LSN = ZERO
    confirmed: LSN = ZERO


class Telemetry:
    """Everything that the loop shows to the outside."""

    def __init__(self, metrics: Metrics, listeners: Sequence[Listener] = ()) -> None:
        self.metrics = metrics
        self._listeners = listeners
        self._lock = Lock()
        self.positions = Positions()
        self.ticked_at = time.monotonic()
        self._oldest_commit: float | None = None
        self._full_since: float | None = None
        metrics.watch_oldest_pending(self.oldest_pending_age)

    def oldest_pending_age(self) -> float:
        """Return the seconds since the oldest commit that is not reflected; 0 when idle."""
        oldest = self._oldest_commit
        return 0.0 if oldest is None else max(0.0, time.time() - oldest)

    def tick(self, pending: Pending, progress: Progress, oldest: float | None, full: bool) -> None:
        """Note a turn of the loop, with its positions and what is pending."""
        now = time.monotonic()
        self.ticked_at = now
        self._oldest_commit = oldest
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

    def _count_written(self, plan: Plan) -> None:
        for (table, _), action in plan.actions.items():
            op = _OPS.get(type(action))
            if op is not None:
                self.metrics.rows_written.labels(table.full_name, op).inc()
            if isinstance(action, Refuse):
                self.metrics.dead_letters.labels(table.full_name, action.reason).inc()

    def written(self, prepared: Prepared, written: Written) -> None:
        """Count a committed batch, and tell the listeners of its rows."""
        plan = prepared.plan
        self._count_skipped(plan)
        self.metrics.heartbeat.labels("embed").set_to_current_time()
        if not plan.writes:
            return
        self.metrics.heartbeat.labels("write").set_to_current_time()
        self.metrics.write_duration.observe(written.seconds)
        self.metrics.embed_texts.labels("reused").inc(prepared.reused)
        for table in plan.batch.truncated:
            self.metrics.rows_written.labels(table.full_name, "truncate").inc()
        self._count_written(plan)
        committed = list(self._committed(plan, written.committed_at))
        for item in committed:
            self.metrics.end_to_end_latency.labels(item.table.full_name).observe(item.seconds)
        for listener in self._listeners:
            listener(committed)

    def _committed(self, plan: Plan, now: float) -> "list[Committed]":
        committed = []
        for (table, key), action in plan.actions.items():
            op = _OPS.get(type(action))
            if op is None:
                continue
            change = plan.batch.images[table, key].change
            seconds = max(0.0, now - change.committed_at.timestamp())
            committed.append(Committed(table, key, op, change.position.commit_lsn, seconds))
        return committed

    def _count_skipped(self, plan: Plan) -> None:
        counter = self.metrics.changes_skipped
        for table, count in plan.batch.folded.items():
            counter.labels(table.full_name, "superseded").inc(count)
        for name, reason in skipped(plan):
            counter.labels(name, reason).inc()
