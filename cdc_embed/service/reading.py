"""Rows of the source, read again while the service runs: by key, for the loop.

A table whose changes are not delivered is not read, because its name may be another table's now.
The watcher has it compared when its changes are delivered again.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from threading import Event

import structlog

from cdc_embed.change.action import Row
from cdc_embed.change.document import Key, Table
from cdc_embed.config.load import Config
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import SOURCE, TARGET, Side
from cdc_embed.source.coverage import COVERAGES, Coverage, Undelivered, undelivered_is_outage
from cdc_embed.source.rows import RowReader
from cdc_embed.source.tables import SourceTable
from cdc_embed.target.ledger import Ledger

log = structlog.get_logger()


def open_session(config: Config, side: Side, name: str) -> Session:
    """Make a session of one side, with a name of its own in ``pg_stat_activity``."""
    dsn = config.source.resolved_dsn() if side is SOURCE else config.target_dsn()
    return Session(side, dsn, f"cdc_embed {name} {config.source.slot}")


def coverage_of(config: Config, session: Session) -> Coverage:
    """Return the coverage of the configured output plugin, read in this session."""
    return COVERAGES[config.source.plugin](session, config)


class Refetcher:
    """Reads rows by key: those with a text that the log does not carry."""

    def __init__(
        self,
        config: Config,
        sources: Sequence[SourceTable],
        undelivered: Undelivered,
        abandon: Event,
    ) -> None:
        self._session = open_session(config, SOURCE, "rows")
        self._coverage = coverage_of(config, self._session)
        self._sources = sources
        self._undelivered = undelivered
        self._rows = RowReader(self._session, abandon)

    @property
    def waiting_for(self) -> int | None:
        """The transaction that is committed but not visible yet; None if there is none."""
        return self._rows.waiting_for

    def read_rows(self, table: Table, wanted: Mapping[Key, int]) -> dict[Key, Row | None]:
        """Read rows by key, each when its transaction (an xid) is visible.

        Rows of a table that is not delivered are unknown until it is compared.
        """
        if self._undelivered.problem_of([table]):
            return dict.fromkeys(wanted)
        with self._reading():
            return self._rows.read(table, wanted)

    def close(self) -> None:
        """Close the session."""
        self._rows.close()

    def _reading(self) -> AbstractContextManager[None]:
        return undelivered_is_outage(self._coverage, self._sources)


class ComparisonStarter:
    """Has a table compared whose changes from a time when it was not delivered are of no use."""

    def __init__(self, config: Config) -> None:
        self._session = open_session(config, TARGET, "undelivered")
        self._ledger = Ledger(self._session, config.target.schema, config.source.slot)

    def compare_again(self, table: Table) -> None:
        """Begin the comparison of the table anew."""
        self._ledger.compare_again([table.full_name], None)
        log.warning("table was not delivered, every row is compared", table=table.full_name)

    def close(self) -> None:
        """Close the session."""
        self._session.close()
