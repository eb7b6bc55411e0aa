"""Statements of the application that fail because a table is published, and what ends that.

PostgreSQL refuses UPDATE and DELETE of a published table when the log could not tell which row they
meant. That is so without a replica identity (55000), or with an identity that is not published
whole (42P10). Publishing must never cost the application a statement. So our own publication is
altered at once, without asking, whenever the catalogue shows such a table in it. The service does
it, and ``setup`` before it says anything else. A table that cannot be published without harm is
taken out, its oid is kept in the publication's comment, and it is put back once it can be published
again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from psycopg2 import sql

from cdc_embed.config.load import Config
from cdc_embed.errors import PreflightError, SourceUnavailableError
from cdc_embed.postgres.session import Session
from cdc_embed.source.leaves import Leaf
from cdc_embed.source.publication import Publication, PublishedTable, Sight, look
from cdc_embed.source.statements import (
    GENERATED,
    VIA_ROOT,
    add_table,
    drop_table,
    entry,
    set_mark,
    set_options,
)
from cdc_embed.sql import queries


class Remedy(Enum):
    """The change of the publication that ends a harm."""

    WHOLE = "publish the table without a column list"
    GENERATED = "publish stored generated columns"
    OUT = "publish the table no more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """A published table whose UPDATE and DELETE fail."""

    table: PublishedTable
    reason: str
    remedy: Remedy

    def statements(self, publication: Publication) -> list[sql.Composed]:
        """Return the statements that end it."""
        if self.remedy is Remedy.GENERATED:
            return [set_options(publication.name, [GENERATED])]
        table = entry(self.table.identifier)
        out = drop_table(publication.name, table)
        return [out] if self.remedy is Remedy.OUT else [out, add_table(publication.name, table)]


def harms(sight: Sight) -> list[Harm]:
    """Return the tables, of those that the publication itself names, that it harms."""
    publication = sight.publication
    if publication is None:
        return []
    found = []
    for oid, table in publication.tables.items():
        listed = table.columns if table.listed else None
        withheld = publication.generated_withheld
        harm = harm_of(sight.leaves.get(oid, ()), listed, withheld=withheld)
        if harm is not None and table.direct:
            found.append(Harm(table=table, reason=harm[0], remedy=harm[1]))
    return found


def harm_of(
    leaves: Sequence[Leaf], listed: frozenset[str] | None, *, withheld: bool = False
) -> tuple[str, Remedy] | None:
    """Return why the application cannot change a table's rows if it is published in this form.

    ``listed`` are the columns of its list, ``withheld`` says that stored generated columns are not
    published.
    """
    found = [harm for leaf in leaves for harm in _harms(leaf, listed, withheld)]
    worst = (
        harm
        for remedy in (Remedy.OUT, Remedy.WHOLE, Remedy.GENERATED)
        for harm in found
        if harm[1] is remedy
    )
    return next(worst, None)


def _harms(
    leaf: Leaf, listed: frozenset[str] | None, withheld: bool
) -> Iterator[tuple[str, Remedy]]:
    if not leaf.publishable:
        return
    if not leaf.full and not leaf.identity:
        yield f"{leaf.name} has no replica identity", Remedy.OUT
    if leaf.full and leaf.virtual:
        columns = ", ".join(leaf.virtual)
        problem = f"the virtual generated column {columns}, which cannot be published"
        yield f"{leaf.name} has REPLICA IDENTITY FULL and {problem}", Remedy.OUT
    if leaf.full and listed is not None:
        yield f"{leaf.name} has REPLICA IDENTITY FULL, and columns are listed", Remedy.WHOLE
    if listed is not None and not leaf.full and not listed.issuperset(leaf.identity):
        columns = ", ".join(leaf.identity)
        yield f"not all of {leaf.name}'s replica identity ({columns}) is listed", Remedy.WHOLE
    if withheld and listed is None and (leaf.generated_identity or (leaf.full and leaf.stored)):
        problem = "a stored generated column in its replica identity, which is not published"
        yield f"{leaf.name} has {problem}", Remedy.GENERATED


# --- our own publication -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Repair:
    """Statements that go into one transaction, with the reason for them."""

    why: str
    statements: list[sql.Composed]


def protect(session: Session, config: Config) -> list[str]:
    """End what harms the application in our own publication; return what was done, or why not.

    A lock that is not to be had within two seconds keeps nobody from going on, because the harm is
    seen again by whoever looks next.
    """
    name, slot = config.source.publication, config.source.slot
    said = []
    for repair in repairs(look(session, name, slot), slot):
        try:
            _alter(session, name, repair)
        except (PreflightError, SourceUnavailableError) as exc:
            said.append(f"not possible now: {repair.why} ({exc})")
        else:
            said.append(repair.why)
    return said


def _alter(session: Session, name: str, repair: Repair) -> None:
    with session.transaction(name) as cursor:
        cursor.execute(queries("source/publication")["short_wait"])
        for statement in repair.statements:
            cursor.execute(statement)


def repairs(sight: Sight, slot: str) -> list[Repair]:
    """Compose what ends the harm; nothing if the publication is not ours to alter."""
    publication = sight.publication
    if publication is None or not publication.ours or not publication.alterable:
        return []
    return list(_repairs(sight, publication, slot))


def _repairs(sight: Sight, publication: Publication, slot: str) -> Iterator[Repair]:
    name, left_out = publication.name, publication.left_out
    found = harms(sight)
    options = [] if publication.via_root else [VIA_ROOT]
    if publication.generated_withheld and (
        left_out or any(harm.remedy is Remedy.GENERATED for harm in found)
    ):
        options.append(GENERATED)
    if options:
        yield Repair(f"publication {name}: {', '.join(options)}", [set_options(name, options)])
    for harm in found:
        if harm.remedy is Remedy.GENERATED:
            continue
        statements = harm.statements(publication)
        why = f"table {harm.table.name} is published whole: {harm.reason}"
        own = _own(sight, harm.table.oid)
        if harm.remedy is Remedy.OUT or own is None or not own.owned:
            left_out |= {harm.table.oid}
            statements = [statements[0], set_mark(name, slot, left_out)]
            why = f"table {harm.table.name} is published no more: {harm.reason}"
        yield Repair(why, statements)
    for oid in sorted(publication.left_out - publication.tables.keys()):
        own = _own(sight, oid)
        if own is not None and (harm_of(sight.leaves[oid], None) is not None or not own.owned):
            continue
        left_out -= {oid}
        forget = set_mark(name, slot, left_out)
        if own is None:
            yield Repair(f"the table with the oid {oid} does not exist any more", [forget])
        else:
            add = add_table(name, entry(sql.SQL(own.name)))
            yield Repair(f"table {own.name} is published again", [add, forget])


def _own(sight: Sight, oid: int) -> Leaf | None:
    return next((leaf for leaf in sight.leaves.get(oid, ()) if leaf.own), None)
