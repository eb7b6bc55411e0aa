"""What is looked up about a running (or stopped) service: slot, tables, letters.

``gather`` asks both databases once; ``Watch`` does it at intervals in a thread of its own, so that
``/status`` and ``/metrics`` answer from memory. It also notices what the change log would not say:
a table that left the publication or has another shape, and a slot beyond what we recorded.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from psycopg2 import sql

from cdc_embed.errors import (
    CdcEmbedError,
    PreflightError,
    SourceUnavailableError,
    TargetUnavailableError,
)
from cdc_embed.flow.absence import Absence
from cdc_embed.flow.connections import Connections
from cdc_embed.flow.ownership import expect_keeper
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.lsn import Checkpoint
from cdc_embed.source.slot import Slot
from cdc_embed.source.stream import stream_name
from cdc_embed.source.tables import SourceTable, estimate_rows
from cdc_embed.sql import queries
from cdc_embed.target.position import read_checkpoint
from cdc_embed.target.reconcile import Comparison, Ledger
from cdc_embed.target.schema import registered_tables

CANCEL_SECONDS: Final = 0.5
POLL_SECONDS: Final = 5.0
"""A table that leaves the publication loses changes from then on: soon enough to say which."""

REPAIR: Final = "run: cdc-embed setup, and start the service again"

COUNT_SHARE: Final = 50
"""Counting the documents of a large table takes a while: it may take a fiftieth of the time."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    name: str
    rows_embedded: int
    rows_source_estimate: int | None
    backfill_state: str | None
    backfill_done: int
    dead_letters: int
    problem: str | None = None
    """Why its changes do not arrive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Both sides at one moment."""

    slot: Slot | None = None
    checkpoint: Checkpoint | None = None
    space: str | None = None
    """The stored space's model."""
    oldest_transaction_seconds: float | None = None
    tables: tuple[TableFacts, ...] = field(default=())


def gather(
    both: Connections,
    tables: Sequence[SourceTable],
    count: Callable[[Connections, str], int],
    problems: Mapping[str, str],
) -> Facts:
    """Ask both databases, the slot first: what was recorded later cannot make it look ahead.

    ``count`` gives how many documents a table of vectors has, ``problems`` tell of source tables
    whose changes do not arrive.
    """
    schema = both.config.target.schema
    slot = both.catalogue.slot()
    checkpoint = read_checkpoint(both.target, schema, both.config.source.slot)
    letters = _letters(both)
    compared = Ledger(both.target, schema, both.config.source.slot).comparisons()
    return Facts(
        slot=slot,
        checkpoint=checkpoint,
        space=_space(both, tables),
        oldest_transaction_seconds=both.catalogue.oldest_transaction_seconds(),
        tables=tuple(
            TableFacts(
                name=source.table.full_name,
                rows_embedded=count(both, source.table.embedding_table),
                rows_source_estimate=estimate_rows(both.source, source.table),
                backfill_state=_state(compared.get(source.table.full_name)),
                backfill_done=_done(compared.get(source.table.full_name)),
                dead_letters=letters.get(source.table.full_name, 0),
                problem=problems.get(source.table.full_name),
            )
            for source in tables
        ),
    )


def _state(comparison: Comparison | None) -> str | None:
    return comparison.state if comparison is not None else None


def _done(comparison: Comparison | None) -> int:
    return comparison.checked if comparison is not None else 0


def _space(both: Connections, tables: Sequence[SourceTable]) -> str | None:
    known = registered_tables(both.target, both.config.target.schema)
    stored = (known.get(source.table.full_name) for source in tables)
    return next((found.space.model for found in stored if found is not None), None)


def _letters(both: Connections) -> dict[str, int]:
    statement = sql.SQL(queries("target/store")["count_letters"])
    with both.target.transaction("dead_letter") as cursor:
        cursor.execute(statement.format(schema=sql.Identifier(both.config.target.schema)))
        return dict(cursor.fetchall())


def count_documents(both: Connections, embedding_table: str) -> int:
    """Documents that have vectors, counted."""
    statement = sql.SQL(queries("target/store")["count_documents"])
    name = sql.Identifier(both.config.target.schema, embedding_table)
    with both.target.transaction(embedding_table) as cursor:
        cursor.execute(statement.format(table=name))
        documents: int = cursor.fetchone()[0]
    return documents


