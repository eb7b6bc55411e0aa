"""The publication as the catalogue shows it, and the tables whose changes it leaves out.

Setup knows its own publication by a mark in its comment, with the slot that it was made for. Any
other one is somebody else's. It is read, and changed only if a person asks for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg2 import sql

from cdc_embed.postgres.session import Session
from cdc_embed.source.leaves import Leaf, read_leaves
from cdc_embed.source.tables import SourceTable
from cdc_embed.sql import queries

MARK: Final = "made by cdc_embed"
FOR_SLOT: Final = f"{MARK} for slot "
LEFT_OUT: Final = "; left out for now: "
PARTITION: Final = "is published as a partition"
ABSENT: Final = "is not in the publication"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTable:
    """A table that a publication carries, with the form in which it does."""

    oid: int
    schema: str
    table: str
    columns: frozenset[str]
    filtered: bool
    listed: bool
    """Whether the table is published with a column list."""
    direct: bool
    """Whether the publication names the table itself, not its schema or every table."""
    version: str
    """A token that changes when the table was undelivered for a while."""

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}"

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A publication as the catalogue shows it."""

    name: str
    all_tables: bool
    all_operations: bool
    via_root: bool
    """Whether changes of partitions are published as changes of their table."""
    generated_withheld: bool
    """Whether stored generated columns are not published, though the server could (from 18 on)."""
    alterable: bool
    """Whether this role can alter it."""
    mark: str | None
    ours: bool
    """Whether setup made it for this slot, or for one that does not exist any more."""
    left_out: frozenset[int]
    """The tables of ours that were taken out because the application's statements failed."""
    tables: Mapping[int, PublishedTable]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One look at the catalogue: the publication, and the leaves of the tables that matter."""

    publication: Publication | None
    leaves: Mapping[int, Sequence[Leaf]]
    """The leaves by the oid of the table, of those asked for and of those in a publication of
    ours."""
    generated: bool
    """Whether this server can publish stored generated columns."""


def look(
    session: Session, name: str, slot: str, known: Mapping[int, Sequence[Leaf]] | None = None
) -> Sight:
    """Read the publication, and the leaves of its tables; ``known`` are read already.

    None of the statements waits for the lock of a table.
    """
    values = {"publication": name, "for_slot": FOR_SLOT}
    rows = session.fetch("pg_publication", queries("source/publication")["publication"], values)
    found, mark, kept, generated, *options = rows[0][:9]
    leaves = dict(known or {})
    if not found:
        return Sight(publication=None, leaves=leaves, generated=generated)
    tables = {row[9]: _table(*row[9:]) for row in rows if row[9] is not None}
    publication = _publication(name, options, mark, _is_ours(mark, slot, kept), tables)
    if publication.ours:
        members = {*tables, *publication.left_out} - leaves.keys()
        leaves |= read_leaves(session, members) if members else {}
    return Sight(publication=publication, leaves=leaves, generated=generated)


def mark_of(slot: str, left_out: frozenset[int] = frozenset()) -> str:
    """Return the comment of a publication that setup made for a slot."""
    oids = " ".join(str(oid) for oid in sorted(left_out))
    return f"{FOR_SLOT}{slot}" + (f"{LEFT_OUT}{oids}" if oids else "")


def _is_ours(mark: str | None, slot: str, kept: bool) -> bool:
    """Return whether setup made it for this slot; ``kept``: the slot of its mark exists."""
    if mark is None or not mark.startswith(FOR_SLOT):
        return mark == MARK  # of a version that did not tell the slot
    return not kept or mark.removeprefix(FOR_SLOT).partition(LEFT_OUT)[0] == slot


def _publication(
    name: str,
    options: Sequence[bool],
    mark: str | None,
    ours: bool,
    tables: Mapping[int, PublishedTable],
) -> Publication:
    all_tables, all_operations, via_root, generated_withheld, alterable = options
    left_out = (mark or "").partition(LEFT_OUT)[2].split() if ours else ()
    return Publication(
        name=name,
        all_tables=all_tables,
        all_operations=all_operations,
        via_root=via_root,
        generated_withheld=bool(generated_withheld),
        alterable=alterable,
        mark=mark,
        ours=ours,
        left_out=frozenset(int(oid) for oid in left_out if oid.isdecimal()),
        tables=tables,
    )


def _table(
    oid: int, schema: str, table: str, columns: list[str] | None, *rest: Any
) -> PublishedTable:
    filtered, listed, direct, version = rest
    return PublishedTable(
        oid=oid,
        schema=schema,
        table=table,
        columns=frozenset(columns or ()),
        filtered=filtered,
        listed=listed,
        direct=direct,
        version=version,
    )


def gap(sight: Sight, publication: Publication, source: SourceTable) -> str | None:
    """Return what the publication leaves out of a table's changes; None if it carries them all."""
    published = publication.tables.get(source.table.oid)
    own = [leaf for leaf in sight.leaves.get(source.table.oid, ()) if leaf.own]
    ancestors = [oid for leaf in own for oid in leaf.ancestors]
    above = next((publication.tables[oid] for oid in ancestors if oid in publication.tables), None)
    if not publication.all_operations:
        return "is published in part only"
    if source.table.partitioned and not publication.via_root:
        return "is published as its partitions (publish_via_partition_root is false)"
    if above is not None and publication.via_root:
        return f"{PARTITION} of {above.name}"
    if published is None:
        return ABSENT
    if published.name != source.table.full_name:
        return f"is now named {published.name}"
    if published.filtered:
        return "has a row filter"
    missing = set(source.published_columns) - published.columns
    if missing:
        return f"lacks column {', '.join(sorted(missing))}"
    return None
