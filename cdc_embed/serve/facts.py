"""Facts of both databases at one moment, for ``status`` and the metrics."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cdc_embed.lsn import Checkpoint
from cdc_embed.setup.connections import Connections
from cdc_embed.source.slot import Slot
from cdc_embed.source.tables import SourceTable, estimate_rows
from cdc_embed.target.ledger import Comparison, Ledger
from cdc_embed.target.letters import Letters
from cdc_embed.target.position import read_checkpoint
from cdc_embed.target.registry import count_documents, registered_tables

COUNT_SHARE: Final = 50
"""Counting the documents of a large table takes at most one part in so many of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """Facts of one source table and its documents."""

    name: str
    rows_embedded: int
    rows_source_estimate: int | None
    backfill_state: str | None
    backfill_done: int
    dead_letters: int
    problem: str | None = None
    """The reason why its changes are not delivered; None if they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Both sides at one moment."""

    slot: Slot | None = None
    checkpoint: Checkpoint | None = None
    space: str | None = None
    """The model of the stored vectors."""
    oldest_transaction_seconds: float | None = None
    tables: tuple[TableFacts, ...] = field(default=())


def gather(
    databases: Connections,
    tables: Sequence[SourceTable],
    count: "Counts",
    problems: Mapping[str, str],
) -> Facts:
    """Ask both databases, the slot first, so that it never seems to be ahead of the record.

    ``problems`` gives the reason why changes of a table are not delivered, by the table's name.
    """
    schema = databases.config.target.schema
    slot = databases.catalogue.slot()
    checkpoint = read_checkpoint(databases.target, schema, databases.config.source.slot)
    letters = Letters(databases.target, schema).count()
    compared = Ledger(databases.target, schema, databases.config.source.slot).comparisons()
    return Facts(
        slot=slot,
        checkpoint=checkpoint,
        space=_space(databases, tables),
        oldest_transaction_seconds=databases.catalogue.oldest_transaction_seconds(),
        tables=tuple(
            TableFacts(
                name=source.table.full_name,
                rows_embedded=count(databases, source.table.embedding_table),
                rows_source_estimate=estimate_rows(databases.source, source.table),
                backfill_state=_state(compared.get(source.table.full_name)),
                backfill_done=_done(compared.get(source.table.full_name)),
                dead_letters=letters.get(source.table.full_name, 0),
                problem=problems.get(source.table.full_name),
            )
            for source in tables
        ),
    )


def _state(comparison: Comparison | None) -> str | None:
    return comparison.state if comparison is not None else None


def _done(comparison: Comparison | None) -> int:
    return comparison.checked if comparison is not None else 0


def _space(databases: Connections, tables: Sequence[SourceTable]) -> str | None:
    known = registered_tables(databases.target, databases.config.target.schema)
    stored = (known.get(source.table.full_name) for source in tables)
    return next((found.space.model for found in stored if found is not None), None)


class Counts:
    """Counts documents, again only after a time that is long beside the last count."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, float]] = {}

    def __call__(self, databases: Connections, embedding_table: str) -> int:
        began = time.monotonic()
        documents, due = self._known.get(embedding_table, (0, 0.0))
        if began >= due:
            schema = databases.config.target.schema
            documents = count_documents(databases.target, schema, embedding_table)
            ended = time.monotonic()
            self._known[embedding_table] = (documents, ended + COUNT_SHARE * (ended - began))
        return documents
