"""Search indexes over filled tables, made in a thread of their own.

An index takes minutes to hours and locks nothing out. A stop leaves the build to the server, and
the next start takes what it made. Without an index searches are exact and slower.
"""

from collections.abc import Callable
from queue import Queue
from threading import Event, Thread
from typing import Protocol

import structlog

from cdc_embed.change.document import Table
from cdc_embed.errors import CdcEmbedError, TargetUnavailableError
from cdc_embed.flow.patience import AbandonedError, Delay, Patience, delay
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import is_refused_ddl

log = structlog.get_logger()


class Lender(Protocol):
    """Gives up a connection while the indexer has one, so that they do not add up."""

    def lend_connection(self) -> None: ...
    def take_connection_back(self) -> None: ...


class Indexer:
    """Makes the search index of each table that is filled."""

    def __init__(
        self,
        session: Session,
        ensure: Callable[[Session, Table], bool],
        lender: Lender,
        *,
        delay: Delay = delay,
    ) -> None:
        self._session = session
        self._ensure = ensure
        self._lender = lender
        self._filled: Queue[Table | None] = Queue()
        self._closed = Event()
        self.problems: dict[str, str] = {}
        """The reasons why tables have no index yet, by the table's name; replaced whole."""
        self._patience = Patience(self._closed, self._on_error, delay=delay)
        self._thread = Thread(target=self._run, name="index", daemon=True)
        self._thread.start()

    def filled(self, table: Table) -> None:
        """Have the index made of a table whose rows all have their vectors."""
        self._filled.put(table)

    def close(self) -> None:
        """End the thread, and leave an index that is being made to the server."""
        self._closed.set()
        self._filled.put(None)
        while self._thread.is_alive():
            self._session.cancel()
            self._thread.join(0.5)
        self._session.close()

    def _run(self) -> None:
        while (table := self._filled.get()) is not None:
            try:
                self._make_index(table)
            except AbandonedError:
                return
            except CdcEmbedError as exc:
                # a person must act; the vectors do not depend on the index
                name = table.full_name
                log.error("no index", table=name, problem=str(exc), hint=exc.hint)
            if self._filled.empty():
                self._rest()

    def _make_index(self, table: Table) -> None:
        if self._patience.keep_trying("index", lambda: self._attempt(table)):
            log.info("indexed", table=table.full_name)

    def _attempt(self, table: Table) -> bool:
        problem = ""
        self._lender.lend_connection()
        try:
            return self._ensure(self._session, table)
        except CdcEmbedError as exc:
            problem = str(exc)
            self._rest()
            if is_refused_ddl(str(exc.fields.get("state") or "")):  # it can be allowed again
                raise TargetUnavailableError(problem=problem) from exc
            raise
        finally:
            others = {k: why for k, why in self.problems.items() if k != table.full_name}
            self.problems = others | ({table.full_name: problem} if problem else {})

    def _rest(self) -> None:
        """Close the session, which is needed for indexes only."""
        self._session.close()
        self._lender.take_connection_back()

    def _on_error(self, stage: str, error: CdcEmbedError) -> None:
        if not self._closed.is_set():
            log.warning("waiting", stage=stage, problem=str(error))
