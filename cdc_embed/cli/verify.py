"""``cdc-embed verify``: prove that every stored vector is fresh, or make it so."""

from typing import Annotated, Any

import typer

from cdc_embed.cli.context import Context
from cdc_embed.cli.output import TableProgress, print_json, print_pairs, say
from cdc_embed.errors import UnfollowedError, UnprovenError

COUNTS = (
    *("checked", "fresh", "missing", "stale", "metadata_stale", "orphan", "pending"),
    *("dead_letters", "repaired", "sampled"),
)


def verify(
    ctx: typer.Context,
    repair: Annotated[bool, typer.Option("--repair", help="Write every row that differs.")] = False,
    sample: Annotated[
        int, typer.Option("--sample", min=0, help="Documents to embed again, to compare vectors.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare every row with what is stored. Exit 1 if one drifts, is paused or is not proven."""
    from cdc_embed.cli.asking import ask

    context: Context = ctx.obj
    config = context.load()
    context.set_up_logs()
    arguments: dict[str, Any] = {"repair": repair, "sample": sample}
    with TableProgress("verify", "checked") as progress:
        try:
            found = ask(context, config, "verify", arguments, progress.show)
        except UnfollowedError as exc:  # a paused table is a result, also if it is the only one
            found = {"tables": [], "drift": 0, "remaining": 0, "paused": exc.paused}
    if as_json:
        print_json(found)
    else:
        print_pairs([(table["name"], _counts(table)) for table in found["tables"]])
        if found["tables"]:
            typer.echo(f"drift: {found['drift']}")
    for name, problem in found["paused"].items():
        say(f"not verified, it is paused: {name} {problem}")
    unproven = {table["name"]: table["problem"] for table in found["tables"] if table["problem"]}
    if unproven:
        raise UnprovenError(table=", ".join(unproven), problem="; ".join(unproven.values()))
    if found["remaining"] or found["paused"]:
        raise typer.Exit(1)


def _counts(table: dict[str, Any]) -> str:
    if table["problem"]:
        return f"no result: {table['problem']}"
    return ", ".join(f"{table[n]} {n.replace('_', ' ')}" for n in COUNTS if table[n]) or "no rows"
