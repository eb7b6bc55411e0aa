"""``cdc-embed dlq``: dead letters, the documents that cannot be embedded."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cdc_embed.cli.context import Context
from cdc_embed.cli.output import TableProgress, print_json, print_pairs, say

if TYPE_CHECKING:
    from cdc_embed.cli.letters import DeadLetters

app = typer.Typer(
    help="List, show, retry or drop dead letters: documents that the model or the database "
    "refuses. They have no vector. The service tries a document again when its text changes, "
    "and the same text only after `dlq retry`.",
)

Ids = Annotated[list[int] | None, typer.Argument(help="Ids of dead letters, from `dlq list`.")]
OfTable = Annotated[str, typer.Option("--table", help="All dead letters of this source table.")]
All = Annotated[bool, typer.Option("--all", help="All dead letters.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_letters(ctx: typer.Context, table: OfTable = "", as_json: Json = False) -> None:
    """List dead letters, the oldest first. Works with the service down."""
    with _opened(ctx) as letters:
        found = [letters.contract(letter) for letter in letters.find(table=table)]
    if as_json:
        print_json(found)
    else:
        _print_list(found)


@app.command()
def show(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(metavar="ID", help="Its id, from `dlq list`.")],
    as_json: Json = False,
) -> None:
    """Show one dead letter with all that is known of it, and its row's text as it is now."""
    with _opened(ctx) as letters:
        found = letters.describe(letters.find([number])[0])
    if as_json:
        print_json(found)
        return
    text = found.pop("text")
    print_pairs([(name, _cell(value)) for name, value in found.items() if value is not None])
    if text is not None:
        Console(emoji=False, highlight=False, soft_wrap=True).print(f"\n{text}", markup=False)


@app.command()
def retry(
    ctx: typer.Context,
    ids: Ids = None,
    table: OfTable = "",
    everything: All = False,
    as_json: Json = False,
) -> None:
    """Read the rows again and embed them as they are now. Exit 1 when any is refused or paused.

    Rows that succeed get vectors, and their letters are removed.
    Rows that are refused again keep their letters, with one attempt more.
    Letters of a paused table are left alone.
    """
    from cdc_embed.cli.asking import ask

    context: Context = ctx.obj
    with _opened(ctx) as letters:
        chosen = letters.find_named(ids, table, everything=everything)
    numbers = [letter.id for letter in chosen]
    found: dict[str, Any] = {"tables": [], "retried": 0, "refused": 0, "paused": {}}
    if numbers:
        with TableProgress("retry", "retried") as progress:
            found = ask(context, context.load(), "retry", {"ids": numbers}, progress.show)
    if as_json:
        print_json(found)
    else:
        counts = [
            (each["name"], f"{each['retried']} retried, {each['refused']} refused again")
            for each in found["tables"]
        ]
        print_pairs(counts or [("nothing to retry", "")])
    for name, problem in found["paused"].items():
        say(f"not retried, it is paused: {name} {problem}")
    if found["refused"] or found["paused"]:
        raise typer.Exit(1)


@app.command()
def drop(
    ctx: typer.Context,
    ids: Ids = None,
    table: OfTable = "",
    everything: All = False,
    as_json: Json = False,
) -> None:
    """Forget dead letters without trying them.

    Their documents stay without a vector, and `verify` counts them as missing.
    They are tried again by the next change of their row, whatever it changes,
    and by `verify --repair`.
    """
    with _opened(ctx) as letters:
        chosen = letters.find_named(ids, table, everything=everything)
        dropped = letters.drop(chosen)
    if as_json:
        print_json({"dropped": dropped})
    else:
        say(f"{dropped} dropped; verify counts their documents as missing until they are embedded")


@contextmanager
def _opened(ctx: typer.Context) -> Iterator["DeadLetters"]:
    from cdc_embed.cli.letters import DeadLetters
    from cdc_embed.errors import PreflightError
    from cdc_embed.setup.connections import connections
    from cdc_embed.setup.ownership import expect_keeper, expect_own_slot
    from cdc_embed.target.checks import check_migrations

    context: Context = ctx.obj
    config = context.load()
    context.set_up_logs()
    with connections(config) as databases:
        finding = check_migrations(databases.target, config.target.schema)
        if not finding.ok:
            raise PreflightError(
                where="target database", problem=finding.message, hint="run: cdc-embed setup"
            )
        expect_own_slot(databases)
        expect_keeper(databases, [table.full_name for table in config.tables])
        yield DeadLetters(databases)


def _print_list(found: list[dict[str, Any]]) -> None:
    if not found:
        say("no dead letters")
    console = Console(emoji=False, highlight=False, soft_wrap=True)
    for letter in found:
        console.print(f"{letter['id']}  ", style="cyan", end="")
        console.print(f"{letter['table']} {_cell(letter['key'])}", style="bold", markup=False)
        attempts = f"{letter['attempts']} attempts" if letter["attempts"] > 1 else "1 attempt"
        last = f"{attempts}, the last at {_cell(letter['last_at'])}"
        console.print(f"    {letter['reason']}, {last}", markup=False)
        console.print(f"    {letter['error']}", markup=False)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(part)}" for name, part in value.items())
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S %Z")
    return str(value)
