"""Whose the vectors of a table are: a schema may hold those of several slots, and of several
sources, but each table of vectors is kept by one slot alone."""

from collections.abc import Iterable
from typing import Final

from cdc_embed.change.document import Table
from cdc_embed.errors import HistoryGapError, PreflightError
from cdc_embed.lsn import Identity
from cdc_embed.setup.connections import Connections
from cdc_embed.source.slot import SlotCatalogue, expect_idle
from cdc_embed.target.position import read_checkpoint
from cdc_embed.target.registry import Registered, registered_tables

TAKE_OVER: Final = "run: cdc-embed setup, which takes it over and compares every row"


def is_ours(databases: Connections, known: Registered) -> bool:
    """Whether our slot keeps these vectors, or nobody is known to."""
    return known.slot in {None, databases.config.source.slot}


def kept_by(databases: Connections, known: Registered) -> str:
    slot = databases.config.source.slot
    return f"its table of vectors is kept by slot {known.slot}, not by {slot}"


def other_source(databases: Connections, slot: str | None) -> Identity | None:
    """The source whose position is recorded for a slot; None when it is this one, or none is."""
    if slot is None:
        return None
    checkpoint = read_checkpoint(databases.target, databases.config.target.schema, slot)
    if checkpoint is None or checkpoint.source.is_of(databases.catalogue.identity()):
        return None
    return checkpoint.source


def expect_keeper(databases: Connections, tables: Iterable[Table]) -> None:
    """Raise when the vectors of one of the tables are kept by another slot, or are by now."""
    registered = registered_tables(databases.target, databases.config.target.schema)
    for table in tables:
        known = registered.get(table.full_name)
        if known is not None and not is_ours(databases, known):
            raise PreflightError(
                where=f"table {table.full_name}", problem=kept_by(databases, known), hint=TAKE_OVER
            )


def expect_own_gap(databases: Connections, tables: Iterable[Table], gap: HistoryGapError) -> None:
    """Raise where a person has to say that this source or slot takes another's place.

    A target in the source's own database came along with it, to wherever it is now.
    """
    config = databases.config
    if not config.target_is_source and other_source(databases, config.source.slot) is not None:
        raise gap
    expect_keeper(databases, tables)


def expect_free(
    databases: Connections, table: Table, known: Registered, *, takes_over: bool
) -> None:
    """Raise when another source's slot keeps these vectors, or one that a service reads.

    ``takes_over``: this source is to take the place of another one.
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
            problem=f"its table of vectors, {schema}.{known.embedding_table}, is kept by slot "
            f"{known.slot} of another source (database {source.database}, system identifier "
            f"{source.system_identifier})",
            hint="set another target.schema, or, if this source takes that one's place, stop its "
            "service and run: cdc-embed setup --rebuild",
        )
