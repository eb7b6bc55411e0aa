"""The source and the target: the settings of their sessions, and our errors for the driver's.

The text form of a value must not depend on a server's or a role's settings, because fingerprints
would drift; so every session sets them. This module alone says, by SQLSTATE class, which errors can
pass by themselves and which need a person
(https://www.postgresql.org/docs/current/errcodes-appendix.html).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg2

from cdc_embed.errors import (
    AuthenticationError,
    CdcEmbedError,
    ConfigError,
    PreflightError,
    SourceUnavailableError,
    TargetRefusedError,
    TargetUnavailableError,
)
from cdc_embed.postgres import pooler
from cdc_embed.postgres.words import DEPENDED_ON, describe, is_of_a_function

VALUE_SETTINGS: Final = {
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
    "array_nulls": "on",
    "timezone": "UTC",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "60s",
    "search_path": "pg_catalog, pg_temp",
    "jit": "off",
}
"""The settings that fix the text form of values and types. Without ``public`` in the
``search_path``, no function or operator that another role makes there is run as this role. Whatever
is not PostgreSQL's own is named with its schema. A process that is stopped holds no lock longer
than a minute, neither on tables of the application nor on the checkpoint row. The planner cannot
know how few rows our questions to the catalogue have, so it would compile each of them, each time
(``jit``).
"""

AUTHENTICATION: Final = "28"
PASSING: Final = frozenset({"08", "25", "40", "53", "55", "57", "58"})
"""The classes that a later attempt can avoid: connection, a standby's read-only state, rollback,
resources, lock not available, operator intervention, system error."""
ROW_DATA: Final = frozenset({"22", "23", "54"})
"""The classes that concern one row's data: no such value, a constraint, too large for an index."""
READ_ONLY: Final = "25006"
"""The error of a session whose server was demoted. The session keeps its server, but a new one can
find the new primary."""
WRONG_PARAMETER: Final = re.compile(
    r"\binvalid [\w ]*(value|number|option)\b|^(definition of )?service (file )?\".*\" not found"
)
"""The words of libpq, which has no SQLSTATE, for a parameter that no later attempt can use."""
UNDEFINED: Final = frozenset({"42703", "42P01", "3F000"})
"""The errors for no such column, table or schema. For a followed table this can pass, until its
state is known."""

LOCKED: Final = "55P03"
"""A lock was not granted in time."""
CANCELLED: Final = "57014"
"""A statement was cancelled, because another session's waited for it, or by somebody."""
PRIVILEGE: Final = "42501"
MISSING_FILE: Final = "58P01"
"""A library that is not installed; waiting does not help."""
HINTS: Final = {
    PRIVILEGE: "grant the missing privilege to the user of the DSN, then run: cdc-embed doctor",
    DEPENDED_ON: "drop the dependent objects or make them independent of it, then try again",
    MISSING_FILE: "install it on the server (Debian's wal2json: postgresql-NN-wal2json), "
    'or set source.plugin = "pgoutput"',
    READ_ONLY: "see why it is read-only (a setting, or it is a standby): cdc-embed doctor",
}


@dataclass(frozen=True, slots=True)
class Side:
    """The source or the target: its settings, and its error classes."""

    name: str
    settings: Mapping[str, str]
    unavailable: Callable[..., CdcEmbedError]
    refused: Callable[..., CdcEmbedError]


SOURCE: Final = Side(
    "source database",
    # a filtered read is an error here; in the target a search must be filtered
    {**VALUE_SETTINGS, "row_security": "off"},
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
    },
    TargetUnavailableError,
    TargetRefusedError,
)


class RowRefusedError(Exception):
    """The database refuses the data of a row; the caller must find out which row."""


@contextmanager
def translated(side: Side, table: str, *, rows: bool = False, ddl: bool = False) -> Iterator[None]:
    """Raise our error for every driver error inside the block.

    ``rows`` and ``ddl`` are those of ``describe``.
    """
    try:
        yield
    except psycopg2.Error as exc:
        state = exc.pgcode or ""
        problem = describe(exc, rows=rows, ddl=ddl)
        if state:
            exc.args = (problem,)  # a traceback shows them
        if not state and any(words in str(exc) for words in pooler.WORDS):
            raise pooler.refusal(side.name) from None
        if state.startswith(AUTHENTICATION) or refuses_login(exc):
            raise AuthenticationError(where=side.name, problem=problem) from exc
        if not state and WRONG_PARAMETER.search(str(exc)) and "FATAL" not in str(exc):
            where = f"{side.name.partition(' ')[0]}.dsn"
            raise ConfigError(where=where, problem=problem) from exc
        if rows and state[:2] in ROW_DATA:
            raise RowRefusedError(problem) from exc
        if (state[:2] in PASSING and state != MISSING_FILE) or (
            not state and isinstance(exc, psycopg2.OperationalError | psycopg2.InterfaceError)
        ):
            locked = f"{table} is locked: " if state == LOCKED else ""
            hint = HINTS.get(state)
            raise side.unavailable(problem=f"{locked}{problem}", hint=hint, state=state) from exc
        of_function = is_of_a_function(exc, rows=rows)
        hint = exc.diag.message_hint if state == PRIVILEGE and not of_function else None
        hint = hint or HINTS.get(state)
        raise side.refused(table=table, problem=problem, hint=hint, state=state) from exc


@contextmanager
def refusal_is_outage(side: Side, what: str) -> Iterator[None]:
    """Turn the refusal of DDL that the service needs into an outage, which is waited for.

    Whether no row is to blame, because an event trigger freezes DDL for a while, or a right was
    taken away.
    """
    try:
        yield
    except psycopg2.Error as exc:
        if exc.pgcode is None or exc.pgcode[:2] in PASSING:
            raise
        raise side.unavailable(problem=f"it refuses to {what}: {describe(exc, ddl=True)}") from exc


def is_refused_ddl(state: str) -> bool:
    """Return whether DDL failed with this SQLSTATE for want of a right, or by an event trigger."""
    return state == PRIVILEGE or state.startswith("P0")


_LOGIN_PROBLEMS = (
    "password authentication failed",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects",
    "does not exist",
    "authentication failed",
    "is not permitted to log in",
    "permission denied",
)


def refuses_login(exc: psycopg2.Error) -> bool:
    """Return whether the server refused the login.

    A failed connection has no SQLSTATE in psycopg2, so only the text of the message tells.
    """
    if exc.pgcode is not None or not isinstance(exc, psycopg2.OperationalError):
        return False
    text = str(exc)
    if "no password supplied" in text:  # a message of the driver, not of the server
        return True
    return "FATAL" in text and any(problem in text for problem in _LOGIN_PROBLEMS)
