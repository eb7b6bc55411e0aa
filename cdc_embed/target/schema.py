"""What ``setup`` makes in the target: migrations, vector spaces, one table of vectors per source.

Everything here gives statements with the reason for each, so that one list can be shown, printed
as a script or run. Nothing is run here but reads.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from psycopg2 import sql

from cdc_embed.change.document import Table, TableColumn
from cdc_embed.config.sections import IndexConfig
from cdc_embed.errors import PreflightError
from cdc_embed.postgres.session import Session
from cdc_embed.sql import migrations, queries

INDEXABLE_DIMENSIONS: Final = {"vector": 2000, "halfvec": 4000}
OPERATORS: Final = {"cosine": "cosine_ops", "l2": "l2_ops", "inner_product": "ip_ops"}

REGISTRY_MIGRATION: Final = 2
"""The first migration that describes the registered tables as they are read here."""
NAMES_MIGRATION: Final = 4
"""The migration that calls a source table ``table_name``, ``source_table`` before."""

FULL: Final = 100
HALF: Final = 50
"""Percent of a page that inserts fill. A row with its vector takes up to 2 kB; only with as much
room beside it can each be updated in its page (HOT), without an insert into the HNSW index."""

Step = tuple[str, sql.Composed]
"""Why, and the statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """One vector space: what must be equal for two vectors to be comparable."""

    model: str
    dimensions: int
    document_prompt: str
    query_prompt: str
    preparation: str

    def is_comparable(self, other: "Space") -> bool:
        """Whether vectors of both may be compared: they differ in how the text is made, at most."""
        return replace(other, preparation=self.preparation) == self

    def difference(self, other: "Space") -> str:
        """In words, what of ``other`` differs; empty when they are equal."""
        names = ("model", "dimensions", "document_prompt", "query_prompt", "preparation")
        return ", ".join(
            f"{name.replace('_', ' ')} {getattr(other, name)!r}, configured {getattr(self, name)!r}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A table of vectors as it is remembered."""

    table_name: str
    embedding_table: str
    source_oid: int | None
    metadata: tuple[str, ...]
    search_view: str | None
    slot: str | None
    space_id: int
    space: Space


def checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def applied_migrations(session: Session, schema: str) -> dict[int, str]:
    """Version to checksum of what is applied; empty before the first setup."""
    with session.transaction("migration") as cursor:
        cursor.execute(queries("target/schema")["schema_exists"], {"schema": schema})
        if not cursor.fetchone()[0]:
            return {}
        cursor.execute(compose("applied_migrations", schema=sql.Identifier(schema)))
        return dict(cursor.fetchall())


def migration_steps(schema: str, applied: dict[int, str]) -> list[Step]:
    """The migrations that are missing, in order."""
    name = sql.Identifier(schema)
    steps: list[Step] = []
    if not applied:
        steps += [
            ("make our schema", compose("create_schema", schema=name)),
            ("remember migrations", compose("create_migration_table", schema=name)),
        ]
    for version, title, text in migrations("target"):
        if version in applied:
            _check_unchanged(title, applied[version], checksum(text))
            continue
        record = compose(
            "record_migration",
            schema=name,
            version=sql.Literal(version),
            name=sql.Literal(title),
            checksum=sql.Literal(checksum(text)),
        )
        steps.append((f"migration {title}", sql.SQL(text.strip()).format(schema=name)))
        steps.append((f"remember migration {title}", record))
    return steps


def missing_migrations(applied: dict[int, str]) -> list[str]:
    return [title for version, title, _ in migrations("target") if version not in applied]


def _check_unchanged(title: str, applied: str, ours: str) -> None:
    if applied != ours:
        raise PreflightError(
            where=f"migration {title}",
            problem="the target has another text of it than this version of cdc_embed",
            hint="use the version of cdc_embed that made it, or start over: cdc-embed teardown",
        )


def registered_tables(session: Session, schema: str) -> dict[str, Registered]:
    """Read every table of vectors, by its source table, from a schema of any version.

    ``setup`` reads it before it migrates.
    """
    applied = applied_migrations(session, schema)
    if REGISTRY_MIGRATION not in applied:
        return {}
    name = "table_name" if NAMES_MIGRATION in applied else "source_table"
    statement = compose(
        "registered_tables", schema=sql.Identifier(schema), table_name=sql.Identifier(name)
    )
    with session.transaction("embedding_table") as cursor:
        cursor.execute(statement)
        rows = cursor.fetchall()
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
    """The spaces whose vectors are the same for the same text."""
    with session.transaction("space") as cursor:
        cursor.execute(compose("spaces", schema=sql.Identifier(schema)))
        return [row[0] for row in cursor.fetchall() if space.is_comparable(_space(row[1:]))]


def _space(row: Sequence[Any]) -> Space:
    return Space(
        model=row[0],
        dimensions=row[1],
        document_prompt=row[2],
        query_prompt=row[3],
        preparation=row[4],
    )


def stored_size(session: Session, schema: str, embedding_table: str) -> tuple[int, int]:
    """(documents, characters) stored in one table of vectors."""
    with session.transaction(embedding_table) as cursor:
        cursor.execute(compose("stored_size", table=sql.Identifier(schema, embedding_table)))
        documents, characters = cursor.fetchone()
    return documents, characters


def count_documents(session: Session, schema: str, embedding_table: str) -> int:
    """Documents that have vectors, counted."""
    with session.transaction(embedding_table) as cursor:
        cursor.execute(compose("count_documents", table=sql.Identifier(schema, embedding_table)))
        documents: int = cursor.fetchone()[0]
    return documents


def vector_type(index: IndexConfig, dimensions: int, extension_schema: str) -> str:
    return f"{extension_schema}.{index.type}({dimensions})"


def refuse_unindexable(index: IndexConfig, dimensions: int) -> None:
    """Raise when pgvector cannot index vectors of this size."""
    limit = INDEXABLE_DIMENSIONS[index.type]
    if index.kind == "none" or dimensions <= limit:
        return
    way_out = (
        'set index.type = "halfvec" (up to 4000), '
        if dimensions <= INDEXABLE_DIMENSIONS["halfvec"]
        else ""
    )
    raise PreflightError(
        where="index",
        problem=f"pgvector indexes at most {limit} dimensions of {index.type}, "
        f"the model has {dimensions}",
        hint=f'{way_out}set index.kind = "none", or use a model with fewer dimensions',
    )


def space_step(schema: str, space: Space) -> Step:
    statement = compose("add_space", schema=sql.Identifier(schema), space=_values(space))
    return f"the space of {space.model} ({space.dimensions} dimensions)", statement


def create_steps(
    schema: str, table: Table, space: Space, index: IndexConfig, extension_schema: str
) -> list[Step]:
    """The table of vectors of one source table; its HNSW index is made once it is filled."""
    name = sql.Identifier(schema, table.embedding_table)
    title = f"{schema}.{table.embedding_table}"
    create = compose(
        "create_embedding_table",
        schema=sql.Identifier(schema),
        table=name,
        key=sql.SQL(", ").join(sql.Identifier(column.name) for column in table.key),
        key_definitions=sql.SQL(", ").join(_definition(column) for column in table.key),
        metadata_definitions=sql.SQL("").join(
            sql.SQL(",\n  {}").format(_definition(column)) for column in table.metadata
        ),
        vector_type=sql.SQL(vector_type(index, space.dimensions, extension_schema)),
        fillfactor=sql.Literal(HALF if table.metadata else FULL),
    )
    find = compose(
        "create_hash_index",
        index=sql.Identifier(index_name(table.embedding_table, "hash")),
        table=name,
    )
    return [(f"vectors of {table.full_name}", create), (f"find equal texts in {title}", find)]


def register_step(schema: str, table: Table, space: Space, slot: str) -> Step:
    statement = compose(
        "register_table",
        schema=sql.Identifier(schema),
        table_name=sql.Literal(table.full_name),
        embedding_table=sql.Literal(table.embedding_table),
        source_oid=sql.Literal(table.oid),
        metadata=sql.SQL("{}::text[]").format(
            sql.Literal([column.name for column in table.metadata])
        ),
        search_view=sql.Literal(table.search_view),
        slot=sql.Literal(slot),
        space=_values(space),
    )
    return f"remember {schema}.{table.embedding_table}", statement


def column_steps(
    schema: str, table: Table, existing: Mapping[str, str], former: Sequence[str]
) -> list[Step]:
    """Metadata columns that came, and ``former`` ones that went."""
    name = sql.Identifier(schema, table.embedding_table)
    wanted = {column.name: column for column in table.metadata}
    steps: list[Step] = [
        (
            f"{column} is no metadata of {table.full_name} any more",
            compose("drop_column", table=name, column=sql.Identifier(column)),
        )
        for column in former
        if column not in wanted and column in existing
    ]
    if "metadata_hash" not in existing:
        wanted["metadata_hash"] = TableColumn("metadata_hash", "bytea")
    steps += [
        (
            f"{column.name} beside the vectors of {table.full_name}",
            compose(
                "add_column",
                table=name,
                column=sql.Identifier(column.name),
                type=sql.SQL(column.type),
            ),
        )
        for column in wanted.values()
        if column.name not in existing
    ]
    steps += [
        (
            f"{column.name} beside the vectors of {table.full_name} is now {column.type}",
            compose(
                "retype_column",
                table=name,
                column=sql.Identifier(column.name),
                type=sql.SQL(column.type),
            ),
        )
        for column in table.metadata
        if existing.get(column.name, column.type) != column.type
    ]
    if steps and bool(former) != bool(table.metadata):
        room = compose(
            "leave_room", table=name, fillfactor=sql.Literal(HALF if table.metadata else FULL)
        )
        steps.append((f"room for new metadata of {table.full_name}", room))
    return steps


def columns_of(session: Session, schema: str, relation: str) -> dict[str, str]:
    """Name to type of every column of a table, in order; empty when there is none."""
    with session.transaction(relation) as cursor:
        quoted = sql.Identifier(schema, relation).as_string(cursor)
        cursor.execute(queries("target/schema")["column_types"], {"table": quoted})
        return dict(cursor.fetchall())


def index_name(embedding_table: str, kind: str) -> str:
    """The name of an index of a table of vectors, within PostgreSQL's 63 bytes."""
    suffix = f"_{kind}"
    return embedding_table.encode()[: 63 - len(suffix)].decode(errors="ignore") + suffix


def _definition(column: TableColumn) -> sql.Composed:
    return sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.type))


def compose(query: str, **parts: sql.Composable) -> sql.Composed:
    return sql.SQL(queries("target/schema")[query]).format(**parts)


def _values(space: Space) -> sql.Composed:
    values = (
        space.model,
        space.dimensions,
        space.document_prompt,
        space.query_prompt,
        space.preparation,
    )
    return sql.SQL(", ").join(map(sql.Literal, values))
