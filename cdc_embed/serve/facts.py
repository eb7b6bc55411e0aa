"""Facts of both databases at one moment, for ``status`` and the metrics."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from cdc_embed.errors import TargetRefusedError
from cdc_embed.lsn import Checkpoint
from cdc_embed.setup.connections import Connections
from cdc_embed.source.observed import Observed
from cdc_embed.source.slot import Slot
from cdc_embed.target.index import Indexes, IndexFacts, describe, read_indexes
from cdc_embed.target.ledger import DONE
from cdc_embed.target.overview import StoredTable
from cdc_embed.target.position import read_checkpoint
from cdc_embed.target.registry import count_documents

COUNT_SHARE: Final = 50
"""The part of the time, one in so many, that the count of a large table's documents takes at
most."""
MOST_TOGETHER: Final = 50
"""The number of small tables that one statement counts. Each is locked meanwhile, as by any
query."""

NO_INDEX: Final = IndexFacts(state="missing", problem="setup has not made its table", due=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """Facts of one source table and its documents."""

    name: str
    rows_embedded: int | None
    rows_source_estimate: int | None
    backfill_state: str | None
    backfill_done: int
    dead_letters: int
    deferred: int
    """The rows whose texts wait for the embedder."""
    problem: str | None = None
    """The reason why its changes are not delivered; None if they are."""
    index: IndexFacts
    """The search index."""


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
    count: "Counts",
    observed: Observed,
    stored: Mapping[str, StoredTable],
    paused: Mapping[str, str],
) -> Facts:
    """Ask both databases, the slot first, so that it never seems to be ahead of the record.

    ``observed`` is what the source's catalogue shows of the tables, ``stored`` what the target has,
    ``paused`` why tables are not followed, by name.
    """
    schema = databases.config.target.schema
    slot = databases.catalogue.slot()
    checkpoint = read_checkpoint(databases.target, schema, databases.config.source.slot)
    documents: dict[str, int] = {}
    with suppress(TargetRefusedError):  # a table of vectors that is gone; others report it
        documents = count(databases, stored)
    indexes = index_facts(databases, stored)
    return Facts(
        slot=slot,
        checkpoint=checkpoint,
        space=next((found.model for found in stored.values()), None),
        oldest_transaction_seconds=slot.oldest_transaction_seconds if slot is not None else None,
        tables=tuple(
            TableFacts(
                name=name,
                rows_embedded=documents.get(name) if name in stored else 0,
                rows_source_estimate=observed.estimates.get(name),
                backfill_state=stored[name].state if name in stored else None,
                backfill_done=stored[name].checked if name in stored else 0,
                dead_letters=stored[name].dead_letters if name in stored else 0,
                deferred=stored[name].deferred if name in stored else 0,
                problem=paused.get(name),
                index=indexes.get(name, NO_INDEX),
            )
            for name in dict.fromkeys([*observed.estimates, *paused])
        ),
    )


def index_facts(databases: Connections, stored: Mapping[str, StoredTable]) -> dict[str, IndexFacts]:
    """Return the state of each table's index, by the table's name."""
    config = databases.config
    names = {found.embedding_table: name for name, found in stored.items()}
    found = read_indexes(databases.target, config.target.schema, list(names))
    return {
        name: describe(
            found.get(table, Indexes(table)), config.index, compared=stored[name].state == DONE
        )
        for table, name in names.items()
    }


class Counts:
    """Counts the documents of tables that were written to since the last count."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, str, float]] = {}

    def __call__(self, databases: Connections, stored: Mapping[str, StoredTable]) -> dict[str, int]:
        """Return the documents of each table; small tables are counted together."""
        due = [table for table in stored.values() if self._is_due(table)]
        small = [table for table in due if not table.large]
        groups = [
            small[start : start + MOST_TOGETHER] for start in range(0, len(small), MOST_TOGETHER)
        ]
        for group in [*groups, *([table] for table in due if table.large)]:
            self._count(databases, group)
        return {name: self._known[table.embedding_table][0] for name, table in stored.items()}

    def _is_due(self, table: StoredTable) -> bool:
        _, written, due = self._known.get(table.embedding_table, (0, "", 0.0))
        return written != table.written and time.monotonic() >= due

    def _count(self, databases: Connections, group: Sequence[StoredTable]) -> None:
        began = time.monotonic()
        schema = databases.config.target.schema
        counts = count_documents(databases.target, schema, [t.embedding_table for t in group])
        ended = time.monotonic()
        due = ended + COUNT_SHARE * (ended - began)
        for table in group:
            name = table.embedding_table
            self._known[name] = (counts[name], table.written, due)
