"""``cdc-embed backfill``: embed every row that has no vectors yet, or outdated ones."""

from typing import Annotated, Any

import typer

from cdc_embed.cli.context import Context, table_name_of
from cdc_embed.cli.output import TableProgress, print_json, print_pairs


def backfill(
    ctx: typer.Context,
    table: Annotated[str, typer.Option("--table", help="Only this table.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Accept the cost of a paid embedder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare every row with its vectors, and embed what differs. Can be run again at any time."""
    from cdc_embed.cli.asking import ask

    context: Context = ctx.obj
    config = context.load()
    context.set_up_logs()
    arguments: dict[str, Any] = {"yes": yes}
    if table:
        arguments["table"] = table_name_of(table)
    with TableProgress("backfill", "done") as progress:
        found = ask(context, config, "backfill", arguments, progress.show)
    if as_json:
        print_json(found)
    else:
        print_pairs([(t["name"], f"{t['state']}, {t['done']} rows") for t in found["tables"]])
