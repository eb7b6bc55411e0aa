"""``cdc-embed run``: the service, until a signal ends it."""

import typer

from cdc_embed.cli.context import Context


def run(ctx: typer.Context) -> None:
    """Follow the slot and keep the vectors fresh, until SIGTERM or SIGINT."""
    from cdc_embed.cli.stopping import signals
    from cdc_embed.service import running

    context: Context = ctx.obj
    config = context.load()
    context.set_up_logs(config)
    with (
        signals(config.limits.drain_timeout) as stopping,
        running(config, serve=True) as service,
        stopping.drains(service),
    ):
        service.run()
