"""Every metric, declared once. Base units, few labels, never a key or an LSN in one.

A ``Metrics`` object belongs to one service, because tests and the demo can run several in one
process.
"""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

from cdc_embed import __version__

LATENCY_BUCKETS: Final = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    *(30, 60, 120, 300, 600, 1800, 3600),
)
DURATION_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 30)
MILLION: Final = 1_000_000

SIZE_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)

PHASES: Final = ("starting", "standby", "streaming", "reconnecting", "draining", "stopped")
WAL_STATUSES: Final = ("reserved", "extended", "unreserved", "lost")
OPS: Final = ("insert", "update", "delete", "truncate")
SKIP_REASONS: Final = ("unchanged", "toast", "superseded", "filtered")
WRITE_OPS: Final = ("write", "delete", "move", "metadata", "dead_letter", "truncate")
VERDICTS: Final = (
    *("fresh", "missing", "stale", "metadata_stale", "orphan", "dead_letter", "pending"),
)
DRIFT_KINDS: Final = ("missing", "stale", "metadata_stale", "orphan")

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one service; ``/metrics`` shows its ``registry``."""

    def __init__(
        self, *, slot: str, tables: Iterable[str], model: str = "", price: float = 0.0
    ) -> None:
        """``price``: of a million tokens; 0: unknown, so that no cost is shown."""
        self._price = price
        self.registry = CollectorRegistry()
        self._slot = slot
        self._declare_process()
        self.set_model(model)
        self._declare_stream()
        self._declare_slot()
        self._declare_pipeline()
        self._declare_embedding()
        self._declare_target()
        self._declare_failures()
        self._declare_reconcile()
        self._start_at_zero(list(tables))

    def set_phase(self, phase: str) -> None:
        for name in PHASES:
            self.phase.labels(name).set(name == phase)

    def set_wal_status(self, status: str | None) -> None:
        for name in WAL_STATUSES:
            self.slot_wal_status.labels(self._slot, name).set(name == status)

    def watch_oldest_pending(self, age: Callable[[], float]) -> None:
        """Call ``age`` at each scrape, because a stalled loop must not freeze the number."""
        self.oldest_pending_age.set_function(age)

    def embedded_tokens(self, tokens: int) -> None:
        """Count tokens, and what they cost."""
        self._embed_tokens.inc(tokens)
        if self._price:
            self._embed_cost.inc(tokens * self._price / MILLION)

    def set_pending(self, table: str, tokens: int) -> None:
        """Show the tokens of a table's backfill, and what they will cost."""
        self._backfill_tokens.labels(table).set(tokens)
        if self._price:
            self._backfill_cost.labels(table).set(tokens * self._price / MILLION)

    def cost(self, tokens: int | None) -> float | None:
        """Return the price of tokens; None if it is not known."""
        if tokens is None or not self._price:
            return None
        return tokens * self._price / MILLION

    @property
    def tokens(self) -> int:
        """The tokens since the start."""
        return int(self.registry.get_sample_value("cdc_embed_embed_tokens_total") or 0)

    def set_model(self, model: str) -> None:
        """Name the model, which is known only once it is loaded."""
        self.build_info.clear()
        self.build_info.labels(__version__, model).set(1)

    def _declare_process(self) -> None:
        self.build_info = self._gauge("build_info", "Version and model.", "version", "model")
        self.phase = self._gauge("phase", "1 for the current phase, 0 for the others.", "phase")
        self.leader = self._gauge("leader", "1 while this instance is the writer.", "slot")

    def _declare_stream(self) -> None:
        self.replication_connected = self._gauge(
            "replication_connected", "1 while the slot is being read."
        )
        self.reconnects = self._counter("reconnects", "Connections lost, by reason.", "reason")
        self.received_bytes = self._counter("received_bytes", "Bytes of the change log read.")
        self.changes_received = self._counter(
            "changes_received", "Row changes read.", "table", "op"
        )
        self.changes_skipped = self._counter(
            "changes_skipped",
            "Row changes that needed no embedding and no write.",
            "table",
            "reason",
        )
        self.heartbeat = self._gauge(
            "heartbeat_timestamp_seconds", "Unix time of a stage's last heartbeat.", "stage"
        )

    def _declare_slot(self) -> None:
        self.slot_active = self._gauge("slot_active", "1 while a session reads the slot.", "slot")
        self.slot_retained_wal = self._gauge(
            "slot_retained_wal_bytes", "Bytes of log that the server keeps for the slot.", "slot"
        )
        self.slot_lag = self._gauge(
            "slot_lag_bytes", "Bytes from the position to the end of the log.", "slot", "position"
        )
        self.slot_safe_wal = self._gauge(
            "slot_safe_wal_bytes", "Log that can still be written before the slot is lost.", "slot"
        )
        self.slot_wal_status = self._gauge(
            "slot_wal_status", "1 for the slot's status.", "slot", "status"
        )

    def _declare_pipeline(self) -> None:
        self.oldest_pending_age = self._gauge(
            "oldest_pending_age_seconds",
            "Age of the oldest change that is not reflected in the target; 0 when there is none.",
        )
        self.pending_documents = self._gauge("pending_documents", "Changes waiting for a batch.")
        self.pending_bytes = self._gauge("pending_bytes", "Bytes of pending changes.")
        self.backpressure_active = self._gauge(
            "backpressure_active", "1 while reading is paused because memory is full."
        )
        self.backpressure_seconds = self._counter(
            "backpressure_seconds", "Seconds for which reading was paused."
        )

    def _declare_embedding(self) -> None:
        self.embed_requests = self._counter("embed_requests", "Calls of the model.", "outcome")
        self.embed_request_duration = self._histogram(
            "embed_request_duration_seconds", "Time of one call of the model.", DURATION_BUCKETS
        )
        self.embed_batch_documents = self._histogram(
            "embed_batch_documents", "Texts in one call of the model.", SIZE_BUCKETS
        )
        self.embed_texts = self._counter(
            "embed_texts", "Vectors needed, by their source.", "source"
        )
        self._embed_tokens = self._counter("embed_tokens", "Tokens given to the model.")
        self._backfill_tokens = self._gauge(
            "backfill_pending_tokens", "Tokens that a backfill will give to the model.", "table"
        )
        if self._price:
            self._embed_cost = self._counter("embed_cost", "Price of the tokens.")
            self._backfill_cost = self._gauge(
                "backfill_pending_cost", "Price of a backfill's tokens.", "table"
            )

    def _declare_target(self) -> None:
        self.rows_written = self._counter("rows_written", "Rows changed.", "table", "op")
        self.write_duration = self._histogram(
            "write_duration_seconds", "Time of one target transaction.", DURATION_BUCKETS
        )
        self.end_to_end_latency = self._histogram(
            "end_to_end_latency_seconds",
            "From the commit in the source to the commit in the target.",
            LATENCY_BUCKETS,
            "table",
        )

    def _declare_failures(self) -> None:
        self.errors = self._counter("errors", "Errors met.", "stage", "class")
        self.dead_letters = self._counter("dead_letters", "Documents refused.", "table", "reason")
        self.dead_letters_pending = self._gauge(
            "dead_letters_pending", "Documents that cannot be embedded.", "table"
        )
        self.deferred_documents = self._gauge(
            "deferred_documents", "Documents that wait for the embedder beside the stream.", "table"
        )
        self.listener_errors = self._counter("listener_errors", "Exceptions raised by listeners.")
        self.listener_rows_dropped = self._counter(
            "listener_rows_dropped", "Committed rows dropped, because a listener was too slow."
        )
        self.confirmed_beyond_durable = self._counter(
            "confirmed_beyond_durable", "Slot seen beyond the recorded position; must be 0."
        )

    def _declare_reconcile(self) -> None:
        self.reconcile_rows = self._counter(
            "reconcile_rows", "Rows compared with what is stored.", "table", "result"
        )
        self.reconcile_running = self._gauge(
            "reconcile_running", "1 while a table is compared with its vectors.", "table"
        )
        self.table_followed = self._gauge(
            "table_followed", "1 while a table's changes arrive in the log.", "table"
        )
        self.drift_rows = self._gauge(
            "drift_rows", "Drift that the last verify found.", "table", "kind"
        )
        self.verify_last_success = self._gauge(
            "verify_last_success_timestamp_seconds", "Unix time of the last verify without drift."
        )

    def _start_at_zero(self, tables: list[str]) -> None:
        self.leader.labels(self._slot).set(0)
        for gauge in (self.slot_active, self.slot_retained_wal, self.slot_safe_wal):
            gauge.labels(self._slot)
        for position in ("received", "durable", "confirmed"):
            self.slot_lag.labels(self._slot, position)
        self.set_wal_status(None)
        self.set_phase("starting")
        for reason in ("connection", "slot", "target"):
            self.reconnects.labels(reason)
        for outcome in ("ok", "unavailable", "refused", "failed"):
            self.embed_requests.labels(outcome)
        for source in ("model", "reused"):
            self.embed_texts.labels(source)
        for stage in ("loop", "embed", "write", "reconcile"):
            self.heartbeat.labels(stage)
        for table in tables:
            self.end_to_end_latency.labels(table)
            self.dead_letters_pending.labels(table)
            self.deferred_documents.labels(table)
            self.reconcile_running.labels(table)
            self.table_followed.labels(table)
            self.set_pending(table, 0)
            for kind in DRIFT_KINDS:
                self.drift_rows.labels(table, kind)
            for counter, values in (
                (self.changes_received, OPS),
                (self.changes_skipped, SKIP_REASONS),
                (self.rows_written, WRITE_OPS),
                (self.reconcile_rows, VERDICTS),
                (self.dead_letters, ("too_long", "refused", "timeout", "server_error", "database")),
            ):
                for value in values:
                    counter.labels(table, value)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"cdc_embed_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"cdc_embed_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"cdc_embed_{name}", text, labels, buckets=buckets, registry=self.registry)
