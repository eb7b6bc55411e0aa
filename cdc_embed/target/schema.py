"""What ``setup`` makes in the target: migrations, vector spaces, one table of vectors per source.

Everything here gives statements with the reason for each, so that one list can be shown, printed
as a script or run. Nothing is run here but reads.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from psycopg2 import sql

from cdc_embed.change.document import Table
from cdc_embed.config_sections import IndexConfig
from cdc_embed.errors import PreflightError
from cdc_embed.session import Session
from cdc_embed.sql import migrations, queries

INDEXABLE_DIMENSIONS: Final = {"vector": 2000, "halfvec": 4000}
OPERATORS: Final = {"cosine": "cosine_ops", "l2": "l2_ops", "inner_product": "ip_ops"}

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

    embedding_table: str
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


def find_registered(session: Session, schema: str, table: Table) -> Registered | None:
    with session.transaction("embedding_table") as cursor:
        cursor.execute(
            compose("registered_table", schema=sql.Identifier(schema)),
            {"source_table": table.full_name},
        )
        row = cursor.fetchone()
    if row is None:
        return None
    return Registered(
        embedding_table=row[0],
        space_id=row[1],
        space=Space(
            model=row[2],
            dimensions=row[3],
            document_prompt=row[4],
            query_prompt=row[5],
            preparation=row[6],
        ),
    )


def stored_size(session: Session, schema: str, embedding_table: str) -> tuple[int, int]:
    """(documents, characters) stored in one table of vectors."""
    with session.transaction(embedding_table) as cursor:
        cursor.execute(compose("stored_size", table=sql.Identifier(schema, embedding_table)))
        documents, characters = cursor.fetchone()
    return documents, characters


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


def table_steps(
    schema: str, table: Table, space: Space, index: IndexConfig, extension_schema: str
) -> list[Step]:
    """The table of vectors of one source table, its indexes and its registration."""
    name = sql.Identifier(schema, table.embedding_table)
    title = f"{schema}.{table.embedding_table}"
    key = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.key)
    create = compose(
        "create_embedding_table",
        schema=sql.Identifier(schema),
        table=name,
        key=key,
        key_definitions=sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.type))
            for column in table.key
        ),
        vector_type=sql.SQL(vector_type(index, space.dimensions, extension_schema)),
    )
    register = compose(
        "register_table",
        schema=sql.Identifier(schema),
        source_table=sql.Literal(table.full_name),
        embedding_table=sql.Literal(table.embedding_table),
        space=_values(space),
    )
    return [
        (f"vectors of {table.full_name}", create),
        (f"find equal texts in {title}", _index(table, "hash", "create_hash_index", name)),
        *_search_index(table, index, name, extension_schema),
        (f"remember {title}", register),
    ]


def _search_index(
    table: Table, index: IndexConfig, name: sql.Identifier, extension_schema: str
) -> list[Step]:
    if index.kind == "none":
        return []
    statement = _index(
        table,
        "hnsw",
        "create_hnsw_index",
        name,
        operators=sql.SQL(f"{extension_schema}.{index.type}_{OPERATORS[index.distance]}"),
        m=sql.Literal(index.m),
        ef_construction=sql.Literal(index.ef_construction),
    )
    return [(f"search in {table.embedding_table}", statement)]


def _index(
    table: Table, kind: str, query: str, name: sql.Identifier, **parts: sql.Composable
) -> sql.Composed:
    suffix = f"_{kind}"
    stem = table.embedding_table.encode()[: 63 - len(suffix)].decode(errors="ignore")
    return compose(query, index=sql.Identifier(stem + suffix), table=name, **parts)


def key_columns(session: Session, schema: str, embedding_table: str) -> list[tuple[str, str]]:
    """(name, type) of every column of an existing table; empty when there is none."""
    quoted = '"{}"."{}"'.format(schema.replace('"', '""'), embedding_table.replace('"', '""'))
    with session.transaction(embedding_table) as cursor:
        cursor.execute(queries("target/schema")["key_types"], {"table": quoted})
        return list(cursor.fetchall())


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
