"""The source and the target: how their sessions are set up, and how their errors are called.

Text forms of values must not depend on a server's or a role's settings, or fingerprints would
drift: so every session of either side sets them. Which errors may pass by themselves and which
need a person is said here once, by SQLSTATE class
(https://www.postgresql.org/docs/current/errcodes-appendix.html).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg2

from cdc_embed.errors import (
    AuthenticationError,
    CdcEmbedError,
    PreflightError,
    SourceUnavailableError,
    TargetRefusedError,
    TargetUnavailableError,
)

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

AUTHENTICATION: Final = "28"
PASSING: Final = frozenset({"08", "25", "40", "53", "55", "57", "58"})
"""Classes that a later attempt may not meet: connection, a standby's read-only state, rollback,
resources, lock not available, operator intervention, system error."""
ROW_DATA: Final = frozenset({"22", "23", "54"})
"""Classes that speak of one row's data: no such value, a constraint, too large for an index."""
READ_ONLY: Final = "25006"
"""A session stays as it began, and its server may have been demoted: a new one may find better."""
UNDEFINED: Final = frozenset({"42703", "42P01", "3F000"})
"""No such column, table or schema: of a followed table, until it is known what became of it."""

PRIVILEGE: Final = "42501"
MISSING_FILE: Final = "58P01"
"""A library that is not installed: it does not come by itself."""
DEPENDED_ON: Final = "2BP01"
HINTS: Final = {
    PRIVILEGE: "grant what is denied to the user of the DSN, then run: cdc-embed doctor",
    DEPENDED_ON: "drop what depends on it, or have it depend on something else, and try again",
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
    lambda table, problem, hint, state: PreflightError(
        where=f"source {table}", problem=problem, hint=hint, table=table, state=state
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


class RowRefusedError(Exception):
    """The database refuses a row's data; which row, the caller must find out."""


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
        raise side.refused(table=table, problem=problem, hint=hint, state=state) from exc


def describe(exc: psycopg2.Error) -> str:
    """A driver error in one line, without the statement that caused it."""
    message = exc.diag.message_primary or str(exc)
    if exc.pgcode == DEPENDED_ON and exc.diag.message_detail:  # it names objects, no values
        message += f": {exc.diag.message_detail}"
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
