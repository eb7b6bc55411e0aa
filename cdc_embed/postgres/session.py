"""A PostgreSQL session: opened when needed, and again when lost; one thread's at a time."""

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from threading import Thread, Timer
from typing import Any, Final

import psycopg2

from cdc_embed.postgres import pulse
from cdc_embed.postgres.connect import (
    DEAD_PEER_SECONDS,
    answer_limit,
    connect,
    parameters_of,
    shut_down,
)
from cdc_embed.postgres.side import READ_ONLY, Side, translated
from cdc_embed.sql import queries

PULSE: Final = pulse.Pulse()


class Session:
    """A lazily opened connection. Not for two threads at once."""

    def __init__(self, side: Side, dsn: str, application_name: str) -> None:
        self.side = side
        self._dsn = dsn
        self._application_name = application_name
        self._connection: Any = None
        self._opening: Future[Any] | None = None
        self._cut: Any = None
        self.waiting_since: float | None = None
        self.answer_limit = DEAD_PEER_SECONDS
        """Seconds after which the server is asked whether it works on what is waited for."""
        self.generation = 0
        """Counts the connections: what lives as long as a session is tied to it."""

    @contextmanager
    def transaction(
        self, table: str = "database", *, keep: bool = True, rows: bool = False
    ) -> Iterator[Any]:
        """A cursor in a transaction that commits at the end; ``table`` is named in errors.

        With ``keep`` false it is rolled back instead: a rehearsal. With ``rows`` the database may
        refuse the data of a row, which the caller then looks for.

        Raises the side's ``unavailable`` or ``refused`` error or ``AuthenticationError``, and with
        ``rows`` ``RowRefusedError``. After an ``unavailable`` from the commit itself, whether it
        took effect is unknown.
        """
        with translated(self.side, table, rows=rows), self._watched():
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
    def autocommit(self, table: str) -> Iterator[Any]:
        """A cursor outside any transaction, for statements that make their own."""
        with translated(self.side, table), self._watched():
            connection = self._open()
            connection.autocommit = True
            try:
                with connection.cursor() as cursor:
                    yield cursor
                connection.autocommit = False
            except BaseException:
                self.close()
                raise

    def encoding(self) -> str:
        """The database's, as PostgreSQL calls it."""
        with self.transaction("server_encoding") as cursor:
            cursor.execute("show server_encoding")
            name: str = cursor.fetchone()[0]
        return name

    def close(self) -> None:
        """End the connection; the next transaction opens another."""
        PULSE.unwatch(self)
        self._drop_connection()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def cancel(self) -> None:
        """Make what another thread waits for fail: a connection is cut, or not waited for.

        The server notices, and gives its statement up. Asking it for that would take for ever when
        it hangs, and the driver lets no other thread run meanwhile.
        """
        opening, connection = self._opening, self._connection
        if opening is not None:
            opening.cancel()
        if connection is not None:
            self._cut = connection
            shut_down(connection)

    def is_served(self) -> bool:
        """Whether the server works on what is waited for, as a session of its own sees it."""
        connection = self._connection
        if connection is None or connection.closed or not connection.backend:
            return True
        try:
            other = connect(self.side, self._dsn, f"{self._application_name} pulse")
        except psycopg2.OperationalError as exc:
            return "FATAL" in str(exc)  # it is there, but lets nobody in
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
                if not served:  # what it holds, the next attempt would wait for
                    cursor.execute(queries("session")["end"], values)
        except psycopg2.Error:
            return False
        finally:
            limit.cancel()
            other.close()
        return served

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self.waiting_since = time.monotonic()
        PULSE.watch(self)
        try:
            yield
        finally:
            self.waiting_since = None

    def _open(self) -> Any:
        if self._connection is not None and self._connection is self._cut:
            self._drop_connection()
        if self._connection is None or self._connection.closed:
            self.answer_limit = answer_limit(parameters_of(self._dsn))
            self._connection = self._connect()
            self.generation += 1
        return self._connection

    def _connect(self) -> Any:
        """A new connection, made in a thread of its own: the driver's wait for it has no end."""
        opening = self._opening = Future()
        arguments = (opening, self.side, self._dsn, self._application_name)
        Thread(target=_connect_for, args=arguments, name="connect", daemon=True).start()
        try:
            return opening.result()
        except CancelledError:
            raise self.side.unavailable(problem="connecting was given up") from None
        finally:
            self._opening = None

    def _roll_back(self) -> None:
        try:
            self._connection.rollback()
        except psycopg2.Error:
            self._drop_connection()


def _connect_for(opening: "Future[Any]", side: Side, dsn: str, application_name: str) -> None:
    try:
        connection = connect(side, dsn, application_name)
    except BaseException as exc:  # noqa: BLE001  whatever it is, it is raised where it is waited for
        if opening.set_running_or_notify_cancel():
            opening.set_exception(exc)
    else:
        if opening.set_running_or_notify_cancel():
            opening.set_result(connection)
        else:
            connection.close()
