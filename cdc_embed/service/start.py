"""The start of a configured service: its preconditions, its parts, and a new slot for a lost one.

``cdc-embed run``, the demo, commands that find no service, and applications all start it here.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Event

import structlog

from cdc_embed.config.load import Config
from cdc_embed.embed.base import Embedder, ModelCard
from cdc_embed.embed.make import make_embedder
from cdc_embed.errors import HistoryGapError
from cdc_embed.flow.telemetry import Listener
from cdc_embed.metrics import Metrics
from cdc_embed.service.checked import Checked, LastingParts, Model
from cdc_embed.service.listeners import Listeners
from cdc_embed.service.parts import Parts
from cdc_embed.service.refusing import Refusing
from cdc_embed.service.service import Service, Started, StartStoppedError
from cdc_embed.service.tolerance import USUAL, Tolerance
from cdc_embed.service.trying import try_embedder
from cdc_embed.setup.connections import Connections, connections, known_facts
from cdc_embed.setup.ownership import expect_own_gap
from cdc_embed.setup.plan import Step, plan_setup, run_setup
from cdc_embed.setup.preflight import survey_all, survey_model
from cdc_embed.setup.spaces import keep_canaries, settle_spaces, with_stored_canary

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
    HTTP as ``[serve]`` says, before it asks a database. ``embedder`` replaces the configured one;
    it is left open, unless it does not answer when a stop is overdue. ``tolerance`` has the limits
    that the configuration does not name; with ``away_at_start`` the preconditions are checked in
    ``Service.run``, which waits for a database or embedder that is away.
    """
    with ExitStack() as stack:
        metrics = Metrics(
            slot=config.source.slot,
            tables=[table.full_name for table in config.tables],
            price=config.embedder.price_per_million_tokens,
        )
        told = Listeners(listeners, metrics, tolerance)
        stack.callback(told.close)
        refusing = Refusing(config.tables, tolerance.refusing_table)
        kept = LastingParts(metrics=metrics, listeners=told, tolerance=tolerance, refusing=refusing)
        starter = _Starter(config, embedder, kept, stack)
        service = Service(
            starter.start,
            kept,
            name=config.source.slot,
            rebuilds=config.source.on_history_gap == "rebuild",
        )
        stack.callback(service.close)
        if serve:
            stack.enter_context(_serving(config, service, tolerance.idle_connection))
        waits = tolerance.away_at_start
        config.wait_for_secrets(tolerance.refused_secret, at_start=waits)
        if not waits:
            service.begin()
        yield service


@contextmanager
def _serving(config: Config, service: Service, idle_seconds: float) -> Iterator[None]:
    # the web server is imported only where it is wanted
    from cdc_embed.serve.app import LOCAL_NAMES, Endpoints, host_in_url, make_app
    from cdc_embed.serve.app import serving as serving_app

    settings = config.serve
    answers = Endpoints(
        registry=service.registry,
        problem_alive=service.problem_alive,
        problem_ready=service.problem_ready,
        status=service.status,
    )
    names = LOCAL_NAMES | {host_in_url(settings.host)} | frozenset(settings.allowed_hosts)
    app = make_app(answers, names)
    with serving_app(app, settings.host, settings.port, idle_seconds) as port:
        log.info("serving", host=settings.host, port=port)
        yield


class _Starter:
    """Starts the instances of one service, one after the other."""

    def __init__(
        self, config: Config, embedder: Embedder | None, kept: LastingParts, stack: ExitStack
    ) -> None:
        self._config = config
        self._embedder = embedder
        self._kept = kept
        self._stack = stack
        self._model: Model | None = None

    def start(self, gap: HistoryGapError | None, stopping: Event) -> Started:
        """Check the preconditions, make a new slot if there is a gap, and start an instance."""
        with ExitStack() as stack:
            databases = stack.enter_context(connections(self._config))
            for done in databases.coverage.protect():  # whatever else is found
                log.warning("publication was altered", done=done)
            survey = survey_all(databases)
            self._kept.refusing.hindrances = survey.hindrances
            if gap is None:
                survey.expect_usable()
            else:
                expect_own_gap(databases, [source.table.full_name for source in survey.tables])
            model = self._keep_model(databases, stopping)
            for done in settle_spaces(databases, model.embedder, model.card).carry_out(databases):
                log.warning("space was changed", done=done)
            if gap is not None:
                _make_new_slot(databases, model.card, gap, stopping)
                survey = survey_all(databases)
            keep_canaries(databases, model.card)
            survey_model(databases, survey, model.card)
            self._kept.refusing.leave_out(survey)
            survey.expect_usable()
            checked = Checked(
                databases=databases,
                model=model,
                sources=survey.tables,
                paused=survey.paused,
            )
            return self._build(checked, stack)

    def _keep_model(self, databases: Connections, stopping: Event) -> Model:
        """Make the model for the first instance; it outlives each."""
        if self._model is None:
            self._model = self._make_model(databases, stopping)
            card = self._model.card
            self._kept.metrics.set_model(card.identity)
            if card.meter is not None:
                card.meter.listen(self._kept.metrics.embedded_tokens)
            log.info("model is loaded", model=card.identity, threads=card.threads)
        return self._model

    def _make_model(self, databases: Connections, stopping: Event) -> Model:
        if self._embedder is not None:
            return Model(embedder=self._embedder, card=self._embedder.describe())
        with ExitStack() as stack:
            embedder = make_embedder(self._config.embedder, known_facts(databases))
            stack.callback(embedder.close)
            stored = partial(with_stored_canary, databases, embedder)
            slow = self._kept.tolerance.slow_trial
            watched = try_embedder(embedder, self._config.embedder, stored, stopping, slow)
            self._stack.push(stack.pop_all())
        return Model(embedder=watched, card=watched.describe())

    def _build(self, checked: Checked, stack: ExitStack) -> Started:
        parts = Parts(checked, self._kept, stack)
        instance, watch, reconciling = parts.make_instance()
        stack.enter_context(watch)
        return Started(
            instance=instance,
            health=parts.make_health(instance, reconciling),
            watch=watch,
            drain_timeout=self._config.limits.drain_timeout,
            close=stack.pop_all().close,
        )


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
        log.info("setup runs a step", side=step.where.value, step=step.why)

    def on_wait(holders: list[str]) -> None:
        expect_no_stop()
        log.info("setup waits", transactions=holders)

    plan = plan_setup(databases, card, rebuild=True, gap=str(gap))
    run_setup(databases, plan, on_step=on_step, on_wait=on_wait)
