"""``setup``: the list of statements that make both sides ready, shown, printed or run.

The order is part of the contract: the target first, the publication before the slot (a slot that
decodes before its publication exists loses changes), the slot last, because it makes the server
keep its log from that moment on. Every statement can be run again.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from cdc_embed.embed.base import ModelCard
from cdc_embed.errors import CdcEmbedError, HistoryGapError, PreflightError
from cdc_embed.finding import Finding
from cdc_embed.lsn import START, ZERO, Checkpoint
from cdc_embed.postgres.ddl import Ddl, OnWait
from cdc_embed.postgres.writable import expect_writable
from cdc_embed.setup.adoption import adopt_ddl, adopted_tables, forget_ddl, withdraw_ddl
from cdc_embed.setup.connections import Connections, connections
from cdc_embed.setup.hindrances import check_hindrances, find_hindrances
from cdc_embed.setup.locks import run_without_queueing
from cdc_embed.setup.mending import mend_ddl
from cdc_embed.setup.names import expect_own_tables, names_taken
from cdc_embed.setup.ownership import expect_no_service, expect_own_slot, name_owner
from cdc_embed.setup.preflight import check_model, history_gap, survey_source
from cdc_embed.setup.rights import check_rights
from cdc_embed.setup.survey import Survey
from cdc_embed.setup.tables import TablePlanner
from cdc_embed.source.checks import check_slot
from cdc_embed.source.failover import alter_failover_ddl, wants_failover
from cdc_embed.source.publishing import Preparation
from cdc_embed.source.slot import create_slot_ddl, drop_slot_ddl, expect_idle
from cdc_embed.target.checks import check_encoding, check_vector_extension, vector_extension
from cdc_embed.target.position import create_checkpoint, forget_position_ddl, server_identity
from cdc_embed.target.registry import applied_migrations, registered_tables
from cdc_embed.target.schema import extension_ddl, migration_ddl

WAIT_NOTICE_SECONDS: Final = 1.0


class Where(Enum):
    SOURCE = "source"
    TARGET = "target"


@dataclass(frozen=True, slots=True)
class Step:
    """One statement of ``setup``, on one side, with its reason."""

    where: Where
    why: str
    statement: str
    waits: bool = False
    """Whether the statement waits for every running transaction, and so can take as long as they
    do."""
    work: Callable[[OnWait], None] | None = None
    """The function that runs instead, if one statement cannot do it."""
    table: str = ""
    """The source table that alone is concerned."""


@dataclass(frozen=True, slots=True)
class SetupPlan:
    """The steps of ``setup``, in order; empty when everything is in place."""

    steps: list[Step]
    notes: list[str]
    """The facts that the user should know beside the steps."""
    left_out: list[Finding] = field(default_factory=list)
    """The reasons why the steps leave tables out, which ``run`` pauses."""
    mends: bool = False
    """Whether our own tables are made right first, because only then can the rest be planned."""


def plan_setup(
    databases: Connections,
    card: ModelCard,
    *,
    rebuild: bool = False,
    adopt: bool = False,
    gap: str | None = None,
) -> SetupPlan:
    """Return the missing steps; raise ``PreflightError`` with every obstacle.

    A table that alone cannot be followed is left out, as ``run`` does, unless no other one can be.
    With ``rebuild`` a slot whose log is lost is made again, and the configured space replaces the
    stored one. Afterwards ``run`` compares every row and embeds the differences. With ``adopt`` a
    publication that setup did not make is added to. ``gap`` is the reason why the log is lost, if
    it is known already.
    """
    config = databases.config
    expect_writable(databases.target)
    if not rebuild:
        expect_own_slot(databases)
    elif name_owner(databases):
        expect_no_service(databases, config.source.slot)
    survey = survey_source(databases)
    prepared = databases.coverage.prepare(survey.tables, adopt)
    followed = [source.table for source in survey.tables]
    taken = names_taken(databases, followed)
    strange = check_hindrances(databases, find_hindrances(databases))
    for obstacle in [*prepared.obstacles, *taken, *check_rights(databases), *strange]:
        survey.add(obstacle)
    survey.findings += check_model(databases, card)
    extension = check_vector_extension(databases.target)
    if extension.id == "pgvector_available" and not extension.ok:
        survey.findings.append(extension)
    followed = [source.table for source in survey.tables]
    survey.findings.append(check_encoding(databases.target, survey.encoding, followed))
    gap = gap or history_gap(databases, survey)
    if survey.slot is not None and not (rebuild and survey.slot.lost):
        survey.findings.append(
            check_slot(survey.slot, config.source.slot, config.source.plugin, survey.database)
        )
    survey.expect_usable()
    if gap and not rebuild:
        raise HistoryGapError(slot=config.source.slot, problem=gap)
    steps = [
        *_target_steps(databases, card, survey, rebuild=rebuild, gap=gap),
        *_adopted_steps(databases, survey, prepared),
        *(_drop_slot(databases, survey) if gap else []),
        *_source_steps(databases, survey, prepared, new_slot=bool(gap)),
        *(_forget_position(databases) if gap else []),
    ]
    return SetupPlan(steps, prepared.notes, survey.failed)


def plan_mending(databases: Connections, *, rebuild: bool) -> SetupPlan:
    """Return the steps that make our own tables again that are gone; most often none."""
    check_rights(databases)  # without them nothing can be asked
    expect_own_tables(databases)
    return plan_first(databases, mend_ddl(databases, rebuild=rebuild))


def plan_first(databases: Connections, ddl: Iterable[Ddl]) -> SetupPlan:
    """Return statements of the target as steps without which the others cannot be planned."""
    steps = steps_of(databases, Where.TARGET, ddl)
    return SetupPlan(steps, ["what else is missing is known after these statements"], mends=True)


def _drop_slot(databases: Connections, survey: Survey) -> list[Step]:
    """Drop the slot whose log is lost, if it still exists."""
    if survey.slot is None:
        return []
    expect_idle(survey.slot, "cdc-embed setup --rebuild")
    source = databases.config.source
    return steps_of(databases, Where.SOURCE, [drop_slot_ddl(source.slot, source.plugin)])


def _forget_position(databases: Connections) -> list[Step]:
    """Forget the recorded position, as the last step.

    As long as the position is there, a slot that ``setup`` made again still has a gap, also after
    an interruption.
    """
    forget = forget_position_ddl(databases.config.target.schema, databases.config.source.slot)
    return steps_of(databases, Where.TARGET, [forget])


def steps_of(databases: Connections, where: Where, listed: Iterable[Ddl]) -> list[Step]:
    """Return the statements as steps, in the form that their side reads."""
    session = databases.source if where is Where.SOURCE else databases.target
    return [
        Step(where, ddl.why, ddl.text(session), work=ddl.work, table=ddl.table) for ddl in listed
    ]


def run_setup(
    databases: Connections,
    plan: SetupPlan,
    *,
    on_step: Callable[[Step], None],
    on_wait: OnWait,
) -> None:
    """Run the steps, each in its own transaction; a table whose step is refused is left out.

    ``on_wait`` is called with the transactions that a new slot waits for, or the sessions that hold
    a lock.
    """
    for step in plan.steps:
        if step.table and any(finding.table == step.table for finding in plan.left_out):
            continue
        on_step(step)
        try:
            _run_step(databases, step, on_wait)
        except PreflightError as exc:
            if not step.table or exc.fields.get("table") != step.table:
                raise
            found = Finding(id="table", ok=False, message=str(exc), fix=exc.hint, table=step.table)
            plan.left_out.append(found)
    if not plan.mends:
        _create_checkpoint(databases)


def _run_step(databases: Connections, step: Step, on_wait: OnWait) -> None:
    if step.waits:
        _run_watched(databases, step, on_wait)
    elif step.work is not None:
        step.work(on_wait)
    else:
        session = databases.source if step.where is Where.SOURCE else databases.target
        run_without_queueing(session, step.why, [step.statement], on_wait)


def _run(databases: Connections, step: Step) -> None:
    with databases.source.transaction(step.why) as cursor:
        cursor.execute(step.statement)


def _run_watched(databases: Connections, step: Step, on_wait: OnWait) -> None:
    """Run a step that can wait for long in a thread, so that it can be watched and cancelled."""
    workers = ThreadPoolExecutor(1, thread_name_prefix="setup")
    with workers as worker, connections(databases.config) as own:
        running = worker.submit(_run, databases, step)
        try:
            while wait([running], WAIT_NOTICE_SECONDS).not_done:
                # the notice is optional, and an error here appears again in the step itself
                with suppress(CdcEmbedError):
                    holders = own.catalogue.transactions_waited_for()
                    if holders:
                        on_wait(holders)
        finally:
            while wait([running], 0).not_done:  # interrupted
                databases.source.cancel()
                wait([running], WAIT_NOTICE_SECONDS)
        running.result()


def _target_steps(
    databases: Connections, card: ModelCard, survey: Survey, *, rebuild: bool, gap: str | None
) -> list[Step]:
    schema = databases.config.target.schema
    found = [extension_ddl()] if vector_extension(databases.target) is None else []
    found += migration_ddl(schema, applied_migrations(databases.target, schema))
    known = registered_tables(databases.target, schema)
    names = {source.table.full_name for source in survey.tables}
    new_slot = survey.slot is None or gap is not None
    coverage = databases.coverage
    # beside other tables, wal2json's log has other changes
    unasked = coverage.by_name and not names <= known.keys()
    planner = TablePlanner(
        databases,
        card,
        known=known,
        undelivered=names if new_slot or unasked else coverage.observe(survey.tables).undelivered,
        rebuild=rebuild,
    )
    found += planner.ddl(source.table for source in survey.tables)
    for refused in planner.refused:
        survey.pause(refused)
    survey.expect_usable()
    if (planner.alone or unasked) and survey.slot is not None:
        expect_idle(survey.slot, "cdc-embed setup" + (" --rebuild" if rebuild else ""))
    return steps_of(databases, Where.TARGET, found)


def _adopted_steps(databases: Connections, survey: Survey, prepared: Preparation) -> list[Step]:
    """Remember the tables that are added to somebody else's publication.

    A table that is not configured any more is taken out of it.
    """
    oids = {source.table.oid for source in survey.tables}
    names = {table.full_name for table in databases.config.tables}
    adopted = adopted_tables(databases)
    left = [t for t in adopted if t.source_oid not in oids and t.table_name not in names]
    return [
        *steps_of(databases, Where.TARGET, adopt_ddl(databases, prepared.adds)),
        *steps_of(databases, Where.SOURCE, withdraw_ddl(databases, left)),
        *steps_of(databases, Where.TARGET, forget_ddl(databases, left)),
    ]


def _source_steps(
    databases: Connections, survey: Survey, prepared: Preparation, *, new_slot: bool
) -> list[Step]:
    source = databases.config.source
    steps = steps_of(databases, Where.SOURCE, prepared.ddl)
    wanted = wants_failover(survey.server, source.failover) if survey.server else None
    if survey.slot is None or new_slot:
        create = create_slot_ddl(source.slot, source.plugin, bool(wanted))
        (step,) = steps_of(databases, Where.SOURCE, [create])
        steps.append(replace(step, waits=True))
    elif wanted not in {None, survey.slot.failover} and not survey.slot.active:
        alter = alter_failover_ddl(databases.config.source_login, source.slot, bool(wanted))
        steps += steps_of(databases, Where.SOURCE, [alter])
    return steps


def _create_checkpoint(databases: Connections) -> None:
    """Record the slot's position as the first one; leave a recorded one alone."""
    config = databases.config
    slot = databases.catalogue.slot()
    if slot is None or slot.confirmed_lsn is None:
        raise PreflightError(where=f"slot {config.source.slot}", problem="it has no position")
    first = Checkpoint(
        slot=config.source.slot,
        source=databases.catalogue.identity(),
        target=server_identity(databases.target),
        position=START,
        end_lsn=ZERO,
        confirmed_lsn=slot.confirmed_lsn,
        batch_seq=0,
        epoch=0,
    )
    create_checkpoint(databases.target, config.target.schema, first)
    expect_own_slot(databases)  # another source's setup can have run meanwhile
