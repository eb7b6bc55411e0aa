"""Rows of the source, read again by key while the service runs, for the loop.

A table whose changes are not delivered is not read, because its name can be another table's now.
The watcher has it compared when its changes are delivered again.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from threading import Event

import structlog

from cdc_embed.change.action import Row
from cdc_embed.change.document import Key, Table
from cdc_embed.service.checked import Checked
from cdc_embed.setup.connections import Connections
from cdc_embed.source.coverage import Undelivered, undelivered_is_outage
from cdc_embed.source.rows import RowReader, part_bytes
from cdc_embed.target.ledger import Ledger

log = structlog.get_logger()


class Refetcher:
    """Reads by key the rows with a text that the log does not carry."""

    def __init__(self, checked: Checked, undelivered: Undelivered, abandon: Event) -> None:
        self._coverage = checked.databases.coverage
        self._sources = checked.sources
        self._undelivered = undelivered
        self._rows = RowReader(
            checked.databases.rows,
            abandon,
            part_bytes=part_bytes(checked.config.limits.memory),
        )

    @property
    def waiting_for(self) -> int | None:
        """The transaction that is committed but not visible yet; None if there is none."""
        return self._rows.waiting_for

    def read_rows(self, table: Table, wanted: Mapping[Key, int]) -> dict[Key, Row | None]:
        """Read the first of some rows by key, each when its transaction (an xid) is visible.

        Rows of a table that is not delivered are unknown until it is compared.
        """
        if self._undelivered.problem_of([table]):
            return dict.fromkeys(wanted)
        with self._reading():
            return self._rows.read(table, wanted)

    def _reading(self) -> AbstractContextManager[None]:
        return undelivered_is_outage(self._coverage, self._sources)


class ComparisonStarter:
    """Has a table compared whose changes from a time when it was not delivered are of no use."""

    def __init__(self, databases: Connections) -> None:
        config = databases.config
        self._ledger = Ledger(databases.target, config.target.schema, config.source.slot)

    def compare_again(self, table: Table, problem: str) -> None:
        """Begin the comparison of the table anew."""
        self._ledger.compare_again([table.full_name], None)
        event = "table was not delivered, every row is compared"
        log.warning(event, table=table.full_name, problem=problem)
