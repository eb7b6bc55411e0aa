"""``cdc-embed demo``: everything, on a database of its own, in a minute."""

import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final

import typer
from rich.console import Console

from cdc_embed.cli.context import Context
from cdc_embed.cli.output import print_json

SETTINGS: Final = {"max_slot_wal_keep_size": "1GB", "shared_buffers": "128MB"}


def demo(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Stop after the last step.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Try it: an embedded PostgreSQL, a real model, a real corpus. Nothing is left behind."""
    from cdc_embed.cli.stage import play
    from cdc_embed.demo.postgres import EmbeddedPostgres

    context: Context = ctx.obj
    console = Console(stderr=True, emoji=False, highlight=False, soft_wrap=True)
    context.set_up_logs()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with TemporaryDirectory(prefix="cdc-embed-") as folder:
        console.print("starting PostgreSQL 18 with wal_level = logical ...")
        with EmbeddedPostgres(18, SETTINGS) as server:
            report = play(server, Path(folder), console, once=once)
    if as_json:
        print_json(report.contract())
    if report.drift:
        raise typer.Exit(1)
