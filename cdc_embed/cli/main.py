"""The root command: options for all, errors to messages and exit codes.

Data goes to stdout, everything else to stderr. An error is one sentence (the event and its place)
and the next step; a traceback is printed only with ``--debug``.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cdc_embed import __version__
from cdc_embed.cli import backfill, demo, dlq, doctor, run, search, setup, status, teardown, verify
from cdc_embed.cli import config as config_command
from cdc_embed.cli import index as index_command
from cdc_embed.cli.context import CONFIG_PATH, INTERRUPTED, Context
from cdc_embed.cli.options import Group, accept_everywhere
from cdc_embed.errors import CdcEmbedError

app = typer.Typer(
    name="cdc-embed",
    cls=Group,
    help="Keeps pgvector embeddings fresh from PostgreSQL's own change log.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo.demo)
app.command()(setup.setup)
app.command()(doctor.doctor)
app.command()(run.run)
app.command()(status.status)
app.command()(backfill.backfill)
app.command()(verify.verify)
app.command()(search.search)
app.command()(teardown.teardown)
app.add_typer(dlq.app, name="dlq")
app.add_typer(index_command.app, name="index")
app.add_typer(config_command.app, name="config")
accept_everywhere(app)


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    config: Annotated[
        Path, typer.Option("-c", "--config", help="The configuration file.", show_default=True)
    ] = CONFIG_PATH,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks and debug logs.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Options of every command."""
    ctx.obj = replace(ctx.obj or Context(), config_path=config, debug=debug)
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def main(context: Context | None = None) -> None:
    """Run the command line as the console script; ``context`` has other intervals than the
    usual."""
    debug = "--debug" in sys.argv[1:]
    try:
        app(standalone_mode=True, obj=context)
    except CdcEmbedError as exc:
        if debug:
            raise
        show(exc)
        sys.exit(exc.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as exc:
        if debug:
            raise
        sys.stderr.write(f"error: {exc.strerror or exc}\n")
        sys.exit(CdcEmbedError.exit_code)


def show(error: CdcEmbedError) -> None:
    """Print an error as a user reads it."""
    console = Console(stderr=True, emoji=False, highlight=False, soft_wrap=True)
    console.print("error:", style="bold red", end=" ")
    console.print(str(error), markup=False)
    for line in error.hint.splitlines():
        console.print("next:", style="bold cyan", end="  ")
        console.print(line, markup=False)
