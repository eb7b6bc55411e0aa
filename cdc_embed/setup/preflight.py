"""Every precondition, checked before anything is changed, for ``doctor``, ``setup`` and ``run``.

Checks give findings, good and bad, in the order in which a person would mend them. They only read.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from cdc_embed.change.document import Table
from cdc_embed.embed.base import ModelCard
from cdc_embed.errors import (
    HistoryGapError,
    OtherSourceError,
    PreflightError,
    SpaceMismatchError,
)
from cdc_embed.finding import Finding, Severity, judge
from cdc_embed.lsn import ZERO, find_gap
from cdc_embed.postgres.connect import accepts_replication
from cdc_embed.postgres.writable import find_read_only
from cdc_embed.setup.agreement import check_tables, lost_tables
from cdc_embed.setup.connections import (
    RUN_SETUP,
    Connections,
    VectorTables,
    expect_set_up,
    read_stored,
    window_of,
)
from cdc_embed.setup.hindrances import check_hindrances, find_hindrances
from cdc_embed.setup.mending import expect_tables
from cdc_embed.setup.names import expect_own_tables, names_taken
from cdc_embed.setup.ownership import expect_kept, name_owner
from cdc_embed.setup.rights import check_rights
from cdc_embed.setup.survey import Survey
from cdc_embed.source.checks import check_reader, check_server, check_slot
from cdc_embed.source.failover import check_failover, read_standbys
from cdc_embed.source.stream import stream_name
from cdc_embed.source.tables import SourceTable, find_tables, why_paused
from cdc_embed.target.checks import (
    check_creating,
    check_encoding,
    check_migrations,
    check_temporary,
    check_vector_extension,
)
from cdc_embed.target.position import has_compared, read_checkpoint, server_identity
from cdc_embed.target.registry import applied_migrations, missing_migrations
from cdc_embed.target.schema import refuse_unindexable

MADE_BY_SETUP: Final = frozenset(
    {"slot", "publication", "coverage", "position", "migrations", "pgvector"}
)
"""The checks that fail until ``setup`` was run."""


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
        trial = accepts_replication(config.source_login, f"cdc_embed {config.source.slot}")
        server = replace(server, may_replicate=trial)
    survey = Survey(slot=catalogue.slot(), database=catalogue.identity().database, server=server)
    survey.findings += check_server(
        server, survey.slot, catalogue.slot_count(), config.source.plugin
    )
    _find_tables(databases, survey)
    return survey


def _find_tables(databases: Connections, survey: Survey) -> None:
    """Find the configured tables; pause those that cannot be followed."""
    survey.tables, findings = find_tables(databases.source, databases.config)
    survey.findings += findings
    for finding in findings:
        if finding.failed:
            survey.paused.setdefault(finding.table, why_paused(finding))


def find_followed(databases: Connections) -> tuple[list[SourceTable], dict[str, str]]:
    """Return the tables whose form is usable, and why tables are paused, by name."""
    survey = Survey()
    _find_tables(databases, survey)
    _check_delivery(databases, survey)
    _check_rights(databases, survey)
    lost = lost_tables(databases, [source.table for source in survey.tables])
    return survey.tables, {**lost, **survey.paused}


def find_paused(
    databases: Connections, names: Collection[str], card: ModelCard
) -> Mapping[str, str]:
    """Return why some of the configured tables cannot be followed now, by name."""
    survey = Survey()
    _find_tables(databases, survey)
    survey.tables = [source for source in survey.tables if source.table.full_name in names]
    _check_delivery(databases, survey)
    survey_model(databases, survey, card)
    return survey.paused


def survey_all(databases: Connections) -> Survey:
    """Check both databases with the objects that ``setup`` made, on which ``run`` depends.

    ``doctor`` and ``run`` decide by this, so that they agree.
    """
    config = databases.config
    survey = survey_source(databases)
    _check_writable(databases, survey)
    _check_rights(databases, survey)
    survey.hindrances = find_hindrances(databases)
    survey.findings += check_hindrances(databases, survey.hindrances)
    expect_own_tables(databases)
    expect_tables(databases)
    survey.slot_name = config.source.slot
    followed = [source.table for source in survey.tables]
    _check_history(databases, survey)
    _check_delivery(databases, survey)
    survey.findings.append(check_reader(survey.slot))
    survey.findings.append(_check_standby(databases))
    if survey.server is not None:
        standbys = read_standbys(databases.source)
        failover = config.source.failover
        survey.findings += check_failover(survey.server, survey.slot, standbys, failover)
    survey.findings.append(check_vector_extension(databases.target))
    survey.findings.append(check_temporary(databases.target))
    if config.index.kind != "none":
        survey.findings += check_creating(databases.target, config.target.schema)
    survey.findings.append(check_encoding(databases.target, survey.encoding, followed))
    survey.findings.append(check_migrations(databases.target, config.target.schema))
    if _is_new(databases, survey):
        _expect_setup(databases, survey)
    return survey


def _is_new(databases: Connections, survey: Survey) -> bool:
    """Return whether ``setup`` never came as far as the slot, its last step but one."""
    config = databases.config
    if survey.gap is not None or any(finding.id == "owner" for finding in survey.findings):
        return False
    if not applied_migrations(databases.target, config.target.schema):
        return True
    recorded = read_checkpoint(databases.target, config.target.schema, config.source.slot)
    return survey.slot is None and recorded is None


def _expect_setup(databases: Connections, survey: Survey) -> None:
    """Say once that ``setup`` did not run, in place of all that it makes; name what it refuses."""
    made = MADE_BY_SETUP - ({"slot"} if survey.slot is not None else set())
    kept = [finding for finding in survey.findings if not finding.failed or finding.id not in made]
    obstacles = databases.coverage.prepare(survey.tables, False).obstacles
    known = [finding.message for finding in kept]
    survey.findings = [
        *kept,
        *(finding for finding in obstacles if finding.message not in known),
        *names_taken(databases, [source.table for source in survey.tables]),
        Finding(id="setup", ok=False, message="not set up yet", fix=RUN_SETUP),
    ]


def _check_history(databases: Connections, survey: Survey) -> None:
    """Check that the slot continues the recorded position."""
    config = databases.config.source
    slot = check_slot(survey.slot, config.slot, config.plugin, survey.database)
    if owner := name_owner(databases):
        survey.stranger = OtherSourceError(slot=config.slot, problem=owner)
        survey.fail("owner", survey.stranger)
        return
    survey.gap = history_gap(databases, survey)
    if survey.gap is None:
        survey.findings += [slot, *_check_position(databases, survey)]
        return
    fix = HistoryGapError.default_hint
    survey.findings.append(Finding(id="history", ok=False, message=survey.gap, fix=fix))


def _check_position(databases: Connections, survey: Survey) -> list[Finding]:
    """Check that a position is recorded for the slot."""
    schema, slot = databases.config.target.schema, survey.slot_name
    if survey.slot is None or not applied_migrations(databases.target, schema):
        return []  # setup did not run, and another check says so
    recorded = read_checkpoint(databases.target, schema, slot) is not None
    said = f"a position is recorded for slot {slot}"
    return [judge("position", recorded, said if recorded else f"no {said[2:]}", RUN_SETUP)]


def _check_delivery(databases: Connections, survey: Survey) -> None:
    """Check that the changes of the tables arrive; pause those whose changes do not."""
    tables = list(survey.tables)
    undelivered = databases.coverage.observe(tables).undelivered if tables else {}
    survey.paused |= undelivered
    for finding in databases.coverage.findings(tables):
        named = [name for name in undelivered if name in finding.message]
        found = replace(finding, table=finding.table or max(named, key=len, default=""))
        if found.table and found.failed and found.table not in survey.paused:
            survey.pause(found)
        else:
            survey.findings.append(found)


def _check_rights(databases: Connections, survey: Survey) -> None:
    """Check the rights in the target; pause the tables that alone lack one, whose form is known."""
    for finding in check_rights(databases):
        survey.findings.append(finding)
        if finding.failed:
            survey.paused.setdefault(finding.table, why_paused(finding))


def _check_writable(databases: Connections, survey: Survey) -> None:
    """Check that the target can be written; one that cannot is waited for.

    A source that cannot is followed all the same.
    """
    outage = find_read_only(databases.target)
    if outage is not None:
        survey.fail("writable", outage)
    else:
        survey.findings.append(Finding(id="writable", ok=True, message="the target can be written"))
    found = None if databases.config.target_is_source else find_read_only(databases.source)
    if found is not None:
        message = f"{found}: its publication cannot be altered"
        warning = judge("writable_source", False, message, found.hint, Severity.WARNING)
        survey.findings.append(warning)


def _check_standby(databases: Connections) -> Finding:
    """Check that no commit of the application waits for our stream."""
    try:
        databases.catalogue.refuse_synchronous(stream_name(databases.config.source.slot))
    except PreflightError as exc:
        return Finding(id="synchronous", ok=False, message=str(exc), fix=exc.hint)
    return Finding(id="synchronous", ok=True, message="no commit waits for this service")


def history_gap(databases: Connections, survey: Survey) -> str | None:
    """Return why the slot cannot continue the recorded position; None when it can.

    A gap must not go unnoticed, because a new slot would hide the missed changes.
    """
    schema, slot = databases.config.target.schema, survey.slot
    if not (applied := applied_migrations(databases.target, schema)):
        return None
    name = databases.config.source.slot
    checkpoint = read_checkpoint(databases.target, schema, name)
    if checkpoint is None:
        known = slot is not None and not missing_migrations(applied)
        lost = known and has_compared(databases.target, schema, name)
        return "its recorded position is gone" if lost else None
    source = databases.catalogue.identity()
    if slot is None and checkpoint.source.is_of(source):
        return "a position is recorded for it, but the slot does not exist any more"
    if slot is not None and slot.lost:
        return "the server removed its log"
    gap = find_gap(
        checkpoint,
        source=replace(source, timeline=checkpoint.source.timeline),  # the stream checks timelines
        slot_confirmed=(slot and slot.confirmed_lsn) or ZERO,
        wal_end=databases.catalogue.wal_end(),  # read after the checkpoint
        history=[],
    )
    before = checkpoint.target.system_identifier
    if gap is None and server_identity(databases.target).system_identifier != before:
        return "the target is another cluster than it was"
    return gap


def survey_model(databases: Connections, survey: Survey, card: ModelCard) -> None:
    """Check that the model fits the index, and each table the vectors that are stored for it."""
    survey.findings += check_model(databases, card)
    new = any(finding.id == "setup" for finding in survey.findings)
    if new or not applied_migrations(databases.target, databases.config.target.schema):
        return
    stored = read_stored(databases)
    for finding in _taken(databases, survey):
        survey.pause(finding)
    for source in list(survey.tables):
        _check_stored(databases, survey, stored, source.table, card)
    for finding in check_tables(databases, [source.table for source in survey.tables]):
        if finding.failed and finding.id == "row_security":
            survey.pause(finding)
            continue
        survey.findings.append(finding)
        if finding.failed:  # its form is known, so that it is seen when setup has mended it
            survey.paused.setdefault(finding.table, why_paused(finding))


def _taken(databases: Connections, survey: Survey) -> list[Finding]:
    """Return why ``setup`` leaves tables out, because somebody else has their names."""
    tables = [source.table for source in survey.tables]
    return [found for found in names_taken(databases, tables) if found.table]


def _check_stored(
    databases: Connections, survey: Survey, stored: VectorTables, table: Table, card: ModelCard
) -> None:
    """Check that a table's vectors are ours, and of this form.

    What ``setup`` was not run for after another configuration stops all tables, because it is not
    of the table's own making. What ``setup`` leaves out pauses one.
    """
    try:
        expect_kept(databases, table.full_name, stored.registered.get(table.full_name))
        expect_set_up(databases, stored, table, card)
    except (PreflightError, SpaceMismatchError) as exc:
        refused = any(f.table == table.full_name and f.fix != RUN_SETUP for f in survey.failed)
        own = isinstance(exc, PreflightError) and (exc.fields.get("table") or refused)
        alone = table.full_name if own else ""
        found = Finding(id="space", ok=False, message=str(exc), fix=exc.hint, table=alone)
        survey.add(found)
        return
    said = f"{table.full_name} has its vectors in this space"
    survey.findings.append(Finding(id="space", ok=True, message=said))


def check_model(databases: Connections, card: ModelCard) -> list[Finding]:
    """Check that the model fits the index, and its limits every text."""
    findings = [Finding(id="model", ok=True, message=f"{card.identity}, {card.dimensions} dims")]
    try:
        refuse_unindexable(databases.config.index, card.dimensions)
    except PreflightError as exc:
        findings.append(Finding(id="dimensions", ok=False, message=str(exc), fix=exc.hint))
    windows = [window_of(card, entry.chunk.max_tokens) for entry in databases.config.tables]
    longest = max(window or 0 for window in windows)
    if card.max_tokens and card.max_tokens < longest:
        findings.append(
            Finding(
                id="tokens_per_minute",
                ok=False,
                message=f"a text of {card.max_tokens} to {longest} tokens never passes: it has "
                "more than embedder.tokens_per_minute, and becomes a dead letter",
                fix=f"set embedder.tokens_per_minute to {longest} or more; or set chunk.max_tokens "
                f"to {card.max_tokens} and run: cdc-embed setup --rebuild",
                severity=Severity.WARNING,
            )
        )
    return findings
