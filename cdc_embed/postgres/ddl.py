"""Statements that one room composes and another one runs or prints."""

from collections.abc import Callable
from dataclasses import dataclass

from psycopg2 import sql

from cdc_embed.postgres.session import Session
from cdc_embed.sql import queries

OnWait = Callable[[list[str]], None]
"""A function that is called with the sessions that are waited for."""


@dataclass(frozen=True, slots=True)
class Ddl:
    """A statement that makes, alters or removes something, with the reason for it."""

    why: str
    statement: sql.Composable
    work: Callable[[OnWait], None] | None = None
    """The function that runs instead, if one statement cannot do it."""
    table: str = ""
    """The full name of the source table that alone is concerned; empty if all are."""

    def text(self, session: Session) -> str:
        """Return the statement in the form that the session's server reads."""
        with session.transaction(self.why) as cursor:
            text: str = self.statement.as_string(cursor)
        return text


def compose(file: str, query: str, **parts: sql.Composable) -> sql.Composed:
    """Put names and values into a named statement of one file, such as ``"target/schema"``."""
    return sql.SQL(queries(file)[query]).format(**parts)
