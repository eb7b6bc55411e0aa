"""``cdc-embed doctor``: every precondition, with the SQL that makes it true."""

from typing import Annotated

import typer

from cdc_embed.cli.context import Context
from cdc_embed.cli.output import print_findings, print_json
from cdc_embed.embed.make import make_embedder
from cdc_embed.errors import CdcEmbedError, PreflightError
from cdc_embed.finding import Finding
from cdc_embed.setup.connections import Connections, connections
from cdc_embed.setup.preflight import check_model, survey_all, unreachable
from cdc_embed.source.tables import SourceTable


def doctor(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every precondition; exit 4 when one fails."""
    context: Context = ctx.obj
    with connections(context.load()) as databases:
        findings = examine(databases)
    if as_json:
        print_json({"checks": [_row(finding) for finding in findings]})
    else:
        print_findings(findings)
    if any(finding.failed for finding in findings):
        raise typer.Exit(PreflightError.exit_code)


def examine(databases: Connections) -> list[Finding]:
    """All findings; a side that cannot be asked is one of them."""
    try:
        survey = survey_all(databases)
    except CdcEmbedError as exc:
        return [unreachable(exc)]
    return [*survey.findings, *_model(databases, survey.tables)]


def _model(databases: Connections, tables: list[SourceTable]) -> list[Finding]:
    try:
        embedder = make_embedder(databases.config.embedder)
    except CdcEmbedError as exc:
        return [Finding(id="model", ok=False, message=str(exc), fix=exc.hint)]
    try:
        return check_model(databases, embedder.describe(), tables)
    finally:
        embedder.close()


def _row(finding: Finding) -> dict[str, object]:
    return {
        "id": finding.id,
        "severity": finding.severity.value,
        "ok": finding.ok,
        "message": finding.message,
        "fix": finding.fix,
    }
