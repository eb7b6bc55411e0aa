"""``cdc-embed run``: the service, until a signal ends it."""

import time
from typing import Final

import typer

from cdc_embed.cli.context import Context
from cdc_embed.cli.logs import set_up_logs
from cdc_embed.cli.stopping import Stopping, signals
from cdc_embed.config.load import Config
from cdc_embed.errors import HistoryGapError
from cdc_embed.service.start import running

REBUILD_SECONDS: Final = 60.0
"""A new slot that does not last so long did not help, and another one would not either."""


def run(ctx: typer.Context) -> None:
    """Follow the slot and keep the vectors fresh, until SIGTERM or SIGINT."""
    context: Context = ctx.obj
    config = context.load()
    set_up_logs(config.log, debug=context.debug)
    with signals(config.limits.drain_timeout) as stopping:
        _run(config, stopping)


def _run(config: Config, stopping: Stopping) -> None:
    gap: HistoryGapError | None = None
    rebuilt_at = 0.0
    while True:
        try:
            with running(config, gap=gap) as service, stopping.drains(service):
                return service.run()
        except HistoryGapError as exc:
            in_vain = gap is not None and time.monotonic() - rebuilt_at < REBUILD_SECONDS
            if config.source.on_history_gap == "stop" or in_vain:
                raise
            gap, rebuilt_at = exc, time.monotonic()
