"""``cdc-embed run``: the service, until a signal ends it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

import structlog
import typer

from cdc_embed.cli.context import Context
from cdc_embed.cli.embedder import make_embedder
from cdc_embed.cli.logs import set_up_logs
from cdc_embed.cli.parts import Parts
from cdc_embed.cli.stopping import Stopping, signals
from cdc_embed.config import Config
from cdc_embed.embed.base import Embedder, ModelCard
from cdc_embed.errors import HistoryGapError
from cdc_embed.finding import expect
from cdc_embed.flow.connections import Connections, connections, expect_set_up, stored_dimensions
from cdc_embed.flow.ownership import expect_own_gap
from cdc_embed.flow.preflight import history_gap, survey_all
from cdc_embed.flow.service import Service
from cdc_embed.flow.setup import plan_setup, run_setup
from cdc_embed.flow.telemetry import Listener

REBUILD_SECONDS: Final = 60.0
"""A new slot that does not last so long did not help, and another one would not either."""

log = structlog.get_logger()


def run(ctx: typer.Context) -> None:
    """Follow the slot and keep the vectors fresh, until SIGTERM or SIGINT."""
    context: Context = ctx.obj
    config = context.load()
    set_up_logs(config.log, debug=context.debug)
    with signals(config.limits.drain_timeout) as stopping:
        _run(config, stopping)


def _run(config: Config, stopping: Stopping) -> None:
    gap: HistoryGapError | None = None
    rebuilt_at = 0.0
    while True:
        try:
            with running(config, gap=gap) as service, stopping.drains(service):
                return service.run()
        except HistoryGapError as exc:
            in_vain = gap is not None and time.monotonic() - rebuilt_at < REBUILD_SECONDS
            if config.source.on_history_gap == "stop" or in_vain:
                raise
            gap, rebuilt_at = exc, time.monotonic()


@contextmanager
def running(
    config: Config,
    *,
    embedder: Embedder | None = None,
    listeners: Sequence[Listener] = (),
    serve: bool = True,
    gap: HistoryGapError | None = None,
) -> Iterator[Service]:
    """A service that is ready to run, with its watcher and, with ``serve``, its web side.

    With a ``gap`` in its history it makes a new slot first.

    Raises every failed precondition before anything is started.
    """
    with ExitStack() as stack:
        both = stack.enter_context(connections(config))
        in_order_from = both.catalogue.wal_end()
        survey = survey_all(both)
        problem = history_gap(both, survey)
        if problem is not None and gap is None:
            raise HistoryGapError(slot=config.source.slot, problem=problem)
        if gap is not None:
            expect_own_gap(both, [source.table for source in survey.tables], gap)
        else:
            expect([finding for finding in survey.findings if finding.id != "publication"])
        if embedder is None:
            dimensions = stored_dimensions(both, [source.table for source in survey.tables])
            embedder = make_embedder(config.embedder, stored_dimensions=dimensions)
        card = embedder.describe()
        if gap is not None:
            make_new_slot(both, card, gap)
        else:
            for source in survey.tables:  # another space says more than a column not published
                expect_set_up(both, source.table, card)
            expect(survey.findings)
        parts = Parts(config, both, survey.tables, embedder, card, listeners, in_order_from)
        service = parts.build(stack)
        parts.watch(stack, service, serve=serve)
        yield service


def make_new_slot(both: Connections, card: ModelCard, gap: HistoryGapError) -> None:
    """What ``setup --rebuild`` does for a slot whose log is lost."""
    log.error("changes are lost, every row is compared", problem=str(gap))
    plan = plan_setup(both, card, rebuild=True, gap=str(gap))
    run_setup(
        both,
        plan,
        on_step=lambda step: log.info("setup", side=step.where.value, step=step.why),
        on_wait=lambda holders: log.info("setup waits", transactions=holders),
    )
