"""The configured tables as the source's catalogue shows them, all read in two statements.

Neither waits for a lock, so a table that is being altered hides no other. ``tables`` says
what is wrong with what was found.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from cdc_embed.change.document import KeyOrder
from cdc_embed.config.table import TableConfig
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
    """Without a length."""
    type_oid: int
    own_type: bool
    """The type can be missing in another database, or have no order there."""
    in_key: int | None
    generated: bool
    labels: tuple[str, ...]
    """The labels of an enum, in order."""
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
    """Every column's name, when a configured one is missing."""
    leaves: Sequence[Leaf]
    """The tables that hold its rows."""
    estimate: int | None
    """The estimated number of rows; None before the first ANALYZE."""
    files: str
    """The file of the table; of a partitioned one a digest of its leaves: their files, the
    attachments that lead to them, and their unique indexes."""
    version: str
    """The versions of its catalogue rows; they change with its name, its identity, its key."""
    row_security: bool
    """Not everyone who may read it sees every row."""
    filtered: bool
    """This session's role would see some rows only."""

    def shape(self, names: Iterable[str]) -> str:
        """Return a token that changes with events that the log need not contain.

        The files change with a rewrite, a TRUNCATE or an ATTACH. The number of a column changes
        when another column takes its name, and a label when one of an enum is renamed.
        """
        wanted = set(names)
        columns = [c for c in self.columns if c.in_key is not None or c.name in wanted]
        numbers = ",".join(f"{c.number}{list(c.labels) if c.labels else ''}" for c in columns)
        return f"{self.files} {numbers}"


def look_up(session: Session, entries: Iterable[TableConfig]) -> dict[str, FoundTable]:
    """Return the relations that exist, by the entry's name."""
    listed = list(entries)
    wanted = [
        {
            "place": place,
            "schema": entry.schema,
            "name": entry.table,
            "columns": [*entry.text_columns, *entry.metadata],
        }
        for place, entry in enumerate(listed)
    ]
    values = {"tables": orjson.dumps(wanted).decode()}
    rows = session.fetch("source tables", queries("source/tables")["tables"], values)
    leaves = read_leaves(session, [row[1] for row in rows])
    return {listed[row[0]].name: _found(row[1:], leaves.get(row[1], ())) for row in rows}


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
        files=row[8] or "",
        version=row[9],
        row_security=row[10],
        filtered=row[11],
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
            labels=tuple(labels or ()),
            order=known.get(name, KeyOrder()),
        )
        for name, number, kind, oid, own_type, in_key, generated, labels in columns
    )
