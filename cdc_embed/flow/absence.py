"""Tables whose changes do not arrive in the log any more: they stand still until they are back."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Absence:
    """Which tables are absent, and why; replaced whole by the one thread that looks."""

    problems: Mapping[str, str] = field(default_factory=dict)
    """By the table's full name."""
