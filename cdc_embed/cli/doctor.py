"""``cdc-embed doctor``: every precondition, with the SQL that makes it true."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from cdc_embed.cli.context import Context
from cdc_embed.cli.output import print_findings, print_json
from cdc_embed.errors import CdcEmbedError, MissingRightError
from cdc_embed.finding import Finding, Severity, judge

if TYPE_CHECKING:
    from cdc_embed.setup.connections import Connections
    from cdc_embed.setup.survey import Survey
    from cdc_embed.source.tables import SourceTable


def doctor(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every precondition; exit as ``run --no-wait`` would: 4 when one fails, 5, 75."""
    from cdc_embed.setup.connections import connections

    context: Context = ctx.obj
    with connections(context.load()) as databases:
        survey = check_everything(databases, context.answer_seconds)
    if as_json:
        print_json({"checks": [_row(finding) for finding in survey.findings]})
    else:
        print_findings(survey.findings)
    if survey.exit_code:
        raise typer.Exit(survey.exit_code)


def check_everything(databases: "Connections", answer_seconds: float) -> "Survey":
    """Make all findings; a database that cannot be asked is one of them.

    A running service has ``answer_seconds`` to tell what it knows.
    """
    from cdc_embed.setup.preflight import survey_all
    from cdc_embed.setup.survey import Survey

    try:
        survey = survey_all(databases)
    except CdcEmbedError as exc:
        survey = Survey()
        survey.fail("rights" if isinstance(exc, MissingRightError) else "connection", exc)
        return survey
    _check_model(databases, survey)
    survey.findings = [_to_be_made(finding) for finding in survey.findings]
    survey.findings += _check_indexes(databases, survey.tables, answer_seconds)
    return survey


def _to_be_made(finding: Finding) -> Finding:
    """Let what ``setup`` is there for be no failure of ``doctor``; ``run`` needs it."""
    return replace(finding, severity=Severity.WARNING) if finding.id == "setup" else finding


def _check_indexes(
    databases: "Connections", tables: "list[SourceTable]", answer_seconds: float
) -> list[Finding]:
    """Check each table's index; why it is missing, the running service knows best."""
    from cdc_embed.cli.status import ask_service
    from cdc_embed.serve.facts import index_facts
    from cdc_embed.target.checks import check_index
    from cdc_embed.target.overview import stored_tables
    from cdc_embed.target.registry import applied_migrations, missing_migrations

    config = databases.config
    schema = config.target.schema
    if missing_migrations(applied_migrations(databases.target, schema)):
        return []
    names = [source.table.full_name for source in tables]
    found = index_facts(databases, stored_tables(databases.target, schema, names))
    asked = any(facts.problem for facts in found.values())
    live = ask_service(config, answer_seconds) if asked else None
    listed = live["tables"] if live is not None else []
    reasons = {table["name"]: table["index"]["problem"] for table in listed}
    return [
        check_index(name, replace(facts, problem=reasons.get(name) or facts.problem))
        for name, facts in found.items()
    ]


def _check_model(databases: "Connections", survey: "Survey") -> None:
    """Try the model, and compare it with the one that made the stored vectors."""
    from cdc_embed.embed.make import make_embedder
    from cdc_embed.embed.trial import try_out
    from cdc_embed.setup.connections import known_facts
    from cdc_embed.setup.preflight import survey_model
    from cdc_embed.setup.spaces import settle_spaces

    try:
        config = databases.config.embedder
        embedder = make_embedder(config, known_facts(databases))
        try:
            tried = try_out(embedder, config)
            settlement = settle_spaces(databases, embedder, tried.card)
        finally:
            embedder.close()
    except CdcEmbedError as exc:
        survey.fail("model", exc)
        return
    said = tried.unproven or "documents and a question get the vectors that they should"
    warning = Severity.WARNING
    survey.findings.append(judge("embedding", not tried.unproven, said, tried.way_out, warning))
    # as run does it, which gives the stored spaces the model's new name
    former = settlement.former or tried.card.identity
    survey_model(databases, survey, replace(tried.card, identity=former))


def _row(finding: Finding) -> dict[str, object]:
    return {
        "id": finding.id,
        "severity": finding.severity.value,
        "ok": finding.ok,
        "message": finding.message,
        "fix": finding.fix,
    }
