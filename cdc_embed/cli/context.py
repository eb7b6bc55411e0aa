"""What the root command hands to every command: where the configuration is, and how much to say.

Nothing is read here before a command asks: ``--help`` and ``init`` work without a file.
"""

from dataclasses import dataclass
from pathlib import Path

from cdc_embed import config


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The options of the root command; ``ctx.obj`` of every other."""

    config_path: Path
    debug: bool = False

    def load(self) -> config.Config:
        """The configuration; ConfigError when it is missing or wrong."""
        return config.load(self.config_path)
