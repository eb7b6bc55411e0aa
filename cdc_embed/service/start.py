"""The start of a configured service: its preconditions, its parts, and a new slot for a lost one.

``cdc-embed run``, the demo, commands that find no service, and applications all start it here.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Event

import structlog

from cdc_embed.config.load import Config
from cdc_embed.embed.base import Embedder, ModelCard
from cdc_embed.embed.make import make_embedder
from cdc_embed.errors import HistoryGapError
from cdc_embed.finding import expect
from cdc_embed.flow.telemetry import Listener
from cdc_embed.metrics import Metrics
from cdc_embed.service.checked import Checked, Kept, Model
from cdc_embed.service.listeners import Listeners
from cdc_embed.service.parts import Parts
from cdc_embed.service.service import Service, Started, StartStoppedError
from cdc_embed.service.tolerance import USUAL, Tolerance
from cdc_embed.setup.agreement import check_keys
from cdc_embed.setup.connections import Connections, connections, expect_set_up, stored_dimensions
from cdc_embed.setup.ownership import expect_own_gap
from cdc_embed.setup.plan import Step, plan_setup, run_setup
from cdc_embed.setup.preflight import Survey, history_gap, survey_all

log = structlog.get_logger()


@contextmanager
def running(
    config: Config,
    *,
    listeners: Sequence[Listener] = (),
    serve: bool = False,
    embedder: Embedder | None = None,
    tolerance: Tolerance = USUAL,
) -> Iterator[Service]:
    """Give a service that is ready to run; close all that it opened at the end.

    Checks every precondition first, and raises the error of one that failed. ``listeners`` are
    called after each commit, in order, from one thread. With ``serve`` the service answers over
    HTTP as ``[serve]`` says. ``embedder`` replaces the configured one; it is left open,
    unless it does not answer when a stop is overdue. ``tolerance`` has the limits that the
    configuration does not name.
    """
    with ExitStack() as stack:
        starter = _Starter(config, listeners, embedder, tolerance, stack)
        service = Service(starter.start, rebuilds=config.source.on_history_gap == "rebuild")
        stack.callback(service.close)
        if serve:
            stack.enter_context(_serving(config, service))
        yield service


@contextmanager
def _serving(config: Config, service: Service) -> Iterator[None]:
    # the web server is imported only where it is wanted
    from cdc_embed.serve.app import LOCAL_NAMES, Answers, host_in_url, make_app
    from cdc_embed.serve.app import serving as serving_app

    settings = config.serve
    answers = Answers(
        registry=service.registry,
        problem_alive=service.problem_alive,
        problem_ready=service.problem_ready,
        status=service.status,
    )
    names = LOCAL_NAMES | {host_in_url(settings.host)} | frozenset(settings.allowed_hosts)
    with serving_app(make_app(answers, names), settings.host, settings.port) as port:
        log.info("serving", host=settings.host, port=port)
        yield


class _Starter:
    """Starts the instances of one service, one after the other."""

    def __init__(
        self,
        config: Config,
        listeners: Sequence[Listener],
        embedder: Embedder | None,
        tolerance: Tolerance,
        stack: ExitStack,
    ) -> None:
        self._config = config
        self._listeners = listeners
        self._embedder = embedder
        self._tolerance = tolerance
        self._stack = stack
        self._kept: Kept | None = None

    def start(self, gap: HistoryGapError | None, stopping: Event) -> Started:
        """Check the preconditions, make a new slot if there is a gap, and start an instance."""
        with ExitStack() as stack:
            databases = stack.enter_context(connections(self._config))
            for done in databases.coverage.protect():  # whatever else is found
                log.warning("publication is mended", done=done)
            survey = survey_all(databases)
            if gap is None:
                _expect_history(databases, survey)
                expect([finding for finding in survey.findings if finding.id != "publication"])
            else:
                expect_own_gap(databases, [source.table for source in survey.tables], gap)
            kept = self._keep(databases, survey)
            if gap is None:
                _expect_usable(databases, survey, kept.model.card)
            else:
                _make_new_slot(databases, kept.model.card, gap, stopping)
            checked = Checked(databases=databases, sources=survey.tables)
            return self._build(checked, kept, stack)

    def _keep(self, databases: Connections, survey: Survey) -> Kept:
        """Make the parts that outlive an instance, when the first one is started."""
        if self._kept is None:
            model = self._make_model(databases, survey)
            tables = [source.table.full_name for source in survey.tables]
            metrics = Metrics(
                slot=self._config.source.slot, tables=tables, model=model.card.identity
            )
            listeners = Listeners(self._listeners, metrics, self._tolerance)
            self._stack.callback(listeners.close)
            self._kept = Kept(
                model=model, metrics=metrics, listeners=listeners, tolerance=self._tolerance
            )
        return self._kept

    def _make_model(self, databases: Connections, survey: Survey) -> Model:
        if self._embedder is not None:
            return Model(embedder=self._embedder, card=self._embedder.describe())
        dimensions = stored_dimensions(databases, [source.table for source in survey.tables])
        embedder = make_embedder(self._config.embedder, stored_dimensions=dimensions)
        self._stack.callback(embedder.close)
        return Model(embedder=embedder, card=embedder.describe())

    def _build(self, checked: Checked, kept: Kept, stack: ExitStack) -> Started:
        parts = Parts(checked, kept, stack)
        instance, watch = parts.make_instance()
        stack.enter_context(watch)
        return Started(
            instance=instance,
            health=parts.make_health(instance),
            watch=watch,
            metrics=kept.metrics,
            listeners=kept.listeners,
            drain_timeout=self._config.limits.drain_timeout,
            close=stack.pop_all().close,
        )


def _expect_history(databases: Connections, survey: Survey) -> None:
    problem = history_gap(databases, survey)
    if problem is not None:
        raise HistoryGapError(slot=databases.config.source.slot, problem=problem)


def _expect_usable(databases: Connections, survey: Survey, card: ModelCard) -> None:
    tables = [source.table for source in survey.tables]
    for table in tables:  # another space says more than a column that is not published
        expect_set_up(databases, table, card)
    expect(survey.findings)
    keys = check_keys(databases, tables)
    if all(finding.failed for finding in keys):  # else the others go on
        expect(keys)


def _make_new_slot(
    databases: Connections, card: ModelCard, gap: HistoryGapError, stopping: Event
) -> None:
    """Do the work of ``setup --rebuild`` for a slot with a gap in its log."""
    log.error("changes are lost, every row is compared", problem=str(gap))

    def expect_no_stop() -> None:
        if stopping.is_set():
            raise StartStoppedError

    def on_step(step: Step) -> None:
        expect_no_stop()
        log.info("setup", side=step.where.value, step=step.why)

    def on_wait(holders: list[str]) -> None:
        expect_no_stop()
        log.info("setup waits", transactions=holders)

    plan = plan_setup(databases, card, rebuild=True, gap=str(gap))
    run_setup(databases, plan, on_step=on_step, on_wait=on_wait)
