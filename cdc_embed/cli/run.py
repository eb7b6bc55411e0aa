"""``cdc-embed run``: the service, until a signal ends it."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import structlog
import typer

from cdc_embed.cli.context import Context
from cdc_embed.cli.embedder import make_embedder
from cdc_embed.cli.logs import set_up_logs
from cdc_embed.config import Config
from cdc_embed.embed.base import Embedder, ModelCard
from cdc_embed.errors import CdcEmbedError, ConfigError
from cdc_embed.finding import expect
from cdc_embed.flow.connections import Connections, connections, open_store, stored_dimensions
from cdc_embed.flow.embedding import EmbeddingRunner
from cdc_embed.flow.patience import Patience
from cdc_embed.flow.pipeline import Limits
from cdc_embed.flow.preflight import survey_all
from cdc_embed.flow.service import Plugin, Service, Source, report_interval
from cdc_embed.flow.telemetry import Listener, Telemetry
from cdc_embed.flow.watch import Watch
from cdc_embed.metrics import Metrics
from cdc_embed.serve.app import LOCAL_NAMES, Answers, make_app, serving
from cdc_embed.serve.status import Live, status
from cdc_embed.session import SOURCE, Session
from cdc_embed.source.rows import RowReader
from cdc_embed.source.tables import SourceTable
from cdc_embed.target.checks import vector_extension
from cdc_embed.wire import pgoutput

DEAD_LOOP_SECONDS: Final = 60.0
"""The loop turns several times a second; a minute without a turn is a hang."""
LONG_TROUBLE_SECONDS: Final = 30.0
"""A short outage of the embedder is normal and no reason to be called unready."""

log = structlog.get_logger()


def run(ctx: typer.Context) -> None:
    """Follow the slot and keep the vectors fresh, until SIGTERM or SIGINT."""
    context: Context = ctx.obj
    config = context.load()
    set_up_logs(config.log, debug=context.debug)
    with running(config) as service, _signals(service):
        service.run()


@contextmanager
def running(
    config: Config, *, embedder: Embedder | None = None, listeners: Sequence[Listener] = ()
) -> Iterator[Service]:
    """A service that is ready to run, with its watcher and its web side.

    Raises every failed precondition before anything is started.
    """
    with ExitStack() as stack:
        both = stack.enter_context(connections(config))
        survey = survey_all(both)
        expect(survey.findings)
        if embedder is None:
            dimensions = stored_dimensions(both, [source.table for source in survey.tables])
            embedder = make_embedder(config.embedder, stored_dimensions=dimensions)
        card = embedder.describe()
        parts = _Parts(config, both, survey.tables, embedder, card, listeners)
        service = parts.build(stack)
        yield service


class _Parts:
    """The construction of one service, part by part."""

    def __init__(
        self,
        config: Config,
        both: Connections,
        tables: list[SourceTable],
        embedder: Embedder,
        card: ModelCard,
        listeners: Sequence[Listener],
    ) -> None:
        self.config = config
        self.both = both
        self.tables = tables
        self.embedder = embedder
        self.card = card
        names = [source.table.full_name for source in tables]
        self.metrics = Metrics(slot=config.source.slot, tables=names, model=card.identity)
        self.telemetry = Telemetry(self.metrics, listeners)
        self.abandon = threading.Event()
        self.patience = Patience(self.abandon, self._count_error)

    def build(self, stack: ExitStack) -> Service:
        config = self.config
        extension = vector_extension(self.both.target)
        assert extension is not None, "the preflight found pgvector"
        tables = [source.table for source in self.tables]
        store = open_store(self.both, tables, self.card, extension[1])
        stack.callback(store.close)
        rows = Session(SOURCE, config.source.resolved_dsn(), f"cdc_embed rows {config.source.slot}")
        stack.callback(rows.close)
        reader = RowReader(rows, self.abandon)
        runner = EmbeddingRunner(self.embedder, self.card, self.patience, self.metrics)
        stack.callback(runner.close)
        service = Service(
            source=Source(
                dsn=config.source.resolved_dsn(),
                slot=config.source.slot,
                plugin=make_plugin(config),
                catalogue=self.both.catalogue,
                rows=reader,
                tables=tables,
            ),
            store=store,
            runner=runner,
            patience=self.patience,
            telemetry=self.telemetry,
            limits=Limits(
                memory=config.limits.memory,
                report_interval=report_interval(self.both.catalogue.wal_sender_timeout()),
                linger=config.embedder.linger,
            ),
            abandon=self.abandon,
            drain_timeout=config.limits.drain_timeout,
        )
        self._serve(stack, service, reader)
        return service

    def _serve(self, stack: ExitStack, service: Service, reader: RowReader) -> None:
        watching = stack.enter_context(connections(self.config))
        watch = Watch(watching, self.tables, self.telemetry, service.fail)
        stack.enter_context(watch)
        serve = self.config.serve
        app = make_app(
            Answers(
                registry=self.metrics.registry,
                problem_alive=self._problem_alive,
                problem_ready=lambda: self._problem_ready(service),
                status=lambda: status(watch.facts, self._live(service, reader)),
            ),
            LOCAL_NAMES | {serve.host} | frozenset(serve.allowed_hosts),
        )
        port = stack.enter_context(serving(app, serve.host, serve.port))
        log.info("serving", host=serve.host, port=port)

    def _count_error(self, stage: str, error: CdcEmbedError) -> None:
        self.metrics.errors.labels(stage, type(error).__name__).inc()
        log.warning("waiting", stage=stage, problem=str(error))

    def _problem_alive(self) -> str | None:
        silent = time.monotonic() - self.telemetry.ticked_at
        return f"the loop has not turned for {silent:.0f} s" if silent > DEAD_LOOP_SECONDS else None

    def _problem_ready(self, service: Service) -> str | None:
        if service.phase not in {"streaming", "standby"}:
            return service.phase
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
        return Live(
            state=service.phase,
            role="leader" if service.leading else "standby",
            positions=self.telemetry.positions,
            oldest_pending_age_seconds=self.telemetry.oldest_pending_age(),
            waiting=waiting,
        )


def make_plugin(config: Config) -> Plugin:
    """The configured output plugin."""
    if config.source.plugin != "pgoutput":
        raise ConfigError(
            where="source.plugin",
            problem=f"{config.source.plugin} comes with a later version",
            hint='set source.plugin = "pgoutput"',
        )
    publication = '"{}"'.format(config.source.publication.replace('"', '""'))
    return Plugin(
        name="pgoutput",
        options={"proto_version": "1", "publication_names": publication, "messages": "true"},
        decode=pgoutput.decode,
    )


@contextmanager
def _signals(service: Service) -> Iterator[None]:
    """The first SIGTERM or SIGINT drains, the second ends at once."""
    received = 0

    def on_signal(*_: Any) -> None:
        nonlocal received
        received += 1
        if received == 1:
            service.stop()
        else:
            service.stop_now()

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
