"""The driver's connection, with the settings that notice a lost peer."""

import math
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from threading import Timer
from typing import Any, Final

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import parse_dsn
from psycopg2.extras import LogicalReplicationConnection

from cdc_embed.errors import ConfigError, SourceUnavailableError
from cdc_embed.postgres.pooler import without_pooler
from cdc_embed.postgres.side import SOURCE, VALUE_SETTINGS, Side, refuses_login
from cdc_embed.postgres.words import describe
from cdc_embed.rotation import Login

SINCE_17: Final = {"transaction_timeout": "0"}

NOTICE_A_LOST_CLIENT: Final = "set client_connection_check_interval = '1s'"
"""The setting with which the server ends a statement whose client is gone, because it would go on
holding its locks."""

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


class Connection(psycopg2.extensions.connection):  # type: ignore[misc]
    """The driver's connection, with the PID of its server process."""

    backend = 0
    """The PID of the server process, also behind a proxy that gives another one."""


def shut_down(connection: Any) -> None:
    """End a connection that another thread waits on; do nothing when it is closed already."""
    with suppress(psycopg2.Error, OSError), _socket_of(connection) as peer:
        peer.shutdown(socket.SHUT_RDWR)


def readable(peers: Iterable[Any], seconds: float) -> list[Any]:
    """Wait for one of some sockets, at most so long; return those with something to read.

    This is not ``select``, because its descriptors end at 1,023.
    """
    waiting = select.poll()
    by_number = {}
    for peer in peers:
        by_number[peer.fileno()] = peer
        waiting.register(peer, select.POLLIN)
    return [by_number[number] for number, _ in waiting.poll(math.ceil(seconds * 1000))]


def _socket_of(connection: Any) -> socket.socket:
    return socket.socket(fileno=os.dup(connection.fileno()))


def connect(side: Side, login: Login, application_name: str) -> Any:
    """Return a new psycopg2 connection with the side's settings, in autocommit off.

    Raises the side's ``unavailable`` for a login that can still come right. Driver errors are left
    to the caller to translate.
    """
    limits: list[Timer] = []

    def open_one(dsn: str) -> Any:
        parameters = {
            **DEAD_PEER_OPTIONS,
            "connect_timeout": str(CONNECT_TIMEOUT),
            **parameters_of(dsn),
            "application_name": application_name,
            "client_encoding": "UTF8",
        }
        opened = _open(Connection, parameters)
        limits.append(_limit(answer_limit(parameters), opened))
        return opened

    try:
        log_in = partial(_log_in, side, login, open_one)
        connection = without_pooler(log_in, side.name, application_name)
        try:
            _set_up(connection, side)
        except BaseException:
            connection.close()
            raise
    finally:
        for limit in limits:
            limit.cancel()
    return connection


def _log_in(side: Side, login: Login, open_one: Callable[[str], Any]) -> Any:
    """Return a connection; read the connection string again when there is none.

    A refusal is told as an outage while the file can still get another connection string.
    """
    while True:
        dsn = login.dsn
        try:
            opened = open_one(dsn)
        except psycopg2.OperationalError as exc:
            # whatever it is, because the string can have been read while it was written
            if login.renewed(dsn):
                continue
            if refuses_login(exc) and login.rotation.may_come(time.monotonic()):
                raise side.unavailable(problem=describe(exc)) from exc
            raise
        login.rotation.accepted()
        return opened


def _open(factory: type, parameters: Mapping[str, Any]) -> Any:
    """Return a connection of the driver, which gives no message if it can open no socket."""
    try:
        return psycopg2.connect(connection_factory=factory, **parameters)
    except psycopg2.OperationalError as exc:
        if not str(exc).strip():
            try:
                os.close(os.dup(0))
            except OSError as short:
                raise psycopg2.OperationalError(str(short)) from exc
        raise


def _limit(seconds: float, connection: Any) -> Timer:
    """Shut a connection down after so many seconds, unless the timer is cancelled."""
    limit = Timer(seconds, shut_down, [connection])
    limit.daemon = True
    limit.start()
    return limit


def _set_up(connection: Any, side: Side) -> None:
    settings = {**side.settings, **(SINCE_17 if connection.server_version >= 170000 else {})}
    statements = [
        sql.SQL("set {} = {}").format(
            sql.Identifier(name), sql.SQL(value) if "," in value else sql.Literal(value)
        )
        for name, value in settings.items()
    ]
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("; ").join(statements))
        with suppress(psycopg2.errors.InvalidParameterValue):  # a server on Windows cannot
            cursor.execute(NOTICE_A_LOST_CLIENT)
    connection.autocommit = False


def expect_usable(side: Side, dsn: str) -> None:
    """Raise for a connection string that libpq can never use, such as one whose service is in no
    service file; nothing is connected to.

    libpq refuses a wrong ``target_session_attrs`` after everything else.
    """
    parameters = {**parameters_of(dsn), "target_session_attrs": "none of them"}
    try:
        psycopg2.connect(**parameters)
    except psycopg2.OperationalError as exc:
        if "target_session_attrs" not in str(exc):
            where = f"{side.name.partition(' ')[0]}.dsn"
            raise ConfigError(where=where, problem=describe(exc)) from exc


def connect_for_replication(login: Login, application_name: str) -> Any:
    """Return a new replication connection of psycopg2, with the settings of the values' text form.

    Raises as ``connect`` does.
    """
    # replication commands accept no other string syntax
    fixed = {**VALUE_SETTINGS, "standard_conforming_strings": "on"}
    settings = " ".join(f"-c {name}={value.replace(' ', '')}" for name, value in fixed.items())

    def open_one(dsn: str) -> Any:
        given = parameters_of(dsn)
        parameters = {
            **DEAD_PEER_OPTIONS,
            "connect_timeout": str(CONNECT_TIMEOUT),
            **given,
            "application_name": application_name,
            "client_encoding": "UTF8",
            "options": f"{given.get('options', '')} {settings}".strip(),
        }
        return _open(LogicalReplicationConnection, parameters)

    return _log_in(SOURCE, login, open_one)


def accepts_replication(login: Login, application_name: str) -> bool:
    """Return whether the server accepts a replication connection with this connection string."""
    try:
        connection = connect_for_replication(login, application_name)
    except (psycopg2.Error, SourceUnavailableError):
        return False
    connection.close()
    return True


def answer_limit(parameters: Mapping[str, str]) -> float:
    """Return the seconds after which an answer is overdue, as long as TCP waits for a peer's."""
    try:
        given = int(parameters.get("tcp_user_timeout", 0))
    except ValueError:  # libpq accepts no units either, and its message is better
        given = 0
    return given / 1000 if given > 0 else DEAD_PEER_SECONDS


def parameters_of(dsn: str) -> dict[str, str]:
    """Return the parts of a connection string. libpq's own error is hidden, because it quotes the
    string."""
    try:
        parts: dict[str, str] = parse_dsn(dsn)
    except psycopg2.Error:
        raise psycopg2.ProgrammingError("libpq cannot read the connection string") from None
    return parts
