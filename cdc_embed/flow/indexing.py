"""Indexes over filled tables, made beside everything else in a thread of their own.

Making one takes minutes to hours and locks nothing out; a stop gives it up, and the next start
makes it again.
"""

from collections.abc import Callable
from queue import Queue
from threading import Thread

import structlog

from cdc_embed.change.document import Table
from cdc_embed.errors import CdcEmbedError
from cdc_embed.session import Session

log = structlog.get_logger()


class Indexer:
    """Makes the search index of each table that it is told is filled."""

    def __init__(self, session: Session, ensure: Callable[[Session, Table], bool]) -> None:
        self._session = session
        self._ensure = ensure
        self._filled: Queue[Table | None] = Queue()
        self._closed = False
        self._thread = Thread(target=self._run, name="index", daemon=True)
        self._thread.start()

    def filled(self, table: Table) -> None:
        """Every row of the table has its vectors."""
        self._filled.put(table)

    def close(self) -> None:
        self._closed = True
        self._filled.put(None)
        while self._thread.is_alive():
            self._session.cancel()
            self._thread.join(0.5)
        self._session.close()

    def _run(self) -> None:
        while (table := self._filled.get()) is not None and not self._closed:
            try:
                if self._ensure(self._session, table):
                    log.info("indexed", table=table.full_name)
            except CdcEmbedError as exc:
                # searches are exact and slower without it; the next start tries again
                if not self._closed:
                    log.warning("no index yet", table=table.full_name, problem=str(exc))
