"""The slot of a source that keeps a table of vectors.

A schema can hold the vectors of several slots and several sources, but each table of vectors is
kept by exactly one slot of one source, and a slot's name belongs to one source there.
"""

from collections.abc import Iterable
from typing import Final

from cdc_embed.change.document import Table
from cdc_embed.errors import OtherSourceError, PreflightError
from cdc_embed.lsn import Identity
from cdc_embed.setup.connections import Connections
from cdc_embed.source.slot import SlotCatalogue, expect_idle
from cdc_embed.target.position import read_checkpoint
from cdc_embed.target.registry import (
    Registered,
    applied_migrations,
    registered_sources,
    registered_tables,
    service_sessions,
)

TAKE_OVER: Final = "run: cdc-embed setup, which takes the table over and compares every row"


def is_ours(databases: Connections, known: Registered) -> bool:
    """Return whether our slot keeps these vectors, or no slot is registered for them."""
    return known.slot in {None, databases.config.source.slot}


def kept_by(databases: Connections, known: Registered) -> str:
    slot = databases.config.source.slot
    return f"its embedding table is kept by slot {known.slot}, not by {slot}"


def other_source(databases: Connections, slot: str | None) -> Identity | None:
    """Return the source that a slot's name belongs to; None when it is this one, or nobody's.

    That is the source of its recorded position. Before there is one, it is the source whose
    ``setup`` registered tables for it, and was perhaps interrupted. A position that was recorded in
    the source's own database moved together with it, so it is ours.
    """
    if slot is None:
        return None
    schema, ours = databases.config.target.schema, databases.catalogue.identity()
    checkpoint = read_checkpoint(databases.target, schema, slot)
    if checkpoint is None:
        registered = registered_sources(databases.target, schema, slot)
        sources = [Identity(system_identifier=s, database=d, timeline=0) for s, d in registered]
        return next((source for source in sources if not source.is_of(ours)), None)
    before = checkpoint.source
    moved = databases.config.target_is_source and before.is_of(checkpoint.target)
    return None if moved or before.is_of(ours) else before


def expect_keeper(databases: Connections, tables: Iterable[str], *, migrated: bool = False) -> None:
    """Raise when another slot keeps the vectors of one of the tables, which are full names."""
    schema = databases.config.target.schema
    registered = registered_tables(databases.target, schema, migrated=migrated)
    for name in tables:
        expect_kept(databases, name, registered.get(name))


def expect_kept(databases: Connections, name: str, known: Registered | None) -> None:
    """Raise when another slot keeps the vectors of a table."""
    if known is not None and not is_ours(databases, known):
        raise PreflightError(
            where=f"table {name}", problem=kept_by(databases, known), hint=TAKE_OVER
        )


def name_owner(databases: Connections) -> str:
    """Say which other source's slot of our name owns the position in the target; empty if none."""
    config = databases.config
    schema = config.target.schema
    if not applied_migrations(databases.target, schema):
        return ""
    source = other_source(databases, config.source.slot)
    if source is None:
        return ""
    return (
        f"another source's slot of that name owns it in schema {schema} of the target (database "
        f"{source.database}, system identifier {source.system_identifier})"
    )


def expect_own_slot(databases: Connections) -> None:
    """Raise when another source's slot of our name has its position in the target."""
    owner = name_owner(databases)
    if owner:
        raise OtherSourceError(slot=databases.config.source.slot, problem=owner)


def expect_no_service(databases: Connections, slot: str) -> None:
    """Raise when the service of another source's slot is connected to the target."""
    names = [f"cdc_embed {kind}{slot}"[:63] for kind in ("", "reader ", "writer ")]
    pids = service_sessions(databases.target, names)
    if pids:
        raise PreflightError(
            where=f"slot {slot}",
            problem=f"the service of another source's slot of that name is connected to the target "
            f"(PID {', '.join(map(str, pids))})",
            hint="stop that service if this source replaces its source, then run: cdc-embed setup "
            "--rebuild; else set source.slot or target.schema",
        )


def expect_own_gap(databases: Connections, tables: Iterable[str]) -> None:
    """Raise when a person must decide whether this source or slot replaces another one."""
    expect_own_slot(databases)
    expect_keeper(databases, tables)


def expect_free(
    databases: Connections, table: Table, known: Registered, *, takes_over: bool
) -> None:
    """Raise when another source's slot keeps these vectors, or another slot that a service reads.

    ``takes_over``: this source takes the place of the other one.
    """
    if is_ours(databases, known):
        return
    source = other_source(databases, known.slot)
    if source is None:
        slot = SlotCatalogue(databases.source, str(known.slot)).slot()
        if slot is not None:
            expect_idle(slot, "cdc-embed setup")
    elif not takes_over:
        schema = databases.config.target.schema
        raise PreflightError(
            where=f"table {table.full_name}",
            problem=f"its embedding table, {schema}.{known.embedding_table}, is kept by slot "
            f"{known.slot} of another source (database {source.database}, system identifier "
            f"{source.system_identifier})",
            hint="set another target.schema, or, if this source replaces that one, stop its "
            "service and run: cdc-embed setup --rebuild",
        )
    else:
        expect_no_service(databases, str(known.slot))
