"""The slot that keeps a table of vectors.

A schema can hold the vectors of several slots and several sources, but each table of vectors is
kept by exactly one slot.
"""

from collections.abc import Iterable
from typing import Final

from cdc_embed.change.document import Table
from cdc_embed.errors import PreflightError
from cdc_embed.lsn import Identity
from cdc_embed.setup.connections import Connections
from cdc_embed.source.slot import SlotCatalogue, expect_idle
from cdc_embed.target.position import read_checkpoint
from cdc_embed.target.registry import (
    Registered,
    applied_migrations,
    registered_tables,
    service_sessions,
)

OTHER_NAME: Final = (
    "set source.slot or target.schema; or, if this source replaces that one, stop its service and "
    "run: cdc-embed setup --rebuild"
)
TAKE_OVER: Final = "run: cdc-embed setup, which takes the table over and compares every row"


def is_ours(databases: Connections, known: Registered) -> bool:
    """Return whether our slot keeps these vectors, or no slot is registered for them."""
    return known.slot in {None, databases.config.source.slot}


def kept_by(databases: Connections, known: Registered) -> str:
    slot = databases.config.source.slot
    return f"its embedding table is kept by slot {known.slot}, not by {slot}"


def other_source(databases: Connections, slot: str | None) -> Identity | None:
    """Return the source of a slot's recorded position; None when it is this one, or there is
    none."""
    if slot is None:
        return None
    checkpoint = read_checkpoint(databases.target, databases.config.target.schema, slot)
    if checkpoint is None or checkpoint.source.is_of(databases.catalogue.identity()):
        return None
    return checkpoint.source


def expect_keeper(
    databases: Connections, tables: Iterable[Table], *, migrated: bool = False
) -> None:
    """Raise when another slot keeps the vectors of one of the tables."""
    schema = databases.config.target.schema
    registered = registered_tables(databases.target, schema, migrated=migrated)
    for table in tables:
        known = registered.get(table.full_name)
        if known is not None and not is_ours(databases, known):
            raise PreflightError(
                where=f"table {table.full_name}",
                problem=kept_by(databases, known),
                hint=TAKE_OVER,
            )


def name_owner(databases: Connections) -> str:
    """Say which other source's slot of our name owns the position in the target; empty if none.

    A target in the source's own database moved together with it, so it is ours.
    """
    config = databases.config
    schema = config.target.schema
    if config.target_is_source or not applied_migrations(databases.target, schema):
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
        where = f"slot {databases.config.source.slot}"
        raise PreflightError(where=where, problem=owner, hint=OTHER_NAME)


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


def expect_own_gap(databases: Connections, tables: Iterable[Table]) -> None:
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
