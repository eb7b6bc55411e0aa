"""The construction of one instance, part by part. Nothing runs here."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final

import structlog

from cdc_embed.change.document import Table
from cdc_embed.change.transaction import Callbacks
from cdc_embed.embed.watched import WatchedEmbedder
from cdc_embed.errors import CdcEmbedError, TableChangedError
from cdc_embed.flow.embedding import EmbeddingRunner
from cdc_embed.flow.limits import Limits
from cdc_embed.flow.patience import Patience
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.service.checked import Checked, LastingParts
from cdc_embed.service.health import Health
from cdc_embed.service.instance import Instance
from cdc_embed.service.plugin import make_plugin
from cdc_embed.service.reading import ComparisonStarter, Refetcher
from cdc_embed.service.reconciling import Reconciling
from cdc_embed.service.shapes import MetLeaves
from cdc_embed.service.stages import Source, Stages
from cdc_embed.service.stop import Stop
from cdc_embed.service.watch import Watch, WatchedParts
from cdc_embed.setup.agreement import expect_unchanged, unfit_tables
from cdc_embed.setup.connections import cutter, expect_set_up, open_store, read_stored
from cdc_embed.setup.ownership import expect_keeper, expect_own_slot
from cdc_embed.source.coverage import Undelivered
from cdc_embed.source.tables import wide_columns
from cdc_embed.source.timing import report_interval
from cdc_embed.target.store import Store

TELL_SECONDS: Final = 10.0
"""The seconds in which the log tells an equal failure once, because in an outage each of several
batches a second meets it."""

log = structlog.get_logger()


class Parts:
    """Makes the parts of one instance; their open connections and threads are closed with
    ``stack``."""

    def __init__(self, checked: Checked, kept: LastingParts, stack: ExitStack) -> None:
        self._checked = checked
        self._config = checked.config
        self._model = checked.model
        self._metrics = kept.metrics
        self._listeners = kept.listeners
        self._tolerance = kept.tolerance
        self._kept = kept
        self._refusing = kept.refusing
        self._stack = stack
        self._stop = Stop(self._config.limits.drain_timeout)
        self._told: dict[str, tuple[str, float]] = {}
        """The failure of each stage that the log told last, and when."""
        self._patience = Patience(self._stop.abandon, self._count_error)
        unfit = unfit_tables(checked.databases, checked.tables)
        until_setup = {**checked.left_out, **unfit}
        problems = {**checked.paused, **until_setup}
        self._undelivered = Undelivered(problems=problems, until_setup=until_setup)
        self._telemetry = Telemetry(kept.metrics, kept.listeners.tell)
        self._leaves = MetLeaves()
        self._refetcher = Refetcher(checked, self._undelivered, self._stop.abandon)

    def make_instance(self) -> tuple[Instance, Watch, Reconciling]:
        """Make the instance, its watch and what compares; raise if ``setup`` must be run first."""
        checked = self._checked
        expect_keeper(checked.databases, [table.full_name for table in checked.tables])
        stages = self._make_stages()
        reconciling = Reconciling(checked, self._kept, stages, self._undelivered, self._leaves)
        self._stack.callback(reconciling.close)
        instance = Instance(
            source=self._make_source(),
            stages=stages,
            reconciling=reconciling.make,
            telemetry=self._telemetry,
            stop=self._stop,
        )
        watched = WatchedParts(
            instance=instance,
            undelivered=self._undelivered,
            telemetry=self._telemetry,
            reconciling=reconciling,
            leaves=self._leaves,
            refusing=self._refusing,
            intervals=self._tolerance.intervals,
            trial=self._trial(),
        )
        return instance, Watch(checked, watched), reconciling

    def make_health(self, instance: Instance, reconciling: Reconciling) -> Health:
        """Make the answers about an instance that come from memory."""
        return Health(
            instance=instance,
            telemetry=self._telemetry,
            undelivered=self._undelivered,
            patience=self._patience,
            refetcher=self._refetcher,
            listeners=self._listeners,
            refusing=self._refusing,
            tolerance=self._tolerance,
            reconciling=reconciling,
            threads=self._model.card.threads,
        )

    def _make_source(self) -> Source:
        checked = self._checked
        catalogue = checked.databases.catalogue
        return Source(
            login=self._config.source_login,
            slot=self._config.source.slot,
            plugin=make_plugin(checked.databases, checked.tables),
            catalogue=catalogue,
            read_rows=self._refetcher.read_rows,
            tables=checked.tables,
            callbacks=self._make_callbacks(),
            expect_own=lambda: expect_own_slot(checked.databases),
            find_wide=lambda: wide_columns(checked.databases.source, checked.sources),
            least_silence=self._tolerance.least_silence,
            standby_interval=self._tolerance.intervals.standby,
        )

    def _make_callbacks(self) -> Callbacks:
        starter = ComparisonStarter(self._checked.databases)
        skipped = self._metrics.changes_skipped

        def pause(table: Table, error: TableChangedError) -> None:
            # paused first, so that no comparison of it begins
            problem = str(error.fields["problem"])
            self._undelivered.meet(table, problem)
            starter.compare_again(table, problem)

        return Callbacks(
            on_covered=lambda table: skipped.labels(table.full_name, "filtered").inc(),
            is_paused=lambda table: table.full_name in self._undelivered.problems,
            on_undelivered=pause,
            on_leaf=self._leaves.meet,
        )

    def _make_stages(self) -> Stages:
        card, checked = self._model.card, self._checked
        runner = EmbeddingRunner(
            self._model.embedder,
            self._patience,
            self._metrics,
            strikes_seconds=self._tolerance.failing_text,
        )
        self._stack.callback(runner.close)
        return Stages(
            store=self._open_store(),
            cut=cutter(card, checked.tables),
            runner=runner,
            patience=self._patience,
            limits=self._make_limits,
            recheck=self._recheck,
        )

    def _open_store(self) -> Store:
        checked = self._checked
        schema = checked.find_extension_schema()
        store = open_store(checked.databases, checked.tables, self._model.card, schema)
        self._stack.callback(store.close)
        return store

    def _trial(self) -> Callable[[], None] | None:
        """Return what tries the embedder out until it is well; None if it was tried."""
        embedder = self._model.embedder
        if not isinstance(embedder, WatchedEmbedder) or embedder.tried:
            return None
        return partial(self._patience.keep_trying, "embedder", embedder.expect_tried)

    def _make_limits(self, timeout: float) -> Limits:
        return Limits(
            memory=self._config.limits.memory,
            report_interval=report_interval(timeout),
            linger=self._config.embedder.linger,
        )

    def _recheck(self) -> None:
        databases, tables = self._checked.databases, self._checked.tables
        expect_keeper(databases, [table.full_name for table in tables])
        known = self._undelivered.until_setup.keys() - self._checked.left_out.keys()
        expect_unchanged(databases, tables, known)
        stored = read_stored(databases)
        for table in tables:
            expect_set_up(databases, stored, table, self._model.card)

    def _count_error(self, stage: str, error: CdcEmbedError) -> None:
        self._metrics.errors.labels(stage, type(error).__name__).inc()
        problem, now = str(error), time.monotonic()
        told, at = self._told.get(stage, ("", 0.0))
        if problem != told or now - at > TELL_SECONDS:
            self._told[stage] = problem, now
            log.warning("waiting", stage=stage, problem=problem)
