"""The statements that make our own tables in the target, the memory of the service.

Each has its reason, so that one list can be shown, printed as a script or run. This module runs and
reads nothing; ``registry`` reads, ``vectors`` has the tables of vectors.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Final

from psycopg2 import sql

from cdc_embed.change.document import Table
from cdc_embed.config.sections import IndexConfig
from cdc_embed.errors import PreflightError
from cdc_embed.lsn import Identity
from cdc_embed.postgres.ddl import Ddl, compose
from cdc_embed.sql import migrations
from cdc_embed.target.registry import Space

INDEXABLE_DIMENSIONS: Final = {"vector": 2000, "halfvec": 4000}
OPERATORS: Final = {"cosine": "cosine_ops", "l2": "l2_ops", "inner_product": "ip_ops"}

TELLING_COLUMNS: Final = {
    "request": ("kind", "progress"),
    "reconcile": ("space", "stage"),
    "deferred": ("table_name", "key"),
    "dead_letter": ("space", "fingerprint"),
    "embedding_table": ("space", "embedding_table"),
    "space": ("model", "preparation"),
    "checkpoint": ("slot", "batch_seq"),
    "migration": ("version", "checksum"),
}
"""The columns, of every version, by which each of our own tables is known from another of its
name."""
SERVICE_TABLES: Final = tuple(TELLING_COLUMNS)
"""The tables of our own, in the order in which they can be dropped."""

TELLING: Final = {
    "chunk_text": "text",
    "start_offset": "integer",
    "end_offset": "integer",
    "document_hash": "bytea",
    "chunk_hash": "bytea",
    "space": "integer",
    "commit_lsn": "pg_lsn",
    "committed_at": "timestamptz",
    "embedded_at": "timestamptz",
}
"""The columns, of every version, by which a table of vectors is known from another of its name."""
MOST, ALL, NEW = len(TELLING) // 2 + 1, len(TELLING), len(TELLING) + 1
"""The number of them, with the reference to the spaces, that a table of ours has: one that is
registered and can have lost some, one that is not, and one that ``setup`` has just made."""


def checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def within_63(name: str, suffix: str = "") -> str:
    """Return a name with a suffix, within PostgreSQL's 63 bytes; a name that is shortened gets its
    own checksum, because another one can begin alike."""
    room = 63 - len(suffix.encode())
    if len(name.encode()) <= room:
        return name + suffix
    short = name.encode()[: room - 9].decode(errors="ignore")
    return f"{short}_{checksum(name)[:8]}{suffix}"


def index_name(embedding_table: str, kind: str) -> str:
    """Return the name of an index of a table of vectors."""
    return within_63(embedding_table, f"_{kind}")


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


def make_again_ddl(schema: str, names: Sequence[str]) -> Ddl:
    """Make some of our own tables again. The migrations make all of them in a schema beside ours,
    from which these are taken."""
    beside = within_63(schema, "_mending")
    take = compose(
        "target/mending",
        "take_place",
        names=sql.Literal(list(names)),
        schema=sql.Literal(schema),
        beside=sql.Literal(beside),
        telling=sql.Literal(json.dumps(TELLING)),
        least=sql.Literal(MOST),
    )
    statements = [*(ddl.statement for ddl in migration_ddl(beside, {})), take]
    listed = ", ".join(f"{schema}.{name}" for name in names)
    return Ddl(f"make {listed} again", sql.SQL(";\n").join(statements))


def set_logged_ddl(schema: str, name: str) -> Ddl:
    """Have a table of ours survive a crash, after other hands made it unlogged."""
    statement = _compose("set_logged", table=sql.Identifier(schema, name))
    return Ddl(f"have {schema}.{name} survive a crash", statement)


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


def register_ddl(schema: str, table: Table, space: Space, slot: str, source: Identity) -> Ddl:
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
        source_system_identifier=sql.Literal(source.system_identifier),
        source_database=sql.Literal(source.database),
        key_columns=sql.SQL("{}::smallint[]").format(sql.Literal(list(table.key_numbers))),
        space=_values(space),
    )
    return Ddl(f"register {schema}.{table.embedding_table}", statement)


def register_view(schema: str, table: Table, definition: str) -> sql.Composed:
    """Record what the search view of a table is made of."""
    return _compose(
        "register_view",
        schema=sql.Identifier(schema),
        table_name=sql.Literal(table.full_name),
        definition=sql.Literal(definition),
    )


def remember_adoption_ddl(schema: str, table_name: str, publication: str | None) -> Ddl:
    """Remember that setup adds a source table to somebody else's publication, or took it out."""
    statement = _compose(
        "remember_adoption",
        schema=sql.Identifier(schema),
        table_name=sql.Literal(table_name),
        publication=sql.Literal(publication),
    )
    how = f"was added to publication {publication}" if publication else "is not published any more"
    return Ddl(f"remember that {table_name} {how}", statement)


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


def drop_ddl(schema: str, relation: str, why: str = "") -> Ddl:
    """Drop a table of ours, with or without vectors."""
    drop = _compose("drop_table", table=sql.Identifier(schema, relation))
    return Ddl(why or f"drop {schema}.{relation}", drop)


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
