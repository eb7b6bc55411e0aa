"""A thread that asks both databases every few seconds while an instance runs.

``/status`` and ``/metrics`` answer from its memory. It also finds changes that the log does not
carry, such as a table that left the publication or was rewritten, or a slot beyond the recorded
position. And it wakes what compares rows, when the command line asks for something or a table must
be compared.

Nobody else asks an idle database anything. Each question is one statement, without a transaction
around it, for all tables together, because an idle service costs the two databases less than three
statements a second, whatever the number of its tables.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from cdc_embed.errors import (
    CdcEmbedError,
    SourceUnavailableError,
    TablesChangedError,
    TargetUnavailableError,
    is_passing,
)
from cdc_embed.flow.patience import AbandonedError
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.serve.facts import Counts, Facts, gather
from cdc_embed.serve.status import pending_tokens
from cdc_embed.service.checked import Checked
from cdc_embed.service.instance import Instance
from cdc_embed.service.reconciling import Reconciling
from cdc_embed.service.refusing import Refusing
from cdc_embed.service.shapes import MetLeaves, Shapes
from cdc_embed.service.tolerance import Intervals
from cdc_embed.setup.agreement import expect_unchanged
from cdc_embed.setup.connections import unlogged
from cdc_embed.setup.ownership import expect_keeper
from cdc_embed.setup.preflight import find_paused
from cdc_embed.setup.rights import check_rights, opened_tables
from cdc_embed.source.coverage import Undelivered
from cdc_embed.source.stream import stream_name
from cdc_embed.source.tables import SourceTable, why_paused
from cdc_embed.target.ledger import Ledger
from cdc_embed.target.overview import StoredTable, something_to_do, stored_tables

CANCEL_SECONDS: Final = 0.5
UNUSED_SECONDS: Final = 5.0
"""The time after which a session is closed in which rows were read."""

REPAIR: Final = "run: cdc-embed setup"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedParts:
    """The parts of an instance that its watch looks at or informs."""

    instance: Instance
    undelivered: Undelivered
    telemetry: Telemetry
    reconciling: Reconciling
    leaves: MetLeaves
    refusing: Refusing
    intervals: Intervals
    trial: Callable[[], None] | None = None
    """A function that tries the embedder out, which was away at the start; returns once it is
    back."""


class Watch:
    """Watches both databases for one instance."""

    def __init__(self, checked: Checked, watched: WatchedParts) -> None:
        databases = checked.databases
        self._intervals = watched.intervals
        self._undelivered = watched.undelivered
        self._instance = watched.instance
        self._reconciling = watched.reconciling
        self._refusing = watched.refusing
        self._databases = databases
        self._ledger = Ledger(
            databases.target, databases.config.target.schema, databases.config.source.slot
        )
        self._tables = checked.sources
        self._names = [source.table.full_name for source in checked.sources]
        self._card = checked.model.card
        self._left_out = checked.left_out
        self._telemetry = watched.telemetry
        self._shapes = Shapes(databases, checked.sources, watched.leaves)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._trial = watched.trial
        self._count = Counts()
        self._undelivered_names: set[str] = set()
        self._unlogged: dict[str, str] = {}
        self.facts = Facts()

    def __enter__(self) -> "Watch":
        self._thread.start()
        if self._trial is not None:  # in a thread of its own, because it can hang
            trial = threading.Thread(
                target=self._try_out, args=(self._trial,), name="trial", daemon=True
            )
            trial.start()
        return self

    def _try_out(self, trial: Callable[[], None]) -> None:
        try:
            trial()
        except CdcEmbedError as exc:
            self._instance.fail(exc)
        except AbandonedError:
            log.debug("embedder was not tried before the end")

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(CANCEL_SECONDS)
        while self._thread.is_alive():
            self._databases.cancel()
            self._thread.join(CANCEL_SECONDS)

    def _run(self) -> None:
        due = 0.0
        while True:
            try:
                self._look_for_work()
                self._databases.rows.close_unused(UNUSED_SECONDS)
                if time.monotonic() >= due:
                    due = time.monotonic() + self._intervals.catalogue
                    self._watch()
            except (SourceUnavailableError, TargetUnavailableError) as exc:
                # the loop meets the same error and waits; here it only means old numbers
                log.debug("databases were not watched", problem=str(exc))
            except OSError as exc:
                if not is_passing(exc):
                    raise
                log.warning("databases were not watched", problem=str(exc))
            except CdcEmbedError as exc:
                self._instance.fail(exc)
                return
            if self._stop.wait(self._intervals.requests):
                return

    def _look_for_work(self) -> None:
        """Wake what compares rows, if there is something to compare or to answer."""
        if not self._instance.leading:
            return
        config = self._databases.config
        delivered = [name for name in self._names if name not in self._undelivered.problems]
        self._reconciling.has_work = something_to_do(
            self._databases.target, config.target.schema, config.source.slot, delivered
        )

    def _watch(self) -> None:
        databases = self._databases
        lacking = {f.table: why_paused(f) for f in check_rights(databases) if f.failed}
        lacking |= opened_tables(databases, [source.table for source in self._tables])
        expect_keeper(databases, self._names, migrated=True)
        with self._undelivered.looking() as found:
            observed = databases.coverage.observe(self._tables)
            if observed.mendable:
                for done in databases.coverage.protect():
                    log.warning("publication was altered", done=done)
                observed = databases.coverage.observe(self._tables)
            others = {**lacking, **self._unlogged}
            found.update({**others, **observed.undelivered, **observed.altered})
        self._check_coverage()
        self._look_at_left_out()
        self._look_at_successors(observed.successors)
        unfit = self._undelivered.until_setup.keys() - self._left_out.keys()
        if unfit or observed.altered:  # else a batch finds that setup has run, by the epoch
            tables = [source.table for source in self._tables]
            expect_unchanged(databases, tables, unfit)
        names = [*self._names, *self._left_out]
        before = self._telemetry.deferrals
        stored = stored_tables(databases.target, databases.config.target.schema, names)
        self._pause_unlogged(stored)
        if self._instance.leading:  # a standby of another version can see other shapes
            self._shapes.check(observed, stored)
        self.facts = gather(databases, self._count, observed, stored, self._undelivered.problems)
        self._telemetry.note_deferred((each.deferred_since for each in stored.values()), before)
        self._show_metrics(self.facts)
        databases.catalogue.refuse_synchronous(stream_name(databases.config.source.slot))
        self._check_confirmed(self.facts)

    def _check_coverage(self) -> None:
        """Have undelivered tables compared when they are delivered again; they are paused already,
        so that no comparison of them begins before."""
        undelivered = self._undelivered.problems
        new = undelivered.keys() - self._undelivered_names
        if new:
            self._ledger.compare_again(new, None)
        for table in sorted(new):
            log.error("table is paused", table=table, problem=undelivered[table], hint=REPAIR)
        for table in sorted(self._undelivered_names - undelivered.keys()):
            log.info("table is delivered again, every row is compared", table=table)
        self._undelivered_names = set(undelivered)
        for name in (*(source.table.full_name for source in self._tables), *self._left_out):
            self._telemetry.metrics.table_followed.labels(name).set(name not in undelivered)

    def _pause_unlogged(self, stored: Mapping[str, StoredTable]) -> None:
        """Pause the tables whose vectors a crash of the target would take; ``setup`` makes them
        right, and every row is compared."""
        self._unlogged = {
            name: f"{unlogged(each.embedding_table)}; {REPAIR}"
            for name, each in stored.items()
            if not each.logged
        }
        for source in self._tables:
            if source.table.full_name in self._unlogged:
                self._undelivered.meet(source.table, self._unlogged[source.table.full_name])

    def _look_at_left_out(self) -> None:
        """Begin anew when a table can be followed that could not be at the start."""
        if not self._left_out:
            return
        paused = find_paused(self._databases, self._left_out, self._card)
        out = paused.keys() | self._refusing.findings.keys()
        mended = sorted(self._left_out.keys() - out)
        if mended:
            log.info("tables can be followed again", tables=mended)
            self._instance.restart()

    def _look_at_successors(self, successors: Sequence[SourceTable]) -> None:
        """Begin anew when the changes of another table that has a followed one's name arrive."""
        coverage = self._databases.coverage
        if not successors or coverage.by_name:
            return
        undelivered = coverage.observe(successors).undelivered
        for source in successors:
            if source.table.full_name not in undelivered:
                raise TablesChangedError(table=source.table.full_name)

    def _check_confirmed(self, facts: Facts) -> None:
        if facts.slot is None or facts.checkpoint is None or facts.slot.confirmed_lsn is None:
            return
        confirmed, recorded = facts.slot.confirmed_lsn, facts.checkpoint.recorded
        if confirmed > recorded and not self._instance.has_lost_nothing(confirmed, recorded):
            self._telemetry.metrics.confirmed_beyond_durable.inc()
            log.error(
                "slot beyond the recorded position",
                confirmed=str(confirmed),
                recorded=str(recorded),
            )

    def _show_metrics(self, facts: Facts) -> None:
        metrics = self._telemetry.metrics
        for table in facts.tables:
            metrics.dead_letters_pending.labels(table.name).set(table.dead_letters)
            metrics.deferred_documents.labels(table.name).set(table.deferred)
        for name, tokens in pending_tokens(facts, self._reconciling.sizes).items():
            metrics.set_pending(name, tokens or 0)
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
