"""``cdc-embed config``: check the configuration, show the values in effect, describe the keys.

Data goes to stdout. Errors are raised; the root command prints them. No database is asked, because
that is ``cdc-embed doctor``.
"""

import json
from typing import Annotated, Any

import typer

from cdc_embed.cli.context import Context

app = typer.Typer(help="Check the configuration, show it, describe it.")


@app.command()
def check(ctx: typer.Context) -> None:
    """Read the configuration and report every problem in it (exit 3)."""
    from cdc_embed.postgres.connect import expect_usable
    from cdc_embed.postgres.side import SOURCE, TARGET

    context: Context = ctx.obj
    config = context.load()
    expect_usable(SOURCE, config.source.resolved_dsn())
    expect_usable(TARGET, config.target_login.dsn)
    names = ", ".join(table.name for table in config.tables)
    typer.echo(f"{context.config_path}: ok, {len(config.tables)} table(s): {names}")


@app.command()
def show(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of TOML.")] = False,
) -> None:
    """Print every key with the value in effect: file, environment and defaults, no secrets."""
    import tomli_w

    from cdc_embed.config.load import redacted

    context: Context = ctx.obj
    shown = redacted(context.load())
    typer.echo(_as_json(shown) if as_json else tomli_w.dumps(shown))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the file: every key, its default and what it is for."""
    from cdc_embed.config.load import json_schema

    typer.echo(_as_json(json_schema()))


def _as_json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False)
