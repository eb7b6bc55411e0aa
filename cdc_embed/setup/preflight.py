"""Every precondition, checked before anything is changed: for ``doctor``, ``setup`` and ``run``.

Checks give findings, good and bad, in the order in which a person would mend them. They only read.
"""

from dataclasses import dataclass, field, replace

from cdc_embed.embed.base import ModelCard
from cdc_embed.errors import CdcEmbedError, PreflightError
from cdc_embed.finding import Finding, judge
from cdc_embed.lsn import ZERO, find_gap
from cdc_embed.postgres.connect import accepts_replication
from cdc_embed.setup.agreement import check_keys
from cdc_embed.setup.connections import Connections, space_of
from cdc_embed.setup.ownership import TAKE_OVER, is_ours, kept_by
from cdc_embed.source.checks import check_reader, check_server, check_slot
from cdc_embed.source.slot import Slot
from cdc_embed.source.tables import SourceTable, find_tables
from cdc_embed.target.checks import check_encoding, check_migrations, check_vector_extension
from cdc_embed.target.position import read_checkpoint
from cdc_embed.target.registry import applied_migrations, registered_tables
from cdc_embed.target.schema import refuse_unindexable


@dataclass(slots=True)
class Survey:
    """The facts about both databases, and the findings of the checks."""

    findings: list[Finding] = field(default_factory=list)
    tables: list[SourceTable] = field(default_factory=list)
    slot: Slot | None = None
    database: str = ""
    encoding: str = ""


def survey_source(databases: Connections) -> Survey:
    """Check the source's server and tables, on which ``setup`` depends."""
    config = databases.config
    catalogue = databases.catalogue
    server = catalogue.server()
    if server.in_recovery:  # a standby has no log of its own
        raise PreflightError(
            where="source database",
            problem="it is a standby",
            hint="name the primary in source.dsn",
        )
    if not server.may_replicate:  # a service can have a right of its own for it
        trial = accepts_replication(config.source.resolved_dsn(), f"cdc_embed {config.source.slot}")
        server = replace(server, may_replicate=trial)
    survey = Survey(
        slot=catalogue.slot(), database=catalogue.identity().database, encoding=server.encoding
    )
    survey.findings += check_server(
        server, survey.slot, catalogue.slot_count(), config.source.plugin
    )
    survey.tables, problems = find_tables(databases.source, config)
    survey.findings += problems
    return survey


def survey_all(databases: Connections) -> Survey:
    """Check both databases with the objects that ``setup`` made, on which ``run`` depends."""
    config = databases.config
    survey = survey_source(databases)
    survey.findings += databases.coverage.findings(survey.tables)
    survey.findings.append(
        check_slot(survey.slot, config.source.slot, config.source.plugin, survey.database)
    )
    survey.findings.append(check_reader(survey.slot))
    survey.findings.append(check_vector_extension(databases.target))
    tables = [source.table for source in survey.tables]
    survey.findings.append(check_encoding(databases.target, survey.encoding, tables))
    survey.findings.append(check_migrations(databases.target, config.target.schema))
    return survey


def history_gap(databases: Connections, survey: Survey) -> str | None:
    """Return why the slot cannot continue the recorded position; None when it can.

    A gap must not go unnoticed, because a new slot would hide the missed changes.
    """
    schema, slot = databases.config.target.schema, survey.slot
    if not applied_migrations(databases.target, schema):
        return None
    checkpoint = read_checkpoint(databases.target, schema, databases.config.source.slot)
    if checkpoint is None:
        return None
    source = databases.catalogue.identity()
    if slot is None and checkpoint.source.is_of(source):
        return "a position is recorded for it, but the slot does not exist any more"
    if slot is not None and slot.lost:
        return "the server removed its log"
    return find_gap(
        checkpoint,
        source=replace(source, timeline=checkpoint.source.timeline),  # the stream checks timelines
        slot_confirmed=(slot and slot.confirmed_lsn) or ZERO,
        wal_end=databases.catalogue.wal_end(),  # read after the checkpoint
        history=[],
    )


def check_model(
    databases: Connections, card: ModelCard, tables: list[SourceTable]
) -> list[Finding]:
    """Check that the model fits the index and the stored space."""
    config = databases.config
    findings = [Finding(id="model", ok=True, message=f"{card.identity}, {card.dimensions} dims")]
    try:
        refuse_unindexable(config.index, card.dimensions)
    except PreflightError as exc:
        findings.append(Finding(id="dimensions", ok=False, message=str(exc), fix=exc.hint))
    known = registered_tables(databases.target, config.target.schema)
    for source in tables:
        registered = known.get(source.table.full_name)
        if registered is None:
            continue
        if not is_ours(databases, registered):
            problem = f"{source.table.full_name}: {kept_by(databases, registered)}"
            findings.append(Finding(id="keeper", ok=False, message=problem, fix=TAKE_OVER))
        difference = space_of(card, source.table).difference(registered.space)
        place = f"another space: {difference}" if difference else "this space"
        message = f"{source.table.full_name} has its vectors in {place}"
        fix = "put the old setting back, or: cdc-embed setup --rebuild"
        findings.append(judge("space", not difference, message, fix))
    return [*findings, *check_keys(databases, [source.table for source in tables])]


def unreachable(error: CdcEmbedError) -> Finding:
    """Return the finding for a database that cannot be reached."""
    return Finding(id="connection", ok=False, message=str(error), fix=error.hint)
