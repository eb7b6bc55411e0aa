"""A thread that asks both databases every few seconds while an instance runs.

``/status`` and ``/metrics`` answer from its memory. It also finds changes that the log does not
carry: a table that left the publication or was rewritten, a slot beyond the recorded position.
"""

import threading
from collections.abc import Sequence
from typing import Final

import structlog

from cdc_embed.errors import (
    CdcEmbedError,
    PreflightError,
    SourceUnavailableError,
    TargetUnavailableError,
)
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.serve.facts import Counts, Facts, gather
from cdc_embed.service.instance import Instance
from cdc_embed.setup.connections import Connections
from cdc_embed.setup.ownership import expect_keeper
from cdc_embed.source.coverage import Undelivered
from cdc_embed.source.stream import stream_name
from cdc_embed.source.tables import SourceTable
from cdc_embed.target.ledger import Ledger

CANCEL_SECONDS: Final = 0.5
POLL_SECONDS: Final = 5.0
"""The time between two rounds: a table that leaves the publication is named as soon."""

REPAIR: Final = "run: cdc-embed setup, and start the service again"

log = structlog.get_logger()


class Watch:
    """Watches both databases for one instance, in sessions of its own."""

    def __init__(
        self,
        databases: Connections,
        tables: Sequence[SourceTable],
        undelivered: Undelivered,
        telemetry: Telemetry,
        instance: Instance,
    ) -> None:
        self._undelivered = undelivered
        self._instance = instance
        self._databases = databases
        self._ledger = Ledger(
            databases.target, databases.config.target.schema, databases.config.source.slot
        )
        self._tables = tables
        self._telemetry = telemetry
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._count = Counts()
        self._undelivered_names: set[str] = set()
        self.facts = Facts()

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(CANCEL_SECONDS)
        while self._thread.is_alive():
            self._databases.cancel()
            self._thread.join(CANCEL_SECONDS)

    def _run(self) -> None:
        while True:
            try:
                self._watch()
            except (SourceUnavailableError, TargetUnavailableError) as exc:
                # the loop meets the same error and waits; here it only means old numbers
                log.debug("watch", problem=str(exc))
            except CdcEmbedError as exc:
                self._instance.fail(exc)
                return
            if self._stop.wait(POLL_SECONDS):
                return

    def _watch(self) -> None:
        expect_keeper(self._databases, [source.table for source in self._tables])
        self._check_coverage()
        if self._instance.leading:  # a standby of another version may see other shapes
            self._check_shape()
        self.facts = gather(self._databases, self._tables, self._count, self._undelivered.problems)
        self._show_metrics(self.facts)
        self._databases.catalogue.refuse_synchronous(
            stream_name(self._databases.config.source.slot)
        )
        self._check_confirmed(self.facts)

    def _check_coverage(self) -> None:
        """Pause tables that are not delivered; have them compared when they are delivered again."""
        undelivered = self._databases.coverage.undelivered(self._tables)
        self._undelivered.problems = undelivered  # first, so that no comparison of them begins
        gone = undelivered.keys() - self._undelivered_names
        if gone:
            self._ledger.compare_again(gone, None)
        for table in sorted(gone):
            log.error("table is paused", table=table, problem=undelivered[table], hint=REPAIR)
        for table in sorted(self._undelivered_names - undelivered.keys()):
            log.info("table is delivered again, every row is compared", table=table)
        self._undelivered_names = set(undelivered)
        for source in self._tables:
            name = source.table.full_name
            self._telemetry.metrics.table_followed.labels(name).set(name not in undelivered)
        if len(undelivered) == len(self._tables):
            raise PreflightError(
                where="source tables",
                problem="; ".join(f"{table} {problem}" for table, problem in undelivered.items())
                + "; changes since then are not in the log, every row is compared afterwards",
                hint=REPAIR,
            )

    def _check_shape(self) -> None:
        """Have tables compared that were rewritten, altered, or not delivered for a while."""
        compared = self._ledger.comparisons()
        for source in self._tables:
            name = source.table.full_name
            known = compared.get(name)
            if known is None or name in self._undelivered.problems:
                continue
            shape = self._databases.coverage.shape(source.table)
            if known.shape != shape:
                self._ledger.compare_again([name], shape)
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

    def _show_metrics(self, facts: Facts) -> None:
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
