"""The options of the root command, as every other command gets them.

Nothing is read here before a command asks, so that ``--help`` and ``init`` work without a file.
Commands import what does their work inside their functions, so that ``--help`` loads none of it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

if TYPE_CHECKING:
    from cdc_embed.config.load import Config

CONFIG_PATH: Final = Path("cdc_embed.toml")
"""The configuration file if no other is named, in the working directory."""
INTERRUPTED: Final = 130
"""The exit code after SIGINT; after SIGTERM a service ends with 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The options of the root command; ``ctx.obj`` of every other."""

    config_path: Path = CONFIG_PATH
    debug: bool = False
    poll_seconds: float = 0.2
    """The time between two looks for the answer to a request."""
    answer_seconds: float = 2.0
    """The time that a running service has to tell its status."""

    def load(self) -> "Config":
        """Read the configuration; ``ConfigError`` if it is missing or wrong."""
        from cdc_embed.config.load import load_config

        return load_config(self.config_path)

    def set_up_logs(self, config: "Config | None" = None) -> None:
        """Log as the configuration says; without one, warnings only."""
        from cdc_embed.cli.logs import set_up_logs
        from cdc_embed.config.sections import LogConfig

        log = config.log if config is not None else LogConfig(level="warning")
        set_up_logs(log, debug=self.debug)


def table_name_of(option: str) -> str:
    """Return the full name of the table that ``--table`` names, as the configuration would."""
    from cdc_embed.config.notation import TableName

    try:
        name = TableName.parse(option)
    except ValueError as exc:
        raise typer.BadParameter(f"--table {option}: {exc}") from None
    return f"{name.schema}.{name.table}"
