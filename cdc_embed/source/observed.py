"""The tables at one moment: which are undelivered, and the token of each one's shape."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cdc_embed.source.tables import SourceTable, TableState


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The tables as one look at the catalogue shows them, each by its full name."""

    undelivered: Mapping[str, str]
    """The reason for each table whose changes do not arrive."""
    shapes: Mapping[str, str]
    """A token of each delivered table, which changes when the table was rewritten or altered, or
    was undelivered for a while: events that the log need not contain."""
    estimates: Mapping[str, int | None]
    """The estimated number of rows; None before the first ANALYZE."""


def observed(
    states: Iterable[TableState],
    tables: Sequence[SourceTable],
    gaps: Mapping[str, str],
    version: Callable[[SourceTable], str],
) -> Observed:
    """Put together what a coverage found: ``gaps`` are its own reasons, which come first."""
    known = {state.name: state for state in states}
    undelivered, shapes, estimates = {}, {}, {}
    for source in tables:
        name = source.table.full_name
        state = known[name]
        problem = gaps.get(name) or _problem(source, state)
        if problem:
            undelivered[name] = problem
        else:
            shapes[name] = f"{state.shape} {version(source)}"
        estimates[name] = state.estimate
    return Observed(undelivered=undelivered, shapes=shapes, estimates=estimates)


def _problem(source: SourceTable, state: TableState) -> str:
    if state.source is None:
        return f"cannot be followed ({state.problem})"
    if state.source.table.oid != source.table.oid:
        return "is the name of another table now"
    return ""
