"""The statements that make and alter the objects of ``setup`` in the target.

Each has its reason, so that one list can be shown, printed as a script or run. This module runs and
reads nothing; ``registry`` reads.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from psycopg2 import sql

from cdc_embed.change.document import Table, TableColumn
from cdc_embed.config.sections import IndexConfig
from cdc_embed.errors import PreflightError
from cdc_embed.postgres.ddl import Ddl, compose
from cdc_embed.sql import migrations
from cdc_embed.target.registry import Registered, Space

INDEXABLE_DIMENSIONS: Final = {"vector": 2000, "halfvec": 4000}
OPERATORS: Final = {"cosine": "cosine_ops", "l2": "l2_ops", "inner_product": "ip_ops"}

SERVICE_TABLES: Final = (
    *("request", "reconcile", "dead_letter", "embedding_table", "space", "checkpoint"),
    "migration",
)
"""Our own tables, in the order in which they can be dropped."""


def checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def index_name(embedding_table: str, kind: str) -> str:
    """Return the name of an index of a table of vectors, within PostgreSQL's 63 bytes."""
    suffix = f"_{kind}"
    return embedding_table.encode()[: 63 - len(suffix)].decode(errors="ignore") + suffix


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


# --- our own tables ----------------------------------------------------------------------------


def extension_ddl() -> Ddl:
    return Ddl("install pgvector", _compose("create_vector_extension"))


def migration_ddl(schema: str, applied: dict[int, str]) -> list[Ddl]:
    """Return the statements of the missing migrations, in order."""
    name = sql.Identifier(schema)
    found: list[Ddl] = []
    if not applied:
        found += [
            Ddl("create the schema", _compose("create_schema", schema=name)),
            Ddl("create the list of migrations", _compose("create_migration_table", schema=name)),
        ]
    for version, title, text in migrations("target"):
        if version in applied:
            _check_unchanged(title, applied[version], checksum(text))
            continue
        remember = _compose(
            "record_migration",
            schema=name,
            version=sql.Literal(version),
            name=sql.Literal(title),
            checksum=sql.Literal(checksum(text)),
        )
        found.append(Ddl(f"migration {title}", sql.SQL(text.strip()).format(schema=name)))
        found.append(Ddl(f"record migration {title}", remember))
    return found


def _check_unchanged(title: str, applied: str, ours: str) -> None:
    if applied != ours:
        raise PreflightError(
            where=f"migration {title}",
            problem="its text in the target is not the text of this version of cdc_embed",
            hint="use the version of cdc_embed that made it, or start over: cdc-embed teardown",
        )


def space_ddl(schema: str, space: Space) -> Ddl:
    statement = _compose("add_space", schema=sql.Identifier(schema), space=_values(space))
    return Ddl(f"record the space of {space.model} ({space.dimensions} dimensions)", statement)


