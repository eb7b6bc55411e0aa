"""The construction of one service, part by part, from its configuration."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Final

import structlog

from cdc_embed.change.action import Row
from cdc_embed.change.document import Key, Table
from cdc_embed.config.load import Config
from cdc_embed.embed.base import Embedder, ModelCard
from cdc_embed.errors import CdcEmbedError
from cdc_embed.flow.embedding import EmbeddingRunner
from cdc_embed.flow.lane import Lane
from cdc_embed.flow.patience import Patience
from cdc_embed.flow.pipeline import Limits
from cdc_embed.flow.telemetry import Listener, Telemetry
from cdc_embed.lsn import LSN
from cdc_embed.metrics import Metrics
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import SOURCE, TARGET, Side
from cdc_embed.reconcile.indexing import Indexer
from cdc_embed.reconcile.reconciler import Reconciler
from cdc_embed.reconcile.requests import Requests, Size
from cdc_embed.reconcile.retry import Retrier
from cdc_embed.reconcile.slices import Scope, SliceReader
from cdc_embed.reconcile.verify import Verifier
from cdc_embed.serve.app import LOCAL_NAMES, Answers, host_in_url, make_app, serving
from cdc_embed.serve.status import Live, status
from cdc_embed.service.plugin import make_plugin
from cdc_embed.service.service import Service, Source
from cdc_embed.service.watch import Watch
from cdc_embed.setup.connections import (
    Connections,
    connections,
    cutter,
    expect_set_up,
    open_store,
)
from cdc_embed.setup.ownership import expect_keeper
from cdc_embed.source.coverage import COVERAGES, Coverage, Undelivered, undelivered_is_outage
from cdc_embed.source.rows import RowReader
from cdc_embed.source.slot import SlotCatalogue
from cdc_embed.source.tables import SourceTable, estimate_rows, text_bytes
from cdc_embed.source.timing import longest_silence, report_interval, silence_limit
from cdc_embed.target.checks import vector_extension
from cdc_embed.target.index import ensure_index
from cdc_embed.target.ledger import Ledger
from cdc_embed.target.letters import Letters
from cdc_embed.target.store import Store

DEAD_LOOP_SECONDS: Final = 60.0
"""The loop turns several times a second; a minute without a turn is a hang."""
LONG_TROUBLE_SECONDS: Final = 30.0
"""A short outage of the embedder is normal and no reason to be called unready."""

log = structlog.get_logger()


class Parts:
    """What one service is made of."""

    def __init__(
        self,
        config: Config,
        databases: Connections,
        tables: list[SourceTable],
        embedder: Embedder,
        card: ModelCard,
        listeners: Sequence[Listener],
        delivered_from: LSN,
    ) -> None:
        self.config = config
        self.databases = databases
        self.sources = tables
        self.tables = [source.table for source in tables]
        self.embedder = embedder
        self.card = card
        self.delivered_from = delivered_from
        names = [table.full_name for table in self.tables]
        self.metrics = Metrics(slot=config.source.slot, tables=names, model=card.identity)
        self.telemetry = Telemetry(self.metrics, listeners)
        self.undelivered = Undelivered()
        self.abandon = threading.Event()
        self.patience = Patience(self.abandon, self._count_error)
        extension = vector_extension(databases.target)
        assert extension is not None, "the preflight found pgvector"
        self.extension_schema = extension[1]
        self.read_session = self._session(SOURCE, "rows")
        self.reader = RowReader(self.read_session, self.abandon)

    def build(self, stack: ExitStack) -> Service:
        config = self.config
        expect_keeper(self.databases, self.tables)
        store = open_store(self.databases, self.tables, self.card, self.extension_schema)
        stack.callback(store.close)
        stack.callback(self.reader.close)
        runner = EmbeddingRunner(self.embedder, self.card, self.patience, self.metrics)
        stack.callback(runner.close)
        reconciling = self._reconciling(stack, store)
        wal_sender_timeout = self.databases.catalogue.wal_sender_timeout()
        service = Service(
            source=Source(
                dsn=config.source.resolved_dsn(),
                slot=config.source.slot,
                plugin=make_plugin(self.databases, self.tables),
                catalogue=self.databases.catalogue,
                read_rows=self._read_rows,
                tables=self.tables,
                delivered_from=self.delivered_from,
                on_undelivered=self._on_undelivered(stack),
                silence_limit=silence_limit(wal_sender_timeout),
                longest_silence=longest_silence(wal_sender_timeout),
            ),
            store=store,
            cut=cutter(self.card, self.tables),
            recheck=self._recheck,
            reconciling=lambda lane, epoch, ended: reconciling(lane, epoch, ended, service.fail),
            runner=runner,
            patience=self.patience,
            telemetry=self.telemetry,
            limits=Limits(
                memory=config.limits.memory,
                report_interval=report_interval(wal_sender_timeout),
                linger=config.embedder.linger,
            ),
            abandon=self.abandon,
            drain_timeout=config.limits.drain_timeout,
        )
        return service

    def _on_undelivered(self, stack: ExitStack) -> Callable[[Table], None]:
        """Has a table compared whose changes of a time when it was not in order are of no use."""
        session = self._session(TARGET, "missed")
        stack.callback(session.close)
        ledger = Ledger(session, self.config.target.schema, self.config.source.slot)

        def miss(table: Table) -> None:
            ledger.again([table.full_name], None)
            log.warning("table was not in order, every row is compared", table=table.full_name)

        return miss

    def _read_rows(self, table: Table, wanted: Mapping[Key, int]) -> dict[Key, Row | None]:
        """Rows by key. Those of a table that stands still are unknown until it is compared: what
        has its name now may be another table."""
        if self.undelivered.problem_of([table]):
            return dict.fromkeys(wanted)
        with self._reading(self.read_session):
            return self.reader.read(table, wanted)

    def _reading(self, session: Session) -> AbstractContextManager[None]:
        return undelivered_is_outage(self._coverage(session), self.sources)

    def _coverage(self, session: Session) -> Coverage:
        return COVERAGES[self.config.source.plugin](session, self.config)

    def _recheck(self) -> None:
        expect_keeper(self.databases, self.tables)
        for table in self.tables:
            expect_set_up(self.databases, table, self.card)

    def _reconciling(self, stack: ExitStack, store: Store) -> Callable[..., Reconciler]:
        """What compares rows beside each connection, in sessions of its own."""
        config, schema = self.config, self.config.target.schema
        scan = self._session(SOURCE, "reconcile")
        notes = self._session(TARGET, "reconcile")
        stack.callback(scan.close)
        stack.callback(notes.close)
        indexer = Indexer(self._session(TARGET, "index"), self._ensure_index)
        stack.callback(indexer.close)
        scopes = [Scope(table=table, space=store.space(table)) for table in self.tables]

        def cancel() -> None:
            scan.cancel()
            notes.cancel()

        def make(
            lane: Lane,
            epoch: int,
            ended: threading.Event,
            on_failure: Callable[[CdcEmbedError], None],
        ) -> Reconciler:
            ledger = Ledger(notes, schema, config.source.slot)
            slices = SliceReader(
                lane=lane,
                rows=RowReader(scan, ended),
                ledger=ledger,
                wal_end=SlotCatalogue(scan, config.source.slot).wal_end,
                stop=ended,
                rows_per_second=config.backfill.rows_per_second,
            )
            verifier = Verifier(
                slices=slices,
                scopes=scopes,
                metrics=self.metrics,
                undelivered=self.undelivered,
                paid=self.card.paid,
            )
            retrier = Retrier(
                slices=slices,
                scopes=scopes,
                letters=Letters(notes, schema),
                undelivered=self.undelivered,
            )
            return Reconciler(
                slices=slices,
                scopes=scopes,
                requests=Requests(
                    ledger=ledger,
                    scopes=scopes,
                    backfill=config.backfill,
                    paid=self.card.paid,
                    measure=lambda table: self._measure(scan, table),
                    undelivered=self.undelivered,
                ),
                answers={"verify": verifier.answer, "retry": retrier.answer},
                on_compared=indexer.filled,
                on_failure=on_failure,
                undelivered=self.undelivered,
                reading=lambda: self._reading(scan),
                epoch=epoch,
                metrics=self.metrics,
                stop=ended,
                cancel=cancel,
            )

        return make

    def _measure(self, session: Session, table: Table) -> Size:
        shape = self._coverage(session).shape(table)
        if not self.card.paid:
            return Size(rows=estimate_rows(session, table), bytes=0, shape=shape)
        rows, size = text_bytes(session, table)
        return Size(rows=rows, bytes=size, shape=shape)

    def _ensure_index(self, session: Session, table: Table) -> bool:
        return ensure_index(
            session, self.config.target.schema, table, self.config.index, self.extension_schema
        )

    def _session(self, side: Side, name: str) -> Session:
        source = self.config.source
        dsn = source.resolved_dsn() if side is SOURCE else self.config.target_dsn()
        return Session(side, dsn, f"cdc_embed {name} {source.slot}")

    def watch(self, stack: ExitStack, service: Service, *, serve: bool) -> None:
        """Look after both databases and, with ``serve``, answer over HTTP."""
        watching = stack.enter_context(connections(self.config))
        watch = Watch(
            watching,
            self.sources,
            self.telemetry,
            self.undelivered,
            on_failure=service.fail,
            is_leading=lambda: service.leading,
        )
        stack.enter_context(watch)
        if not serve:
            return
        settings = self.config.serve
        app = make_app(
            Answers(
                registry=self.metrics.registry,
                problem_alive=self._problem_alive,
                problem_ready=lambda: self._problem_ready(service),
                status=lambda: status(watch.facts, self._live(service, self.reader)),
            ),
            LOCAL_NAMES | {host_in_url(settings.host)} | frozenset(settings.allowed_hosts),
        )
        port = stack.enter_context(serving(app, settings.host, settings.port))
        log.info("serving", host=settings.host, port=port)

    def _count_error(self, stage: str, error: CdcEmbedError) -> None:
        self.metrics.errors.labels(stage, type(error).__name__).inc()
        log.warning("waiting", stage=stage, problem=str(error))

    def _problem_alive(self) -> str | None:
        silent = time.monotonic() - self.telemetry.ticked_at
        return f"the loop has not turned for {silent:.0f} s" if silent > DEAD_LOOP_SECONDS else None

    def _problem_ready(self, service: Service) -> str | None:
        if service.phase not in {"streaming", "standby"}:
            return service.phase
        for table, problem in self.undelivered.problems.items():
            return f"{table} {problem}"
        now = time.monotonic()
        for stage, trouble in list(self.patience.troubles.items()):
            if now - trouble.since > LONG_TROUBLE_SECONDS:
                return f"{stage}: {trouble.problem}"
        return None

    def _live(self, service: Service, reader: RowReader) -> Live:
        troubles = list(self.patience.troubles.items())
        waiting = {stage: trouble.problem for stage, trouble in troubles}
        if reader.waiting_for is not None:
            waiting["source"] = f"transaction {reader.waiting_for} is committed but not visible yet"
        if service.phase == "standby":
            waiting["slot"] = service.holder
        if service.phase == "reconnecting" and service.lost:
            waiting["stream"] = service.lost
        if service.reconcile_waits_for:
            waiting["reconcile"] = f"the end of {service.reconcile_waits_for}"
        return Live(
            state=service.phase,
            role="leader" if service.leading else "standby",
            positions=self.telemetry.positions,
            oldest_pending_age_seconds=self.telemetry.oldest_pending_age(),
            waiting=waiting,
        )
