"""Detection of a connection pooler, which would give our session to the application's next one.

A pooler keeps a server process when its client has gone. Our settings would stay there
(``row_security = off``, no time limits), and a lock or a temporary table can be another client's.
So a server process that outlives the connection that it served is refused, whatever the pooler and
its mode. Nothing is set before that is known.

It is suspected if the process or the name of the session is not the one that the connection was
told. A proxy that has one server process for each client differs in the same way, and is accepted.
"""

import time
from collections.abc import Callable
from typing import Any, Final

from cdc_embed.errors import PoolerError
from cdc_embed.sql import queries

END_SECONDS: Final = 5.0
"""The time that a server process has to end after its connection."""
POLL_SECONDS: Final = 0.05

WORDS: Final = ("unsupported startup parameter", "pgbouncer", "pooler")
"""The words of an error that only a pooler gives."""


def refusal(side: str) -> PoolerError:
    """Return the error for a side, by its name."""
    return PoolerError(where=side, setting=f"{side.partition(' ')[0]}.dsn")


def without_pooler(connect: Callable[[], Any], side: str, name: str) -> Any:
    """Return a new connection in autocommit, with the PID of its server process in ``backend``.

    ``connect`` opens one, ``name`` is its ``application_name``. Raises ``PoolerError``; driver
    errors are left to the caller.
    """
    connection = connect()
    try:
        connection.backend, known_as = _ask(connection, "backend")
        if connection.backend == connection.info.backend_pid and known_as == name[:63]:
            return connection
        process = _ask(connection, "process")
    except BaseException:
        connection.close()
        raise
    connection.close()
    other = connect()
    try:
        if _ask(other, "process") == process or _outlives(other, process):
            raise refusal(side)
        other.backend, _ = _ask(other, "backend")
    except BaseException:
        other.close()
        raise
    return other


def _ask(connection: Any, query: str) -> Any:
    """Return the one row of a query about the session."""
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(queries("session")[query])
        return cursor.fetchone()


def _outlives(connection: Any, process: tuple[int, str]) -> bool:
    """Return whether a process is still there, although its connection was closed."""
    deadline = time.monotonic() + END_SECONDS
    values = {"pid": process[0], "started": process[1]}
    with connection.cursor() as cursor:
        while True:
            cursor.execute(queries("session")["is_there"], values)
            if not cursor.fetchone()[0]:
                return False
            if time.monotonic() > deadline:
                return True
            time.sleep(POLL_SECONDS)