class _Counts:
    """Counts again only after a time that is long beside what the last count took."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, float]] = {}

    def __call__(self, both: Connections, embedding_table: str) -> int:
        began = time.monotonic()
        documents, due = self._known.get(embedding_table, (0, 0.0))
        if began >= due:
            documents = count_documents(both, embedding_table)
            ended = time.monotonic()
            self._known[embedding_table] = (documents, ended + COUNT_SHARE * (ended - began))
        return documents


class Watch:
    """Looks at both databases every few seconds."""

    def __init__(
        self,
        both: Connections,
        tables: Sequence[SourceTable],
        telemetry: Telemetry,
        absence: Absence,
        on_failure: Callable[[CdcEmbedError], None],
        is_leading: Callable[[], bool],
    ) -> None:
        self._absence = absence
        self._is_leading = is_leading
        self._both = both
        self._ledger = Ledger(both.target, both.config.target.schema, both.config.source.slot)
        self._tables = tables
        self._telemetry = telemetry
        self._on_failure = on_failure
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._count = _Counts()
        self._absent: set[str] = set()
        self.facts = Facts()

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(CANCEL_SECONDS)
        while self._thread.is_alive():
            self._both.cancel()
            self._thread.join(CANCEL_SECONDS)

    def _run(self) -> None:
        while True:
            try:
                self._look()
            except (SourceUnavailableError, TargetUnavailableError) as exc:
                # the loop meets the same and waits; here it only means old numbers
                log.debug("watch", problem=str(exc))
            except CdcEmbedError as exc:
                self._on_failure(exc)
                return
            if self._stop.wait(POLL_SECONDS):
                return

    def _look(self) -> None:
        expect_keeper(self._both, [source.table for source in self._tables])
        self._check_coverage()
        if self._is_leading():  # one of another version may see other shapes
            self._check_shape()
        self.facts = gather(self._both, self._tables, self._count, self._absence.problems)
        self._show(self.facts)
        self._both.catalogue.refuse_synchronous(stream_name(self._both.config.source.slot))
        self._check_confirmed(self.facts)

    def _check_coverage(self) -> None:
        """Tables whose changes do not arrive stand still; back again, they are compared."""
        missed = self._both.coverage.missed(self._tables)
        self._absence.problems = missed  # first, so that no comparison of them begins anew
        gone = missed.keys() - self._absent
        if gone:
            self._ledger.again(gone, None)
        for table in sorted(gone):
            log.error("table stands still", table=table, problem=missed[table], hint=REPAIR)
        for table in sorted(self._absent - missed.keys()):
            log.info("table is back, every row is compared", table=table)
        self._absent = set(missed)
        for source in self._tables:
            name = source.table.full_name
            self._telemetry.metrics.table_followed.labels(name).set(name not in missed)
        if len(missed) == len(self._tables):
            raise PreflightError(
                where="source tables",
                problem="; ".join(f"{table} {problem}" for table, problem in missed.items())
                + "; changes since then are not in the log, every row is compared afterwards",
                hint=REPAIR,
            )

    def _check_shape(self) -> None:
        """A rewrite, other partitions, a table that left and came back: that is not in the log."""
        compared = self._ledger.comparisons()
        for source in self._tables:
            name = source.table.full_name
            known = compared.get(name)
            if known is None or name in self._absence.problems:
                continue
            shape = self._both.coverage.shape(source.table)
            if known.shape != shape:
                self._ledger.again([name], shape)
                log.info("table or its publication was altered, every row is compared", table=name)

    def _check_confirmed(self, facts: Facts) -> None:
        if facts.slot is None or facts.checkpoint is None or facts.slot.confirmed_lsn is None:
            return
        if facts.slot.confirmed_lsn > facts.checkpoint.recorded:
            self._telemetry.metrics.confirmed_beyond_durable.inc()
            log.error(
                "slot beyond the recorded position",
                confirmed=str(facts.slot.confirmed_lsn),
                recorded=str(facts.checkpoint.recorded),
            )

    def _show(self, facts: Facts) -> None:
        metrics = self._telemetry.metrics
        for table in facts.tables:
            metrics.dead_letters_pending.labels(table.name).set(table.dead_letters)
        slot = facts.slot
        if slot is None:
            return
        metrics.slot_active.labels(slot.name).set(slot.active)
        metrics.slot_retained_wal.labels(slot.name).set(slot.retained_bytes or 0)
        metrics.slot_safe_wal.labels(slot.name).set(
            float("inf") if slot.safe_wal_bytes is None else slot.safe_wal_bytes
        )
        metrics.set_wal_status(slot.wal_status)
        positions = self._telemetry.positions
        for name in ("received", "durable", "confirmed"):
            behind = max(0, slot.wal_end - getattr(positions, name))
            metrics.slot_lag.labels(slot.name, name).set(behind)
