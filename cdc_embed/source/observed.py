"""The tables at one moment, with the undelivered ones and the token of each one's shape."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cdc_embed.change.document import Table, TableColumn
from cdc_embed.change.shape import Shape
from cdc_embed.errors import TablesChangedError
from cdc_embed.source.tables import SourceTable, TableState


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The tables as one look at the catalogue shows them, each by its full name."""

    undelivered: Mapping[str, str]
    """The reason for each table whose changes do not arrive."""
    altered: Mapping[str, str]
    """The difference of each other table whose key or metadata have other columns or types than its
    vectors are stored with. A key of another type can be cut, and can be two rows'."""
    shapes: Mapping[str, Shape]
    """The shape of each delivered table; its own token also changes when the table was undelivered
    for a while. The leaves are there if they were asked for."""
    digests: Mapping[str, str]
    """The digest of the leaves of each delivered table."""
    estimates: Mapping[str, int | None]
    """The estimated number of rows; None before the first ANALYZE."""
    successors: Sequence[SourceTable] = ()
    """The other tables that have the names of some of the tables now."""
    mendable: bool = False
    """Whether something of ours harms the application, and can be altered."""


def observed(
    states: Iterable[TableState],
    tables: Sequence[SourceTable],
    gaps: Mapping[str, str],
    version: Callable[[SourceTable], str],
) -> Observed:
    """Put together what a coverage found. ``gaps`` are its own reasons, which come first.

    Raises ``TablesChangedError`` if the vectors of a table fit it, but its keys are compared in
    another way, or it has row level security now, under which other columns are another key.
    """
    known = {state.name: state for state in states}
    undelivered: dict[str, str] = {}
    altered: dict[str, str] = {}
    shapes, digests, estimates = {}, {}, {}
    for source in tables:
        name = source.table.full_name
        state = known[name]
        difference = _difference(source, state)
        problem = gaps.get(name) or ""
        if not problem or state.source is None:  # the latter has the way out
            problem = "; ".join(filter(None, (problem, _problem(source, state))))
        if difference:
            altered[name] = difference
        elif problem:
            undelivered[name] = problem
        else:
            own = f"{state.own_shape} {version(source)}"
            shapes[name] = Shape(own=own, leaves=state.leaf_shapes or {})
            digests[name] = state.leaf_digest
        estimates[name] = state.estimate
    now = [known[source.table.full_name].source for source in tables]
    oids = {source.table.oid for source in tables}
    return Observed(
        successors=[source for source in now if source and source.table.oid not in oids],
        undelivered=undelivered,
        altered=altered,
        shapes=shapes,
        digests=digests,
        estimates=estimates,
    )


def _difference(source: SourceTable, state: TableState) -> str:
    was, now = source.table, state.source.table if state.source is not None else None
    if now is None or now.oid != was.oid:
        return ""
    if stored_as(was.stored_columns) != stored_as(now.stored_columns):
        return differs(stored_as(was.stored_columns), now)
    moved = now.row_security and was.key_numbers != now.key_numbers
    if moved or (was.key, was.row_security) != (now.key, now.row_security):
        raise TablesChangedError(table=was.full_name)
    return ""


def stored_as(columns: Iterable[TableColumn]) -> list[tuple[str, str]]:
    """Return the names and the types that columns have in the table of vectors."""
    return [(column.name, column.type) for column in columns]


def differs(stored: Iterable[tuple[str, str]], now: Table) -> str:
    """Describe the difference between stored columns and those of the source."""
    was = ", ".join(f"{name} {kind}" for name, kind in stored)
    columns = ", ".join(f"{name} {kind}" for name, kind in stored_as(now.stored_columns))
    return (
        f"has ({columns}) as key and metadata, its vectors are stored with ({was}); "
        "run: cdc-embed setup"
    )


def _problem(source: SourceTable, state: TableState) -> str:
    if state.source is None:
        return f"cannot be followed ({state.problem})"
    if state.source.table.oid != source.table.oid:
        return "is the name of another table now"
    return ""
