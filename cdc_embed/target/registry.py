"""The registry of what ``setup`` made in the target: migrations, spaces, tables.

This module only reads. ``schema`` composes the statements.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from psycopg2 import sql

from cdc_embed.postgres.ddl import compose
from cdc_embed.postgres.session import Session
from cdc_embed.sql import migrations, queries

REGISTRY_MIGRATION: Final = 2
"""The first migration whose registered tables have the form that is read here."""
MARK: Final = "/* made by cdc_embed */"
"""The beginning of each function of ours."""
NAMES_MIGRATION: Final = 4
"""The migration that renames ``source_table`` to ``table_name``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """One vector space, as the properties that must be equal for two vectors to be comparable."""

    model: str
    dimensions: int
    document_prompt: str
    query_prompt: str
    preparation: str

    def is_comparable(self, other: "Space") -> bool:
        """Return whether vectors of both can be compared, which is so if at most the making of the
        text differs."""
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
    key_columns: tuple[int, ...]
    """The numbers of the key's columns in the source; empty if unknown."""
    definition: str | None
    """The checksum of its search view."""
    adopted_publication: str | None
    """The publication of somebody else to which setup added the source table."""
    space_id: int
    space: Space

    @property
    def stem(self) -> str:
        """The beginning of the names of its objects; see ``Table.stem``."""
        schema, _, name = self.table_name.partition(".")
        return name if schema == "public" else f"{schema}_{name}"


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
            key_columns=tuple(row[6]),
            definition=row[7],
            adopted_publication=row[8],
            space_id=row[9],
            space=_space(row[10:]),
        )
        for row in rows
    }


def registered_sources(session: Session, schema: str, slot: str) -> list[tuple[str, str]]:
    """Return (system identifier, database) of each source that registered tables for a slot."""
    if REGISTRY_MIGRATION not in applied_migrations(session, schema):
        return []
    statement = _compose("registered_sources", schema=sql.Identifier(schema))
    rows = session.fetch("embedding_table", statement, {"slot": slot})
    return [(row[0], row[1]) for row in rows]


def stored_spaces(session: Session, schema: str) -> dict[int, Space]:
    """Return every space that ``setup`` recorded, by its number."""
    rows = session.fetch("space", _compose("spaces", schema=sql.Identifier(schema)))
    return {row[0]: _space(row[1:]) for row in rows}


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


def filled_tables(session: Session, schema: str, tables: Iterable[str]) -> list[str]:
    """Return those of some tables of ours that have rows, in one statement."""
    asked = [
        _compose("has_rows", name=sql.Literal(name), table=sql.Identifier(schema, name))
        for name in tables
    ]
    rows = session.fetch("schema", sql.SQL(" union all ").join(asked)) if asked else []
    return [name for name, filled in rows if filled]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorTable:
    """The columns of a table of vectors, name to type, in order."""

    columns: dict[str, str] = field(default_factory=dict)
    key: dict[str, str] = field(default_factory=dict)
    """The columns of its primary key, without the chunk; empty if this is not the last of it."""
    key_name: str | None = None
    """The quoted name of its primary key, whatever its columns; None if it has none."""
    refers_to_spaces: bool = True
    logged: bool = True
    """Whether a crash of the server leaves its rows."""
    row_security: bool = False
    owner: str = ""
    owned: bool = True
    """Whether this session's role can do what the owner can."""
    role: str = ""
    """The role of this session."""


CHUNK_COLUMNS: Final = ("chunk_row", "chunk")
"""The last column of the primary key, in this version and in older ones."""
NOT_STORED: Final = VectorTable()


def vector_tables(session: Session, schema: str) -> dict[str, VectorTable]:
    """Read the columns and the key of every table of vectors, by its name, in one statement."""
    statement = queries("target/schema")["stored_columns"]
    rows = session.fetch("embedding_table", statement, {"schema": schema})
    tables: dict[str, list[tuple[Any, ...]]] = {}
    for table, *column in rows:
        tables.setdefault(table, []).append(tuple(column))
    return {table: _vector_table(columns) for table, columns in tables.items()}


def _vector_table(columns: list[tuple[Any, ...]]) -> VectorTable:
    in_key = sorted((place, name, kind) for name, kind, place, *_ in columns if place is not None)
    row_security, owner, owned, role, key_name, refers_to_spaces, logged = columns[0][3:]
    kinds = {name: kind for name, kind, *_ in columns}
    key = {name: kind for _, name, kind in in_key}
    number = next(name for name in CHUNK_COLUMNS if name in kinds or name == CHUNK_COLUMNS[-1])
    if list(key)[-1:] != [number]:
        key = {}
    key.pop(number, None)
    return VectorTable(
        columns=kinds,
        key=key,
        key_name=key_name,
        refers_to_spaces=refers_to_spaces,
        logged=logged,
        row_security=row_security,
        owner=owner,
        owned=owned,
        role=role,
    )


def unreadable_views(session: Session, schema: str) -> Callable[[str], tuple[str, str] | None]:
    """Return a function that says why a view cannot be read, and the way out; None if it can."""
    rows = session.fetch("search views", queries("target/schema")["views"], {"schema": schema})
    known = {name: (readable, role) for name, readable, role in rows}

    def problem(name: str) -> tuple[str, str] | None:
        if name not in known:
            return f"its search view {schema}.{name} does not exist", "run: cdc-embed setup"
        readable, role = known[name]
        grant = f"grant select on {schema}.{name} to {role};"
        return None if readable else (f"role {role} may not read {schema}.{name}", grant)

    return problem


def other_slots(session: Session, schema: str, slot: str) -> list[str]:
    """Return the other slots that write into the schema."""
    statement = _compose("other_checkpoints", schema=sql.Identifier(schema))
    return [row[0] for row in session.fetch("checkpoint", statement, {"slot": slot})]


def service_sessions(session: Session, names: list[str]) -> list[int]:
    """Return the PIDs of other sessions of this database that have one of these names."""
    with session.transaction("pg_stat_activity") as cursor:
        cursor.execute(queries("target/schema")["service_sessions"], {"names": names})
        return [row[0] for row in cursor.fetchall()]


def foreign_objects(
    session: Session, schema: str, ours: list[str], functions: list[str]
) -> list[str]:
    """Describe the objects of the schema beside our relations and functions."""
    with session.transaction("schema") as cursor:
        values = {"schema": schema, "ours": ours, "functions": functions, "mark": MARK}
        cursor.execute(queries("target/schema")["foreign_objects"], values)
        return [row[0] for row in cursor.fetchall()]


def own_functions(session: Session, schema: str, names: list[str]) -> list[str]:
    """Return those functions of these names that we made, with their arguments' types."""
    values = {"schema": schema, "functions": names, "mark": MARK}
    rows = session.fetch("functions", queries("target/schema")["own_functions"], values)
    return [row[0] for row in rows]


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
