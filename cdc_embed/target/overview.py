"""The looks of a running service at the target, each one statement for all tables."""

from collections.abc import Collection
from dataclasses import dataclass

from psycopg2 import sql

from cdc_embed.postgres.ddl import compose
from cdc_embed.postgres.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTable:
    """A table of vectors, and the progress of its comparison."""

    embedding_table: str
    model: str
    """The model of its vectors."""
    dead_letters: int
    deferred: int
    """The rows whose texts wait for the embedder."""
    deferred_since: float | None
    """The Unix time of the oldest change that waits so."""
    state: str | None
    """The state of its comparison; None if there is none yet."""
    checked: int
    shape: str | None
    """The source table's own shape when its comparison began."""
    leaf_digest: str | None
    """The digest of the leaves that the comparison takes into account."""
    large: bool
    """Whether counting its rows takes a while."""
    written: str
    """A token that changes when its rows are written."""
    logged: bool
    """Whether a crash of the server leaves its rows."""


def stored_tables(session: Session, schema: str, names: Collection[str]) -> dict[str, StoredTable]:
    """Return the table of vectors of each source table that has one, by the full name."""
    values = {"schema": schema, "table_names": list(names)}
    return {
        row[0]: StoredTable(
            embedding_table=row[1],
            model=row[2],
            dead_letters=row[3],
            deferred=row[4],
            deferred_since=row[5],
            state=row[6],
            checked=row[7],
            shape=row[8],
            leaf_digest=row[9],
            large=bool(row[10]),
            written=row[11],
            logged=row[12],
        )
        for row in session.fetch("embedding_table", _compose("stored_tables", schema), values)
    }


def something_to_do(session: Session, schema: str, slot: str, names: Collection[str]) -> bool:
    """Return whether the command line asks for something, or one of the tables is not compared."""
    values = {"slot": slot, "table_names": list(names)}
    found: bool = session.fetch("request", _compose("something_to_do", schema), values)[0][0]
    return found


def _compose(query: str, schema: str) -> sql.Composed:
    return compose("target/reconcile", query, schema=sql.Identifier(schema))
