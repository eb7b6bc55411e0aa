"""A PostgreSQL session: opened when needed, opened again when lost.

Threads can share it. One waits while another uses it, so only short statements belong into a
session that is shared.
"""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from threading import RLock, Thread, Timer
from typing import Any, Final

import psycopg2

from cdc_embed.errors import CdcEmbedError
from cdc_embed.postgres import pulse
from cdc_embed.postgres.connect import (
    DEAD_PEER_SECONDS,
    answer_limit,
    connect,
    parameters_of,
    shut_down,
)
from cdc_embed.postgres.giving_way import GivingWay
from cdc_embed.postgres.plans import Plans
from cdc_embed.postgres.side import READ_ONLY, Side, translated
from cdc_embed.rotation import Login
from cdc_embed.sql import queries

PULSE: Final = pulse.Pulse()


class Session:
    """A lazily opened connection."""

    def __init__(
        self,
        side: Side,
        login: Login,
        application_name: str,
        *,
        lookout: "Session | None" = None,
    ) -> None:
        """``lookout``: a session of the same server, from which a long statement of this one is
        cancelled if another's waits for it."""
        self.side = side
        self._login = login
        self._application_name = application_name
        self._connection: Any = None
        self._plans = Plans()
        self._opening: Future[Any] | None = None
        self._shut_down: Any = None
        self._giving_way = GivingWay(self, lookout) if lookout is not None else None
        self._lock = RLock()
        self._used_at = time.monotonic()
        self.waiting_since: float | None = None
        self.answer_limit = DEAD_PEER_SECONDS
        """The seconds of waiting after which the server is asked whether it still works on the
        statement."""
        self.generation = 0
        """The number of connections so far; an object that lives as long as one is tied to this
        number."""

    @contextmanager
    def transaction(
        self, table: str = "database", *, keep: bool = True, rows: bool = False, ddl: bool = False
    ) -> Iterator[Any]:
        """Yield a cursor in a transaction that commits at the end; ``table`` is named in errors.

        With ``keep`` false the transaction is rolled back instead, as a rehearsal. With ``rows``
        the database can refuse the data of a row; the caller then finds the row. With ``ddl`` no
        row is read or written, so an error has the words of an event trigger, too.

        Raises the side's ``unavailable`` or ``refused`` error or ``AuthenticationError``, and with
        ``rows`` ``RowRefusedError``. After an ``unavailable`` from the commit itself, it is unknown
        whether the commit took effect.
        """
        with translated(self.side, table, rows=rows, ddl=ddl), self._watched():
            connection = self._open()
            try:
                with connection.cursor() as cursor:
                    yield cursor
                if keep:
                    connection.commit()
                else:
                    connection.rollback()
            except BaseException as exc:
                if getattr(exc, "pgcode", None) == READ_ONLY:
                    self.close()
                else:
                    self._roll_back()
                raise

    @contextmanager
    def autocommit(self, table: str, *, ddl: bool = False) -> Iterator[Any]:
        """Yield a cursor outside any transaction, for statements that make their own; ``ddl`` is
        that of ``transaction``."""
        with translated(self.side, table, ddl=ddl), self._watched():
            connection = self._open()
            connection.autocommit = True
            try:
                with connection.cursor() as cursor:
                    yield cursor
                connection.autocommit = False
            except BaseException:
                self.close()
                raise

    def fetch(
        self, table: str, statement: Any, values: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """Return the rows of one statement that needs no transaction around it.

        A poll costs the server this statement alone, without a BEGIN and a COMMIT, and is planned
        once.
        """
        with self.autocommit(table) as cursor:
            self._plans.execute(cursor, statement, values)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows

    @property
    def is_open(self) -> bool:
        """Whether there is a connection that was not found to be lost."""
        return self._connection is not None and not self._connection.closed

    @property
    def backend(self) -> int:
        """The PID of the server process; 0 while there is none."""
        connection = self._connection
        return 0 if connection is None else connection.backend

    @property
    def look_seconds(self) -> float:
        """The seconds after which the server is asked whether it still works on a statement."""
        return self.answer_limit

    def encoding(self) -> str:
        """Return the database's encoding, by PostgreSQL's name."""
        with self.transaction("server_encoding") as cursor:
            cursor.execute("show server_encoding")
            name: str = cursor.fetchone()[0]
        return name

    def close(self) -> None:
        """End the connection; the next transaction opens another."""
        PULSE.unwatch(self)
        if self._giving_way is not None:
            PULSE.unwatch(self._giving_way)
        self._drop_connection()

    def close_when_free(self) -> None:
        """End the connection once no thread uses it."""
        with self._lock:
            self.close()

    def close_unused(self, seconds: float) -> None:
        """End the connection if no thread has used it for so long."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._connection is not None and time.monotonic() - self._used_at > seconds:
                self.close()
        finally:
            self._lock.release()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def cancel(self) -> None:
        """Make the wait of another thread fail. Shut its connection down, or abandon its
        connecting.

        The server notices, and ends its statement. A cancel request would take for ever when the
        server hangs, and the driver lets no other thread run meanwhile.
        """
        opening, connection = self._opening, self._connection
        if opening is not None:
            opening.cancel()
        if connection is not None:
            self._shut_down = connection
            shut_down(connection)

    def look(self) -> None:
        """End a wait for an answer that will not come."""
        since = self.waiting_since
        if since is not None and not self._is_served() and self.waiting_since == since:
            self.cancel()

    def _is_served(self) -> bool:
        """Return whether the server works on the statement that is waited for, seen from a second
        session."""
        connection = self._connection
        if connection is None or connection.closed or not connection.backend:
            return True
        try:
            other = connect(self.side, self._login, f"{self._application_name} pulse")
        except psycopg2.OperationalError as exc:
            return "FATAL" in str(exc)  # the server answers, but accepts no session
        except CdcEmbedError:  # a pooler, a login; the next session meets it, and says so
            return True
        limit = Timer(self.answer_limit, shut_down, [other])
        limit.daemon = True
        limit.start()
        try:
            with other.cursor() as cursor:
                values = {
                    "pid": connection.backend,
                    "application_name": self._application_name,
                    "seconds": self.answer_limit,
                }
                cursor.execute(queries("session")["served"], values)
                served: bool = cursor.fetchone()[0]
                if not served:  # the next attempt would wait for the locks that it holds
                    cursor.execute(queries("session")["end"], values)
        except psycopg2.Error:
            return False
        finally:
            limit.cancel()
            other.close()
        return served

    @contextmanager
    def _watched(self) -> Iterator[None]:
        with self._lock:
            self.waiting_since = time.monotonic()
            PULSE.watch(self)
            if self._giving_way is not None:
                PULSE.watch(self._giving_way)
            try:
                yield
            finally:
                self.waiting_since = None
                self._used_at = time.monotonic()

    def _open(self) -> Any:
        if self._connection is not None and self._connection is self._shut_down:
            self._drop_connection()
        if self._connection is None or self._connection.closed:
            self.answer_limit = answer_limit(parameters_of(self._login.dsn))
            self._connection = self._connect()
            self._plans = Plans()
            self.generation += 1
        return self._connection

    def _connect(self) -> Any:
        """Return a new connection, made in a thread of its own because the driver's wait has no
        limit."""
        opening = self._opening = Future()
        arguments = (opening, self.side, self._login, self._application_name)
        Thread(target=_connect_for, args=arguments, name="connect", daemon=True).start()
        try:
            return opening.result()
        except CancelledError:
            raise self.side.unavailable(problem="the connection attempt was cancelled") from None
        finally:
            self._opening = None

    def _roll_back(self) -> None:
        try:
            self._connection.rollback()
        except psycopg2.Error:
            self._drop_connection()


def _connect_for(opening: "Future[Any]", side: Side, login: Login, application_name: str) -> None:
    try:
        connection = connect(side, login, application_name)
    except BaseException as exc:  # noqa: BLE001  whatever it is, it is raised where it is waited for
        if opening.set_running_or_notify_cancel():
            opening.set_exception(exc)
    else:
        if opening.set_running_or_notify_cancel():
            opening.set_result(connection)
        else:
            connection.close()
