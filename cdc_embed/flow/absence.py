"""Tables whose changes do not arrive in the log any more: they stand still until they are back."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cdc_embed.change.document import Table


@dataclass(slots=True)
class Absence:
    """Which tables are absent, and why; replaced whole by the one thread that looks."""

    problems: Mapping[str, str] = field(default_factory=dict)
    """By the table's full name."""

    def problem_of(self, tables: Iterable[Table]) -> str:
        """Why one of some tables stands still; empty when none does."""
        problems = self.problems
        names = (table.full_name for table in tables)
        return next((f"{name} {problems[name]}" for name in names if name in problems), "")
