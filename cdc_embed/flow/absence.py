"""Tables whose changes do not arrive in the log any more: they stand still until they are back."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from cdc_embed.change.document import Table
from cdc_embed.errors import PreflightError, SourceUnavailableError
from cdc_embed.side import UNDEFINED
from cdc_embed.source.coverage import Coverage
from cdc_embed.source.tables import SourceTable


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


@contextmanager
def absence_passes(coverage: Coverage, tables: Sequence[SourceTable]) -> Iterator[None]:
    """Reading rows: a table that cannot be read because it left is no reason to end.

    It passes for an outage, ``SourceUnavailableError``, until whoever looks for absent tables has
    seen it too: from then on it stands still, and will be compared.
    """
    try:
        yield
    except PreflightError as exc:
        name = str(exc.fields.get("table"))
        problem = coverage.missed(tables).get(name)
        if problem is None and exc.fields.get("state") in UNDEFINED:
            problem = "was altered, and is what it was"
        if problem is None:
            raise
        raise SourceUnavailableError(problem=f"table {name} {problem}") from exc
