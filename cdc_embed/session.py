"""A PostgreSQL session: opened when needed, set up the same everywhere, its errors translated.

Text forms of values must not depend on a server's or a role's settings, or fingerprints would
drift: so every session of either side sets them. Which errors may pass by themselves and which
need a person is said here once, by SQLSTATE class
(https://www.postgresql.org/docs/current/errcodes-appendix.html).
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread, Timer
from typing import Any, Final

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import parse_dsn

from cdc_embed import pulse
from cdc_embed.errors import (
    AuthenticationError,
    CdcEmbedError,
    PreflightError,
    SourceUnavailableError,
    TargetRefusedError,
    TargetUnavailableError,
)
from cdc_embed.sql import queries

VALUE_SETTINGS: Final = {
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "timezone": "UTC",
    "row_security": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "search_path": "pg_catalog, public",
}
"""How values are written; ``row_security = off`` makes a filtered read an error, not a lie."""

SINCE_17: Final = {"transaction_timeout": "0"}

NOTICE_A_LOST_CLIENT: Final = "set client_connection_check_interval = '1s'"
"""A statement whose client was killed or cut off must not go on and hold its locks."""

CONNECT_TIMEOUT: Final = 10

DEAD_PEER_SECONDS: Final = 30.0
DEAD_PEER_OPTIONS: Final = {
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": f"{DEAD_PEER_SECONDS * 1000:.0f}",
}
"""A peer that vanished is noticed within half a minute, unless the DSN says otherwise."""

AUTHENTICATION: Final = "28"
PASSING: Final = frozenset({"08", "25", "40", "53", "55", "57", "58"})
"""Classes that a later attempt may not meet: connection, a standby's read-only state, rollback,
resources, lock not available, operator intervention, system error."""
ROW_DATA: Final = frozenset({"22", "23", "54"})
"""Classes that speak of one row's data: no such value, a constraint, too large for an index."""
READ_ONLY: Final = "25006"
"""A session stays as it began, and its server may have been demoted: a new one may find better."""

PRIVILEGE: Final = "42501"
MISSING_FILE: Final = "58P01"
"""A library that is not installed: it does not come by itself."""
HINTS: Final = {
    PRIVILEGE: "grant what is denied to the user of the DSN, then run: cdc-embed doctor",
    MISSING_FILE: "install it on the server (Debian's wal2json: postgresql-NN-wal2json), "
    'or set source.plugin = "pgoutput"',
}


@dataclass(frozen=True, slots=True)
class Side:
    """The source or the target: its settings and its words for what went wrong."""

    name: str
    settings: Mapping[str, str]
    unavailable: Callable[..., CdcEmbedError]
    refused: Callable[..., CdcEmbedError]


SOURCE: Final = Side(
    "source database",
    VALUE_SETTINGS,
    SourceUnavailableError,
    lambda table, problem, hint: PreflightError(
        where=f"source {table}", problem=problem, hint=hint, table=table
    ),
)
TARGET: Final = Side(
    "target database",
    {
        **VALUE_SETTINGS,
        # a confirmed change must survive a crash of the target
        "synchronous_commit": "on",
        # a stopped process must not hold the checkpoint row
        "idle_in_transaction_session_timeout": "60s",
    },
    TargetUnavailableError,
    TargetRefusedError,
)


PULSE: Final = pulse.Pulse()


class RowRefusedError(Exception):
    """The database refuses a row's data; which row, the caller must find out."""


