"""The configured tables as the source's catalogue shows them, all read in two statements.

Neither waits for a lock, so a table that is being altered hides no other. ``tables`` says
what is wrong with what was found.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from cdc_embed.change.document import KeyOrder
from cdc_embed.config.table import TableConfig
from cdc_embed.errors import SourceUnavailableError
from cdc_embed.postgres.session import Session
from cdc_embed.source.comparison import key_order
from cdc_embed.source.leaves import Leaf, read_leaves
from cdc_embed.sql import queries


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundColumn:
    """A column of the key, of the configuration, or that is generated."""

    name: str
    number: int
    type: str
    """The name of the type, without a length."""
    type_oid: int
    own_type: bool
    """Whether the type can be missing in another database, or have no order there."""
    in_key: int | None
    generated: bool
    inner: str
    """The labels of enums and the attributes of composite types that its type is made of, which
    can change while no row does; empty if there are none."""
    order: KeyOrder
    """The comparison of a key column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundTable:
    """A relation that has the name of a configured table."""

    oid: int
    kind: str
    readable: bool
    role: str
    columns: tuple[FoundColumn, ...]
    other_columns: tuple[str, ...] | None
    """The name of every column, when a configured one is missing."""
    leaves: Sequence[Leaf]
    """The tables that hold its rows."""
    estimate: int | None
    """The estimated number of rows; None before the first ANALYZE."""
    file: str | None
    """The file of the table; None for a partitioned one."""
    leaf_digest: str
    """A digest of the shapes of its leaf partitions: their files, the attachments that lead to
    them, and their unique indexes. Empty if it has none."""
    leaf_shapes: Mapping[int, str] | None
    """The shape of each leaf partition by its oid, if they were asked for."""
    version: str
    """The versions of its catalogue rows; they change with its name, its identity, its key."""
    row_security: bool
    """Whether not everyone who may read it sees every row."""
    filtered: bool
    """Whether this session's role would see some rows only."""
    closed: tuple[str, ...]
    """The schemas that reads of it name, and that this role may not use."""

    def own_shape(self, names: Iterable[str]) -> str:
        """Return a token that changes with events that the log need not contain.

        The file changes with a rewrite or a TRUNCATE. The number of a column changes when another
        column takes its name, also when two swap theirs.
        """
        wanted = set(names)
        columns = [c for c in self.columns if c.in_key is not None or c.name in wanted]
        parts = [f"{c.name}={c.number}{c.inner}" for c in columns]
        return f"{self.file} {','.join(parts)}"


def look_up(
    session: Session, entries: Iterable[TableConfig], listed: Iterable[int] = ()
) -> dict[str, FoundTable]:
    """Return the relations that exist, by the entry's name.

    ``listed``: the oids of the partitioned tables whose leaves' shapes are listed.
    """
    named = list(entries)
    wanted = [
        {
            "place": place,
            "schema": entry.schema,
            "name": entry.table,
            "columns": [*entry.text_columns, *entry.metadata],
        }
        for place, entry in enumerate(named)
    ]
    values = {"tables": orjson.dumps(wanted).decode(), "listed": list(listed)}
    rows = session.fetch("source tables", queries("source/tables")["tables"], values)
    leaves = read_leaves(session, [row[1] for row in rows])
    return {named[row[0]].name: _found(row[1:], leaves.get(row[1], ())) for row in rows}


def _found(row: tuple[Any, ...], leaves: Sequence[Leaf]) -> FoundTable:
    return FoundTable(
        oid=row[0],
        kind=row[1],
        readable=row[2],
        role=row[3],
        columns=_columns(row[4], row[5]),
        other_columns=None if row[6] is None else tuple(row[6]),
        leaves=leaves,
        estimate=row[7],
        file=row[8],
        leaf_digest=row[9] or "",
        leaf_shapes=None if row[10] is None else dict(row[10]),
        version=row[11],
        row_security=row[12],
        filtered=row[13],
        closed=tuple(row[14]),
    )


def _columns(columns: Sequence[list[Any]], orders: Sequence[list[Any]]) -> tuple[FoundColumn, ...]:
    known = {name: key_order(*compared) for name, *compared, _ in orders}
    unordered = {name for name, *_, ordered in orders if not ordered}
    return tuple(
        FoundColumn(
            name=name,
            number=number,
            type=kind,
            type_oid=oid,
            own_type=own_type or name in unordered,
            in_key=in_key,
            generated=bool(generated),
            inner=inner or "",
            order=known.get(name, KeyOrder()),
        )
        for name, number, kind, oid, own_type, in_key, generated, inner in columns
    )


def never_filled(session: Session, oids: Collection[int]) -> set[int]:
    """Return the tables that have no rows and never had, but for rows that the log deleted.

    Returns none when one of them is locked, because then the answer would have to wait.
    """
    statement = queries("source/tables")["never_filled"]
    try:
        with session.transaction("partitions") as cursor:
            cursor.execute("set local lock_timeout = '100ms'")
            cursor.execute(statement, {"oids": list(oids)})
            return {row[0] for row in cursor.fetchall()}
    except SourceUnavailableError:
        return set()
