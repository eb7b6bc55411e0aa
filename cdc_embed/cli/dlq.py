"""``cdc-embed dlq``: dead letters, the documents that cannot be embedded."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from threading import Event
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from cdc_embed.change.action import Row
from cdc_embed.change.document import Key, Table, fingerprint, key_value
from cdc_embed.change.knowledge import Refused
from cdc_embed.cli.asking import ask
from cdc_embed.cli.context import Context, source_table
from cdc_embed.cli.logs import set_up_logs
from cdc_embed.cli.output import TableProgress, print_json, print_pairs, say
from cdc_embed.config.load import Config
from cdc_embed.config.sections import LogConfig
from cdc_embed.errors import PreflightError
from cdc_embed.setup.connections import Connections, connections
from cdc_embed.source.rows import RowReader
from cdc_embed.source.tables import find_tables
from cdc_embed.target.checks import check_migrations
from cdc_embed.target.letters import Letter, Letters
from cdc_embed.target.registry import columns_of, registered_tables

app = typer.Typer(
    no_args_is_help=True,
    help="List, show, retry or drop dead letters: documents that the model or the database "
    "refuses. They have no vector. A change of the text tries it again and clears the letter; the "
    "same text is not tried again unasked.",
)

REWRITTEN_SECONDS: Final = 0.05
"""Before a table that was just being rewritten is read again."""

Ids = Annotated[list[int] | None, typer.Argument(help="Which, by the id that `dlq list` shows.")]
OfTable = Annotated[str, typer.Option("--table", help="All of this source table.")]
All = Annotated[bool, typer.Option("--all", help="All of every table.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_letters(ctx: typer.Context, table: OfTable = "", as_json: Json = False) -> None:
    """List dead letters, the oldest first. Works with the service down."""
    with _opened(ctx) as dlq:
        found = [dlq.contract(letter) for letter in dlq.choose(table=table)]
    if as_json:
        print_json(found)
    else:
        _print_list(found)


@app.command()
def show(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(metavar="ID", help="As `dlq list` shows it.")],
    as_json: Json = False,
) -> None:
    """Show one dead letter with all that is known of it, and its row's text as it is now."""
    with _opened(ctx) as dlq:
        found = dlq.whole(dlq.choose([number])[0])
    if as_json:
        print_json(found)
        return
    text = found.pop("text")
    print_pairs([(name, _cell(value)) for name, value in found.items() if value is not None])
    if text is not None:
        Console(highlight=False, soft_wrap=True).print(f"\n{text}", markup=False)


@app.command()
def retry(
    ctx: typer.Context,
    ids: Ids = None,
    table: OfTable = "",
    everything: All = False,
    as_json: Json = False,
) -> None:
    """Read the rows again and embed them as they are now. Exit 1 when any is refused again.

    What succeeds has its vectors and is no dead letter any more.
    What is refused again stays one, with one attempt more.
    """
    context: Context = ctx.obj
    with _opened(ctx) as dlq:
        chosen = dlq.chosen(ids, table, everything=everything)
    numbers = [letter.id for letter in chosen]
    found: dict[str, Any] = {"tables": [], "retried": 0, "refused": 0}
    if numbers:
        with TableProgress("retry", "retried") as progress:
            found = ask(context.load(), "retry", {"ids": numbers}, progress.show)
    if as_json:
        print_json(found)
    else:
        counts = [
            (each["name"], f"{each['retried']} retried, {each['refused']} refused again")
            for each in found["tables"]
        ]
        print_pairs(counts or [("nothing to retry", "")])
    if found["refused"]:
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
    with _opened(ctx) as dlq:
        chosen = dlq.chosen(ids, table, everything=everything)
        dropped = dlq.letters.drop([letter.id for letter in chosen])
    if as_json:
        print_json({"dropped": dropped})
    else:
        say(f"{dropped} dropped; verify counts their documents as missing until they are embedded")


@contextmanager
def _opened(ctx: typer.Context) -> Iterator["_Dlq"]:
    context: Context = ctx.obj
    config = context.load()
    set_up_logs(LogConfig(level="warning"), debug=context.debug)
    with connections(config) as databases:
        finding = check_migrations(databases.target, config.target.schema)
        if not finding.ok:
            raise PreflightError(
                where="target database", problem=finding.message, hint="run: cdc-embed setup"
            )
        yield _Dlq(config, databases)


class _Dlq:
    """The letters of the configured tables, and how they are shown."""

    def __init__(self, config: Config, databases: Connections) -> None:
        self._config = config
        self._databases = databases
        schema = config.target.schema
        self.letters = Letters(databases.target, schema)
        self._tables = [f"{table.schema}.{table.table}" for table in config.tables]
        self._types = {
            name: columns_of(databases.target, schema, registered.embedding_table)
            for name, registered in registered_tables(databases.target, schema).items()
        }

    def choose(self, ids: list[int] | None = None, table: str = "") -> list[Letter]:
        """The letters that are named; with no arguments all."""
        names = [source_table(table)] if table else self._tables
        if not set(names) <= set(self._tables):
            raise typer.BadParameter(
                f"--table {table}: the configuration has {', '.join(self._tables)}"
            )
        found = self.letters.find(names, ids or None)
        missing = set(ids or ()) - {letter.id for letter in found}
        if missing:
            listed = ", ".join(str(number) for number in sorted(missing))
            raise typer.BadParameter(f"there is no dead letter {listed}; see: cdc-embed dlq list")
        return found

    def chosen(self, ids: list[int] | None, table: str, *, everything: bool) -> list[Letter]:
        """The letters that are named; some must be."""
        if [bool(ids), bool(table), everything].count(True) != 1:
            raise typer.BadParameter("name some by their ids, or use --table or --all")
        return self.choose(ids, table)

    def contract(self, letter: Letter) -> dict[str, Any]:
        """A letter as ``dlq list`` has it."""
        types = self._types.get(letter.table, {})
        return {
            "id": letter.id,
            "table": letter.table,
            "key": {
                name: key_value(value, types.get(name, "")) for name, value in letter.key.items()
            },
            "reason": letter.reason,
            "error": letter.error,
            "attempts": letter.attempts,
            "last_at": letter.last_at,
        }

    def whole(self, letter: Letter) -> dict[str, Any]:
        """The same with the rest, and what the source has of its row now."""
        return {
            **self.contract(letter),
            "first_at": letter.first_at,
            "model": letter.model,
            "fingerprint": letter.fingerprint.hex(),
            **self._row(letter),
        }

    def _row(self, letter: Letter) -> dict[str, Any]:
        sources, _ = find_tables(self._databases.source, self._config)
        for table in (source.table for source in sources):
            if table.full_name != letter.table:
                continue
            row = self._read(table, letter.key_in(table))
            text = table.prepare(row.texts) if row is not None else None
            if row is None or text is None:
                break
            hashed = table.hash_metadata(row.metadata) or b""
            same = Refused(letter.fingerprint).refuses(fingerprint(text), hashed)
            names = [column.name for column in table.metadata]
            return {
                "row": "as it was refused" if same else "changed since",
                "metadata": dict(zip(names, row.metadata, strict=True)),
                "text": text,
            }
        return {"row": "gone", "metadata": {}, "text": None}

    def _read(self, table: Table, key: Key) -> Row | None:
        reader = RowReader(self._databases.source, Event())
        while (scan := reader.look(table, [key])) is None:
            time.sleep(REWRITTEN_SECONDS)
        return scan.rows[key]


def _print_list(found: list[dict[str, Any]]) -> None:
    if not found:
        say("no dead letters")
    console = Console(highlight=False, soft_wrap=True)
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