class Connection(psycopg2.extensions.connection):  # type: ignore[misc]
    """The driver's, with what we know of the server's end."""

    backend = 0
    """The server's process; 0 where a pooler hides it."""


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
        self.patience = DEAD_PEER_SECONDS
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

    def close(self) -> None:
        """End the connection; the next transaction opens another."""
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
            cut(connection)

    def is_served(self) -> bool:
        """Whether the server works on what is waited for, as a session of its own sees it."""
        connection = self._connection
        if connection is None or connection.closed or not connection.backend:
            return True
        try:
            other = connect(self.side, self._dsn, f"{self._application_name} pulse")
        except psycopg2.OperationalError as exc:
            return "FATAL" in str(exc)  # it is there, but lets nobody in
        limit = Timer(self.patience, cut, [other])
        limit.daemon = True
        limit.start()
        try:
            with other.cursor() as cursor:
                values = {
                    "pid": connection.backend,
                    "application_name": self._application_name,
                    "seconds": self.patience,
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
            self.close()
        if self._connection is None or self._connection.closed:
            self.patience = patience(parameters_of(self._dsn))
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
            self.close()


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


def cut(connection: Any) -> None:
    """End a connection that another thread waits on; harmless when it is closed already."""
    with suppress(psycopg2.Error, OSError), _socket_of(connection) as peer:
        peer.shutdown(socket.SHUT_RDWR)


def _socket_of(connection: Any) -> socket.socket:
    return socket.socket(fileno=os.dup(connection.fileno()))


def connect(side: Side, dsn: str, application_name: str) -> Any:
    """A new psycopg2 connection with the side's settings, in autocommit off.

    Driver errors are the caller's to translate.
    """
    parameters = {
        **DEAD_PEER_OPTIONS,
        "connect_timeout": str(CONNECT_TIMEOUT),
        **parameters_of(dsn),
    }
    connection = psycopg2.connect(
        connection_factory=Connection, **{**parameters, "application_name": application_name}
    )
    settings = {**side.settings, **(SINCE_17 if connection.server_version >= 170000 else {})}
    limit = Timer(patience(parameters), cut, [connection])
    limit.daemon = True
    limit.start()
    try:
        connection.set_client_encoding("UTF8")
        connection.autocommit = True
        with connection.cursor() as cursor:
            for name, value in settings.items():
                cursor.execute(
                    sql.SQL("set {} = {}").format(
                        sql.Identifier(name), sql.SQL(value) if "," in value else sql.Literal(value)
                    )
                )
            with suppress(psycopg2.errors.InvalidParameterValue):  # a server on Windows cannot
                cursor.execute(NOTICE_A_LOST_CLIENT)
            cursor.execute(queries("session")["backend"])
            pid = cursor.fetchone()[0]
        connection.backend = pid if pid == connection.info.backend_pid else 0
        connection.autocommit = False
    except BaseException:
        connection.close()
        raise
    finally:
        limit.cancel()
    return connection


def patience(parameters: Mapping[str, str]) -> float:
    """Seconds after which an answer should have come: as long as TCP waits for a peer's."""
    given = int(parameters.get("tcp_user_timeout", 0))
    return given / 1000 if given > 0 else DEAD_PEER_SECONDS


def parameters_of(dsn: str) -> dict[str, str]:
    """A connection string's parts; what libpq says of a wrong one would quote it."""
    try:
        parts: dict[str, str] = parse_dsn(dsn)
    except psycopg2.Error:
        raise psycopg2.ProgrammingError("the connection string is not one of libpq's") from None
    return parts


@contextmanager
def translated(side: Side, table: str, *, rows: bool = False) -> Iterator[None]:
    """Driver errors inside become ours."""
    try:
        yield
    except psycopg2.Error as exc:
        state = exc.pgcode or ""
        problem = describe(exc)
        if state.startswith(AUTHENTICATION) or _refuses_login(exc):
            raise AuthenticationError(where=side.name, problem=problem) from exc
        if rows and state[:2] in ROW_DATA:
            raise RowRefusedError(problem) from exc
        if (state[:2] in PASSING and state != MISSING_FILE) or (
            not state and isinstance(exc, psycopg2.OperationalError | psycopg2.InterfaceError)
        ):
            raise side.unavailable(problem=problem) from exc
        hint = HINTS.get(state)
        raise side.refused(table=table, problem=problem, hint=hint) from exc


def describe(exc: psycopg2.Error) -> str:
    """A driver error in one line, without the statement that caused it."""
    message = exc.diag.message_primary or str(exc)
    return " ".join(message.split()) or type(exc).__name__


_LOGIN_PROBLEMS = (
    "password authentication failed",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects",
    "does not exist",
    "authentication failed",
    "is not permitted to log in",
    "permission denied",
)


def _refuses_login(exc: psycopg2.Error) -> bool:
    """A failed connection has no SQLSTATE in psycopg2: the server's words are all there is."""
    if exc.pgcode is not None or not isinstance(exc, psycopg2.OperationalError):
        return False
    text = str(exc)
    if "no password supplied" in text:  # the driver's words, not the server's
        return True
    return "FATAL" in text and any(problem in text for problem in _LOGIN_PROBLEMS)
