"""A configured service, ready to run: the library's door.

``running`` checks every precondition, builds the service and starts what watches it; the caller
decides in which thread it runs. ``run`` of the command line, the demo and commands that find no
service do the same.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import structlog

from cdc_embed.config.load import Config
from cdc_embed.embed.base import Embedder, ModelCard
from cdc_embed.embed.make import make_embedder
from cdc_embed.errors import HistoryGapError
from cdc_embed.finding import expect
from cdc_embed.flow.telemetry import Listener
from cdc_embed.service.parts import Parts
from cdc_embed.service.service import Service
from cdc_embed.setup.connections import Connections, connections, expect_set_up, stored_dimensions
from cdc_embed.setup.ownership import expect_own_gap
from cdc_embed.setup.plan import plan_setup, run_setup
from cdc_embed.setup.preflight import history_gap, survey_all

log = structlog.get_logger()


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
        databases = stack.enter_context(connections(config))
        delivered_from = databases.catalogue.wal_end()
        survey = survey_all(databases)
        problem = history_gap(databases, survey)
        if problem is not None and gap is None:
            raise HistoryGapError(slot=config.source.slot, problem=problem)
        if gap is not None:
            expect_own_gap(databases, [source.table for source in survey.tables], gap)
        else:
            expect([finding for finding in survey.findings if finding.id != "publication"])
        if embedder is None:
            dimensions = stored_dimensions(databases, [source.table for source in survey.tables])
            embedder = make_embedder(config.embedder, stored_dimensions=dimensions)
        card = embedder.describe()
        if gap is not None:
            make_new_slot(databases, card, gap)
        else:
            for source in survey.tables:  # another space says more than a column not published
                expect_set_up(databases, source.table, card)
            expect(survey.findings)
        parts = Parts(config, databases, survey.tables, embedder, card, listeners, delivered_from)
        service = parts.build(stack)
        parts.watch(stack, service, serve=serve)
        yield service


def make_new_slot(databases: Connections, card: ModelCard, gap: HistoryGapError) -> None:
    """What ``setup --rebuild`` does for a slot whose log is lost."""
    log.error("changes are lost, every row is compared", problem=str(gap))
    plan = plan_setup(databases, card, rebuild=True, gap=str(gap))
    run_setup(
        databases,
        plan,
        on_step=lambda step: log.info("setup", side=step.where.value, step=step.why),
        on_wait=lambda holders: log.info("setup waits", transactions=holders),
    )
