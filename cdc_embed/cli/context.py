"""What the root command hands to every command: where the configuration is, and how much to say.

Nothing is read here before a command asks: ``--help`` and ``init`` work without a file.
"""

from dataclasses import dataclass
from pathlib import Path

import typer

from cdc_embed.config.load import Config, load_config
from cdc_embed.config.notation import TableName


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The options of the root command; ``ctx.obj`` of every other."""

    config_path: Path
    debug: bool = False

    def load(self) -> Config:
        """The configuration; ConfigError when it is missing or wrong."""
        return load_config(self.config_path)


def source_table(option: str) -> str:
    """The full name of the table that ``--table`` names, as the configuration would."""
    try:
        name = TableName.parse(option)
    except ValueError as exc:
        raise typer.BadParameter(f"--table {option}: {exc}") from None
    return f"{name.schema}.{name.table}"
