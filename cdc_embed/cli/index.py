"""``cdc-embed index``: make the search indexes anew, beside searches and writes."""

from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cdc_embed.cli.context import Context, table_name_of
from cdc_embed.cli.output import print_json, say

if TYPE_CHECKING:
    from cdc_embed.config.load import Config
    from cdc_embed.setup.connections import Connections
    from cdc_embed.target.index import IndexBuilder

app = typer.Typer(no_args_is_help=True, help="The search indexes over the vectors.")

NOTICE_SECONDS: Final = 5.0
"""The time between two lines about a build."""
INTERRUPTED: Final = (
    "the server goes on with the build; to take it over, run: cdc-embed index rebuild; "
    "to end it: select pg_terminate_backend(pid) from pg_stat_progress_create_index"
)


@app.command()
def rebuild(
    ctx: typer.Context,
    table: Annotated[str, typer.Option("--table", help="Only this table.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build each index anew beside the old one, then swap them. Nothing waits for it."""
    from cdc_embed.setup.connections import connections
    from cdc_embed.target.index import IndexBuilder

    context: Context = ctx.obj
    config = context.load()
    context.set_up_logs()
    with connections(config) as databases:
        schema = config.target.schema
        builder = IndexBuilder(schema, config.index, _extension_schema(databases))
        done = []
        for name, embedding_table in _tables(config, databases, table).items():
            say(f"{name}: building the index")
            _rebuild(databases, builder, embedding_table)
            done.append({"name": name, "state": "ready"})
    if as_json:
        print_json({"tables": done})
    else:
        say("done")


def _tables(config: "Config", databases: "Connections", option: str) -> dict[str, str]:
    """Return the tables of vectors to work on, by the names of their source tables."""
    from cdc_embed.errors import PreflightError
    from cdc_embed.setup.ownership import expect_keeper, expect_own_slot
    from cdc_embed.target.registry import registered_tables

    if config.index.kind == "none":
        raise PreflightError(
            where="index.kind", problem="it is none", hint='set index.kind = "hnsw"'
        )
    configured = {table.name for table in config.tables}
    wanted = {table_name_of(option)} if option else configured
    if not wanted <= configured:
        raise PreflightError(
            where=f"table {option}",
            problem="it is not in the configuration",
            hint="see the tables: cdc-embed status",
        )
    expect_own_slot(databases)
    expect_keeper(databases, wanted)
    known = registered_tables(databases.target, config.target.schema)
    if missing := sorted(wanted - known.keys()):
        raise PreflightError(
            where=f"table {missing[0]}",
            problem="it has no embedding table yet",
            hint="run: cdc-embed setup",
        )
    return {name: known[name].embedding_table for name in sorted(wanted)}


def _extension_schema(databases: "Connections") -> str:
    from cdc_embed.finding import expect
    from cdc_embed.target.checks import check_vector_extension, vector_extension

    installed = vector_extension(databases.target)
    if installed is None:
        expect([check_vector_extension(databases.target)])
    assert installed is not None, "its absence was an error"
    return installed[1]


def _rebuild(databases: "Connections", builder: "IndexBuilder", embedding_table: str) -> None:
    """Build in a thread, because the driver's wait cannot be interrupted."""
    with ThreadPoolExecutor(1, thread_name_prefix="index") as worker:
        running = worker.submit(builder.rebuild, databases.target, embedding_table)
        try:
            while wait([running], NOTICE_SECONDS).not_done:
                say(f"{embedding_table}: the index is being built")
        except KeyboardInterrupt:
            say(INTERRUPTED)
            raise
        finally:
            while wait([running], 0).not_done:
                databases.target.cancel()
                wait([running], 0.5)
        running.result()
