"""``cdc-embed run``: the service, until a signal ends it."""

from typing import Annotated

import typer

from cdc_embed.cli.context import Context


def run(
    ctx: typer.Context,
    wait: Annotated[
        bool, typer.Option(help="Wait for a database that is away at the start, or exit 75.")
    ] = True,
) -> None:
    """Follow the slot and keep the vectors fresh, until SIGTERM or SIGINT."""
    from cdc_embed.cli.stopping import signals
    from cdc_embed.service import Tolerance, running

    context: Context = ctx.obj
    config = context.load()
    context.set_up_logs(config)
    with (
        signals(config.limits.drain_timeout) as stopping,
        running(config, serve=True, tolerance=Tolerance(away_at_start=wait)) as service,
        stopping.drains(service),
    ):
        service.run()
    if stopping.exit_code:
        raise typer.Exit(stopping.exit_code)
