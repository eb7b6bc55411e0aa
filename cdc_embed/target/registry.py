"""The registry of what ``setup`` made in the target: migrations, spaces, tables.

This module only reads. ``schema`` composes the statements.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from psycopg2 import sql

from cdc_embed.postgres.ddl import compose
from cdc_embed.postgres.session import Session
from cdc_embed.sql import migrations, queries

REGISTRY_MIGRATION: Final = 2
"""The first migration whose registered tables have the form that is read here."""
NAMES_MIGRATION: Final = 4
"""The migration that renames ``source_table`` to ``table_name``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """One vector space: the properties that must be equal for two vectors to be comparable."""

    model: str
    dimensions: int
    document_prompt: str
    query_prompt: str
    preparation: str

    def is_comparable(self, other: "Space") -> bool:
        """Return whether vectors of both can be compared: at most the making of the text
        differs."""
        return replace(other, preparation=self.preparation) == self

    def difference(self, other: "Space") -> str:
        """Describe the difference from ``other``; empty when they are equal."""
        names = ("model", "dimensions", "document_prompt", "query_prompt", "preparation")
        return ", ".join(
            f"{name.replace('_', ' ')} {getattr(other, name)!r}, configured {getattr(self, name)!r}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A table of vectors as registered."""

    table_name: str
    embedding_table: str
    source_oid: int | None
    metadata: tuple[str, ...]
    search_view: str | None
    slot: str | None
    space_id: int
    space: Space


def applied_migrations(session: Session, schema: str) -> dict[int, str]:
    """Return the applied migrations, version to checksum; empty before the first setup."""
    exists = queries("target/schema")["schema_exists"]
    if not session.fetch("migration", exists, {"schema": schema})[0][0]:
        return {}
    statement = _compose("applied_migrations", schema=sql.Identifier(schema))
    return {row[0]: row[1] for row in session.fetch("migration", statement)}


def missing_migrations(applied: dict[int, str]) -> list[str]:
    """Return the names of the migrations that are not applied yet."""
    return [title for version, title, _ in migrations("target") if version not in applied]


def registered_tables(
    session: Session, schema: str, *, migrated: bool = False
) -> dict[str, Registered]:
    """Read every table of vectors, by its source table, from a schema of any version.

    ``setup`` reads it before it migrates. ``migrated``: the schema is of the present version, as it
    is while a service runs, so it is not asked for first.
    """
    applied = {} if migrated else applied_migrations(session, schema)
    if not migrated and REGISTRY_MIGRATION not in applied:
        return {}
    name = "table_name" if migrated or NAMES_MIGRATION in applied else "source_table"
    statement = _compose(
        "registered_tables", schema=sql.Identifier(schema), table_name=sql.Identifier(name)
    )
    rows = session.fetch("embedding_table", statement)
    return {
        row[0]: Registered(
            table_name=row[0],
            embedding_table=row[1],
            source_oid=row[2],
            metadata=tuple(row[3]),
            search_view=row[4],
            slot=row[5],
            space_id=row[6],
            space=_space(row[7:]),
        )
        for row in rows
    }


def comparable_spaces(session: Session, schema: str, space: Space) -> list[int]:
    """Return the spaces whose vectors are the same for the same text."""
    with session.transaction("space") as cursor:
        cursor.execute(_compose("spaces", schema=sql.Identifier(schema)))
        return [row[0] for row in cursor.fetchall() if space.is_comparable(_space(row[1:]))]


def stored_size(session: Session, schema: str, embedding_table: str) -> tuple[int, int]:
    """Return (documents, characters) stored in one table of vectors."""
    with session.transaction(embedding_table) as cursor:
        cursor.execute(_compose("stored_size", table=sql.Identifier(schema, embedding_table)))
        documents, characters = cursor.fetchone()
    return documents, characters


def count_documents(
    session: Session, schema: str, embedding_tables: Sequence[str]
) -> dict[str, int]:
    """Return the number of documents that have vectors, by table, in one statement."""
    counts = [
        _compose("count_documents", name=sql.Literal(name), table=sql.Identifier(schema, name))
        for name in embedding_tables
    ]
    rows = session.fetch("embedding_table", sql.SQL(" union all ").join(counts))
    return {row[0]: row[1] for row in rows}


def columns_of(session: Session, schema: str, relation: str) -> dict[str, str]:
    """Return the columns of a table, name to type, in order; empty when there is no table."""
    with session.transaction(relation) as cursor:
        quoted = sql.Identifier(schema, relation).as_string(cursor)
        cursor.execute(queries("target/schema")["column_types"], {"table": quoted})
        return dict(cursor.fetchall())


def other_slots(session: Session, schema: str, slot: str) -> int:
    """Return the number of other slots that write into the schema."""
    with session.transaction("checkpoint") as cursor:
        statement = _compose("other_checkpoints", schema=sql.Identifier(schema))
        cursor.execute(statement, {"slot": slot})
        others: int = cursor.fetchone()[0]
    return others


def foreign_objects(session: Session, schema: str, ours: list[str]) -> list[str]:
    """Describe the objects of the schema beside ``ours``."""
    with session.transaction("schema") as cursor:
        values = {"schema": schema, "ours": ours}
        cursor.execute(queries("target/schema")["foreign_objects"], values)
        return [row[0] for row in cursor.fetchall()]


def _space(row: Sequence[Any]) -> Space:
    return Space(
        model=row[0],
        dimensions=row[1],
        document_prompt=row[2],
        query_prompt=row[3],
        preparation=row[4],
    )


def _compose(query: str, **parts: sql.Composable) -> sql.Composed:
    return compose("target/schema", query, **parts)
