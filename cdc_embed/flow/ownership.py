"""Whose the vectors of a table are: a schema may hold those of several slots, and of several
sources, but each table of vectors is kept by one slot alone."""

from cdc_embed.change.document import Table
from cdc_embed.errors import PreflightError
from cdc_embed.flow.connections import Connections
from cdc_embed.lsn import Identity
from cdc_embed.source.slot import SlotCatalogue, expect_idle
from cdc_embed.target.position import read_checkpoint
from cdc_embed.target.schema import Registered


def other_source(both: Connections, known: Registered) -> Identity | None:
    """The source of the slot that keeps these vectors; None when it is this one, or not known."""
    if known.slot is None:
        return None
    checkpoint = read_checkpoint(both.target, both.config.target.schema, known.slot)
    if checkpoint is None or checkpoint.source.is_of(both.catalogue.identity()):
        return None
    return checkpoint.source


def expect_free(both: Connections, table: Table, known: Registered, *, takes_over: bool) -> None:
    """Raise when another source's slot keeps these vectors, or one that a service reads.

    ``takes_over``: this source is to take the place of another one.
    """
    if known.slot in {None, both.config.source.slot}:
        return
    source = other_source(both, known)
    if source is None:
        slot = SlotCatalogue(both.source, known.slot).slot()
        if slot is not None:
            expect_idle(slot, "cdc-embed setup")
    elif not takes_over:
        schema = both.config.target.schema
        raise PreflightError(
            where=f"table {table.full_name}",
            problem=f"its table of vectors, {schema}.{known.embedding_table}, is kept by slot "
            f"{known.slot} of another source (database {source.database}, system identifier "
            f"{source.system_identifier})",
            hint="set another target.schema, or, if this source takes that one's place, run: "
            "cdc-embed setup --rebuild",
        )
