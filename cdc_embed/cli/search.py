"""``cdc-embed search``: the documents nearest to a text."""

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from cdc_embed.cli.context import Context, table_name_of
from cdc_embed.cli.output import print_json, say

if TYPE_CHECKING:
    from cdc_embed.change.document import Table
    from cdc_embed.embed.base import Vectors
    from cdc_embed.setup.connections import Connections
    from cdc_embed.target.search import Hit

SHOWN_CHARACTERS: Final = 200


def search(
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(help="The text to search for.")],
    table: Annotated[str, typer.Option("--table", help="Only in this table.")] = "",
    k: Annotated[int, typer.Option("-k", min=1, help="Number of documents.")] = 10,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="col=value of a metadata or key column: only such rows."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search documents by meaning, in the vectors as they are now."""
    from cdc_embed.setup.connections import connections

    context: Context = ctx.obj
    config = context.load()
    context.set_up_logs()
    filters = _parse_filters(where or [])
    with connections(config) as databases:
        tables = _find_searched(databases, table)
        _check_columns(tables, filters)
        tables, vector = _embed_query(databases, tables, text)
        hits = _search_tables(databases, tables, vector, k, filters)
    if as_json:
        print_json([_contract(hit) for hit in hits])
    else:
        _print_hits(hits)


def _parse_filters(conditions: Sequence[str]) -> dict[str, str]:
    """Read ``column=value`` conditions, each column at most once."""
    filters: dict[str, str] = {}
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals or not column:
            raise typer.BadParameter(f"--where {condition}: write column=value")
        if column.strip() in filters:
            raise typer.BadParameter("--where: a column is named twice")
        filters[column.strip()] = value
    return filters


def _find_searched(databases: "Connections", name: str) -> "list[Table]":
    """Find the configured tables, or the one that is named; raise if ``setup`` did not run."""
    from cdc_embed.errors import PreflightError
    from cdc_embed.finding import expect
    from cdc_embed.setup.agreement import check_tables
    from cdc_embed.setup.ownership import expect_own_slot
    from cdc_embed.source.tables import find_tables
    from cdc_embed.target.checks import check_migrations

    if not check_migrations(databases.target, databases.config.target.schema).ok:
        raise PreflightError(
            where="target database", problem="setup did not run", hint="run: cdc-embed setup"
        )
    expect_own_slot(databases)
    found, findings = find_tables(databases.source, databases.config)
    stored = check_tables(databases, [source.table for source in found])
    broken = {f.table: f for f in [*findings, *stored] if f.failed}
    tables = [source.table for source in found if source.table.full_name not in broken]
    if not name:
        if not tables:
            expect(list(broken.values()))
        for table, finding in broken.items():
            say(f"{table} is not searched: {finding.message}")
        return tables
    full_name = table_name_of(name)
    expect([broken[full_name]] if full_name in broken else [])
    chosen = [table for table in tables if table.full_name == full_name]
    if not chosen:
        known = ", ".join(entry.full_name for entry in databases.config.tables)
        raise typer.BadParameter(f"--table {name}: the configuration has {known}")
    return chosen


def _check_columns(tables: "list[Table]", filters: dict[str, str]) -> None:
    for table in tables:
        known = [column.name for column in (*table.key, *table.metadata)]
        for column in filters:
            if column not in known:
                raise typer.BadParameter(
                    f"--where {column}: {table.full_name} can be filtered by {', '.join(known)}; "
                    f"more columns come with tables.metadata"
                )


def _embed_query(
    databases: "Connections", tables: "list[Table]", text: str
) -> "tuple[list[Table], Vectors]":
    """Embed the text with the model of the stored vectors; leave out tables with others.

    Raises if every table has the vectors of another model, or none.
    """
    from cdc_embed.embed.make import make_embedder
    from cdc_embed.errors import CdcEmbedError
    from cdc_embed.setup.connections import expect_set_up, known_facts, read_stored

    embedder = make_embedder(databases.config.embedder, known_facts(databases))
    searched = []
    try:
        card = embedder.describe()
        stored = read_stored(databases)
        for table in tables:
            try:
                expect_set_up(databases, stored, table, card)
                searched.append(table)
            except CdcEmbedError as exc:
                if table is tables[-1] and not searched:
                    raise
                say(f"{table.full_name} is not searched: {exc}")
        return searched, embedder.embed_query(text)
    finally:
        embedder.close()


def _search_tables(
    databases: "Connections",
    tables: "list[Table]",
    vector: "Vectors",
    k: int,
    filters: dict[str, str],
) -> "list[Hit]":
    """Find the ``k`` nearest documents of all tables, nearest first.

    Without an index that is a long read, also of the source by the view, so it gives way.
    """
    from cdc_embed.errors import TargetUnavailableError
    from cdc_embed.postgres.session import Session
    from cdc_embed.postgres.side import CANCELLED, TARGET, RowRefusedError
    from cdc_embed.target.checks import vector_extension
    from cdc_embed.target.search import Searcher

    extension = vector_extension(databases.target)
    assert extension is not None, "setup needs pgvector"
    config = databases.config
    name = f"cdc_embed search {config.source.slot}"
    session = Session(TARGET, config.target_login, name, lookout=databases.target)
    searcher = Searcher(session, config.target.schema, config.index, extension)
    try:
        with closing(session):
            hits = [hit for table in tables for hit in searcher.search(table, vector, k, filters)]
    except TargetUnavailableError as exc:
        if exc.fields.get("state") != CANCELLED:
            raise
        raise TargetUnavailableError(
            problem="the search was cancelled, because a statement of another session (such as "
            "ALTER TABLE) waited for it",
            hint="search again; with an index it is short: cdc-embed status",
        ) from exc
    except RowRefusedError as exc:
        asked = " and ".join(f"{column}={value}" for column, value in filters.items())
        raise typer.BadParameter(f"--where {asked}: {exc}") from None
    return sorted(hits, key=lambda hit: hit.distance)[:k]


def _contract(hit: "Hit") -> dict[str, Any]:
    return {
        "table": hit.table.full_name,
        "key": hit.table.key_object(hit.key),
        "chunk": hit.chunk,
        "distance": hit.distance,
        "text": hit.text,
    }


def _print_hits(hits: "list[Hit]") -> None:
    console = Console(emoji=False, highlight=False, soft_wrap=True)
    for hit in hits:
        key = ", ".join(f"{name} {value}" for name, value in hit.table.key_object(hit.key).items())
        console.print(f"{hit.distance:.3f}  ", style="cyan", end="")
        console.print(f"{hit.table.full_name} {key}", style="bold", markup=False)
        text = " ".join((hit.text or "").split())
        more = "..." if len(text) > SHOWN_CHARACTERS else ""
        console.print(f"       {text[:SHOWN_CHARACTERS]}{more}", markup=False)
