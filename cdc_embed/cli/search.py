"""``cdc-embed search``: the documents nearest to a text."""

from typing import Annotated, Any

import typer
from rich.console import Console

from cdc_embed.change.document import Table
from cdc_embed.cli.context import Context, source_table
from cdc_embed.cli.logs import set_up_logs
from cdc_embed.cli.output import print_json
from cdc_embed.config.sections import LogConfig
from cdc_embed.embed.make import make_embedder
from cdc_embed.errors import PreflightError
from cdc_embed.finding import expect
from cdc_embed.postgres.side import RowRefusedError
from cdc_embed.setup.connections import connections, expect_set_up, stored_dimensions
from cdc_embed.source.tables import find_tables
from cdc_embed.target.checks import check_migrations, vector_extension
from cdc_embed.target.search import Hit, Searcher

SHOWN_CHARACTERS = 200


def search(
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(help="What to look for.")],
    table: Annotated[str, typer.Option("--table", help="Only in this table.")] = "",
    k: Annotated[int, typer.Option("-k", min=1, help="How many documents.")] = 10,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="col=value: only where a metadata or key column is this."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search documents by meaning, in the vectors as they are now."""
    context: Context = ctx.obj
    config = context.load()
    set_up_logs(LogConfig(level="warning"), debug=context.debug)
    conditions = [_condition(condition) for condition in where or []]
    filters = dict(conditions)
    if len(filters) < len(conditions):
        raise typer.BadParameter("--where: a column is named twice")
    with connections(config) as databases:
        if not check_migrations(databases.target, config.target.schema).ok:
            raise PreflightError(
                where="target database", problem="setup did not run", hint="run: cdc-embed setup"
            )
        found, findings = find_tables(databases.source, config)
        expect(findings)
        tables = _chosen([source.table for source in found], table)
        _check_columns(tables, filters)
        embedder = make_embedder(
            config.embedder, stored_dimensions=stored_dimensions(databases, tables)
        )
        try:
            card = embedder.describe()
            for one in tables:
                expect_set_up(databases, one, card)
            vector = embedder.embed_query(text)
        finally:
            embedder.close()
        extension = vector_extension(databases.target)
        assert extension is not None, "setup needs pgvector"
        searcher = Searcher(databases.target, config.target.schema, config.index, extension)
        try:
            hits = [hit for one in tables for hit in searcher.search(one, vector, k, filters)]
        except RowRefusedError as exc:
            raise typer.BadParameter(f"--where: {exc}") from None
    hits = sorted(hits, key=lambda hit: hit.distance)[:k]
    if as_json:
        print_json([_contract(hit) for hit in hits])
    else:
        _show(hits)


def _condition(condition: str) -> tuple[str, str]:
    column, equals, value = condition.partition("=")
    if not equals or not column:
        raise typer.BadParameter(f"--where {condition}: write column=value")
    return column.strip(), value


def _chosen(tables: list[Table], name: str) -> list[Table]:
    if not name:
        return tables
    wanted = source_table(name)
    chosen = [table for table in tables if table.full_name == wanted]
    if not chosen:
        known = ", ".join(table.full_name for table in tables)
        raise typer.BadParameter(f"--table {name}: the configuration has {known}")
    return chosen


def _check_columns(tables: list[Table], filters: dict[str, str]) -> None:
    for table in tables:
        known = [column.name for column in (*table.key, *table.metadata)]
        for column in filters:
            if column not in known:
                raise typer.BadParameter(
                    f"--where {column}: {table.full_name} can be filtered by {', '.join(known)}; "
                    f"more columns come with tables.metadata"
                )


def _contract(hit: Hit) -> dict[str, Any]:
    return {
        "table": hit.table.full_name,
        "key": hit.table.key_object(hit.key),
        "chunk": hit.chunk,
        "distance": hit.distance,
        "text": hit.text,
    }


def _show(hits: list[Hit]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for hit in hits:
        key = ", ".join(f"{name} {value}" for name, value in hit.table.key_object(hit.key).items())
        console.print(f"{hit.distance:.3f}  ", style="cyan", end="")
        console.print(f"{hit.table.full_name} {key}", style="bold", markup=False)
        text = " ".join((hit.text or "").split())
        more = "..." if len(text) > SHOWN_CHARACTERS else ""
        console.print(f"       {text[:SHOWN_CHARACTERS]}{more}", markup=False)