def register_ddl(schema: str, table: Table, space: Space, slot: str) -> Ddl:
    statement = _compose(
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
    return Ddl(f"register {schema}.{table.embedding_table}", statement)


def forget_comparison_ddl(schema: str, table: Table) -> Ddl:
    """Forget the comparison of a table, so that it begins as for a new table.

    The comparison of a large table can then wait for a confirmation again.
    """
    forget = _compose(
        "forget_comparison",
        schema=sql.Identifier(schema),
        table_name=sql.Literal(table.full_name),
    )
    return Ddl(f"compare every row of {table.full_name}", forget)


def drop_schema_ddl(schema: str) -> Ddl:
    return Ddl(f"drop schema {schema}", _compose("drop_schema", schema=sql.Identifier(schema)))


# --- tables of vectors -------------------------------------------------------------------------


def create_ddl(schema: str, table: Table, vectors: str) -> list[Ddl]:
    """Create the table of vectors of one source table; its HNSW index is made once it is filled."""
    name = sql.Identifier(schema, table.embedding_table)
    title = f"{schema}.{table.embedding_table}"
    create = _compose(
        "create_embedding_table",
        schema=sql.Identifier(schema),
        table=name,
        key=sql.SQL(", ").join(sql.Identifier(column.name) for column in table.key),
        key_definitions=sql.SQL(", ").join(_definition(column) for column in table.key),
        metadata_definitions=sql.SQL("").join(
            sql.SQL(",\n  {}").format(_definition(column)) for column in table.metadata
        ),
        vector_type=sql.SQL(vectors),
    )
    find = _compose(
        "create_hash_index",
        index=sql.Identifier(index_name(table.embedding_table, "hash")),
        table=name,
    )
    return [
        Ddl(f"store vectors of {table.full_name}", create),
        Ddl(f"find equal texts in {title}", find),
    ]


def rename_ddl(schema: str, table: Table, known: Registered) -> list[Ddl]:
    """Rename the source table or its table of vectors in the registry."""
    found = []
    if known.embedding_table != table.embedding_table:
        rename = _compose(
            "rename_table",
            table=sql.Identifier(schema, known.embedding_table),
            name=sql.Identifier(table.embedding_table),
        )
        found.append(Ddl(f"rename {known.embedding_table} to {table.embedding_table}", rename))
        found += [_rename_index(schema, table, known, kind) for kind in ("hash", "hnsw")]
    parts = {
        "schema": sql.Identifier(schema),
        "table_name": sql.Literal(table.full_name),
        "former": sql.Literal(known.table_name),
    }
    named = sql.Literal(table.embedding_table)
    why = f"rename {known.table_name} to {table.full_name}"
    return [
        *found,
        Ddl(why, _compose("rename_source", embedding_table=named, **parts)),
        Ddl(f"{why} in its dead letters", _compose("rename_letters", **parts)),
    ]


def _rename_index(schema: str, table: Table, known: Registered, kind: str) -> Ddl:
    former, name = (
        index_name(relation, kind) for relation in (known.embedding_table, table.embedding_table)
    )
    rename = _compose(
        "rename_index", index=sql.Identifier(schema, former), name=sql.Identifier(name)
    )
    return Ddl(f"rename {former} to {name}", rename)


def retype_ddl(schema: str, table: Table, wanted: str) -> list[Ddl]:
    """Store the vectors as another of pgvector's types; the service makes their index again."""
    name = sql.Identifier(schema, table.embedding_table)
    return [
        _drop_hnsw(schema, table),
        Ddl(
            f"store the vectors of {table.full_name} as {wanted}",
            _compose("retype_vectors", table=name, vector_type=sql.SQL(wanted)),
        ),
    ]


def chunk_row_ddl(schema: str, table: Table) -> list[Ddl]:
    """Give a table of vectors of an older version its column ``chunk_row``."""
    add = _compose("add_chunk_row", table=sql.Identifier(schema, table.embedding_table))
    why = f"number the rows of {schema}.{table.embedding_table} apart from their chunks"
    return [_drop_hnsw(schema, table), Ddl(why, add)]


def _drop_hnsw(schema: str, table: Table) -> Ddl:
    index = sql.Identifier(schema, index_name(table.embedding_table, "hnsw"))
    why = f"drop the index of {table.embedding_table}, which is made again"
    return Ddl(why, _compose("drop_index", index=index))


def drop_ddl(schema: str, relation: str, why: str = "") -> Ddl:
    """Drop a table of ours, with or without vectors."""
    drop = _compose("drop_table", table=sql.Identifier(schema, relation))
    return Ddl(why or f"drop {schema}.{relation}", drop)


def column_ddl(
    schema: str, table: Table, existing: Mapping[str, str], former: Sequence[str]
) -> list[Ddl]:
    """Add the new metadata columns and drop the ``former`` ones that are not configured any
    more."""
    name = sql.Identifier(schema, table.embedding_table)
    return [
        *_dropped_columns(name, table, existing, former),
        *_added_columns(name, table, existing),
        *_retyped_columns(name, table, existing),
    ]


def _dropped_columns(
    name: sql.Identifier, table: Table, existing: Mapping[str, str], former: Sequence[str]
) -> Iterator[Ddl]:
    wanted = {column.name for column in table.metadata}
    for column in former:
        if column not in wanted and column in existing:
            drop = _compose("drop_column", table=name, column=sql.Identifier(column))
            yield Ddl(f"drop {column} from the metadata of {table.full_name}", drop)


def _added_columns(
    name: sql.Identifier, table: Table, existing: Mapping[str, str]
) -> Iterator[Ddl]:
    for column in (*table.metadata, TableColumn("metadata_hash", "bytea")):
        if column.name not in existing:
            add = _compose("add_column", table=name, **_parts(column))
            yield Ddl(f"store {column.name} beside the vectors of {table.full_name}", add)


def _retyped_columns(
    name: sql.Identifier, table: Table, existing: Mapping[str, str]
) -> Iterator[Ddl]:
    for column in table.metadata:
        if existing.get(column.name, column.type) != column.type:
            retype = _compose("retype_column", table=name, **_parts(column))
            why = f"store {column.name} beside the vectors of {table.full_name} as {column.type}"
            yield Ddl(why, retype)


def _parts(column: TableColumn) -> dict[str, sql.Composable]:
    return {"column": sql.Identifier(column.name), "type": sql.SQL(column.type)}


def _definition(column: TableColumn) -> sql.Composed:
    return sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.type))


def _values(space: Space) -> sql.Composed:
    values = (
        space.model,
        space.dimensions,
        space.document_prompt,
        space.query_prompt,
        space.preparation,
    )
    return sql.SQL(", ").join(map(sql.Literal, values))


def _compose(query: str, **parts: sql.Composable) -> sql.Composed:
    return compose("target/schema", query, **parts)
