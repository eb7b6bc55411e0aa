"""The statements that make and alter tables of vectors.

Nothing here waits long or rewrites a table that searches use. A key or metadata of other types is
stored in a shadow, a second table, that is filled and indexed beside the first one and then takes
its place.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from psycopg2 import sql

from cdc_embed.change.document import Table, TableColumn
from cdc_embed.config.sections import IndexConfig
from cdc_embed.postgres.ddl import Ddl, compose
from cdc_embed.target.registry import Registered, VectorTable
from cdc_embed.target.schema import OPERATORS, index_name

HNSW: Final = ("hnsw", "hnsw_new", "hnsw_old")
"""The search index; one that is being built, and a former one, while it is made anew."""
INDEXES: Final = ("hash", "pkey", *HNSW)
"""The indexes of a table of vectors, by the ends of their names."""

_LENGTH: Final = re.compile(r"\(\d+(,-?\d+)?\)")
_SAME_FORM: Final = {"character": "bpchar", "bit": '"bit"', "text": "character varying"}
"""The types that need no rewrite to become another one."""
_COMMA = sql.SQL(", ")

OWN_COLUMNS: Final = (
    TableColumn("chunk", "integer not null default 0"),
    TableColumn("chunk_text", "text"),
    TableColumn("start_offset", "integer not null default 0"),
    TableColumn("end_offset", "integer not null default 0"),
    TableColumn("document_hash", "bytea not null default ''"),
    TableColumn("chunk_hash", "bytea not null default ''"),
    TableColumn("space", "integer not null default {space}"),
    TableColumn("commit_lsn", "pg_lsn"),
    TableColumn("committed_at", "timestamptz"),
    TableColumn("embedded_at", "timestamptz not null default now()"),
    TableColumn("metadata_hash", "bytea"),
)
"""The columns of every table of vectors that can be added when they are lost, with a definition.
The comparison puts their values back, and embeds nothing if the chunks' hashes are there."""
ESSENTIAL: Final = ("chunk_row", "embedding")
"""The columns that cannot be added when they are lost."""


@dataclass(slots=True)
class TableChange:
    """The statements that change the objects of one table."""

    before: list[Ddl] = field(default_factory=list)
    """The statements that run beside searches and writes, each in a transaction of its own."""
    together: list[Ddl] = field(default_factory=list)
    """The statements that run in one transaction."""
    view_goes: bool = False
    """Whether the search view must be dropped first and made again in that transaction."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """The key columns that get other names, in the view, too."""
    makes_anew: bool = False
    """Whether the table of vectors is another one afterwards."""
    at_once: Ddl | None = None
    """The one statement of ``together``, once it is composed."""

    def together_without_view(self, statements: Iterable[Ddl]) -> None:
        """Add statements that PostgreSQL refuses while there is a view."""
        listed = list(statements)
        self.together += listed
        self.view_goes = self.view_goes or bool(listed)


def index_names(embedding_table: str) -> list[str]:
    """Return the names of our indexes on a table of vectors."""
    return [index_name(embedding_table, kind) for kind in INDEXES]


def joined(why: str, statements: Iterable[sql.Composed]) -> Ddl:
    """Return several statements as one, which is done wholly or not at all."""
    return Ddl(why, sql.SQL(";\n").join(statements))


# --- create ------------------------------------------------------------------------------------


def create_ddl(schema: str, table: Table, vectors: str, name: str = "") -> list[Ddl]:
    """Create the table of vectors of one source table; its HNSW index is made once it is filled."""
    relation = name or table.embedding_table
    create = _compose(
        "create_embedding_table",
        schema=sql.Identifier(schema),
        table=sql.Identifier(schema, relation),
        key=_COMMA.join(sql.Identifier(column.name) for column in table.key),
        key_definitions=_COMMA.join(_definition(column) for column in table.key),
        metadata_definitions=sql.SQL("").join(
            sql.SQL(",\n  {}").format(_definition(column)) for column in table.metadata
        ),
        vector_type=sql.SQL(vectors),
        pkey=sql.Identifier(index_name(relation, "pkey")),
    )
    return [Ddl(f"store vectors of {table.full_name}", create), _find_equal(schema, relation)]


def _find_equal(schema: str, relation: str) -> Ddl:
    create = _compose(
        "create_hash_index",
        index=sql.Identifier(index_name(relation, "hash")),
        table=sql.Identifier(schema, relation),
    )
    return Ddl(f"find equal texts in {schema}.{relation}", create)


def hnsw_ddl(
    schema: str, table: Table, index: IndexConfig, extension_schema: str, name: str
) -> Ddl:
    """Make the search index of a table that nobody uses yet."""
    names = sql.Identifier(schema, name), index_name(name, "hnsw")
    create = create_hnsw(*names, index, extension_schema, concurrently=False)
    return Ddl(f"index the vectors of {table.full_name}", create)


def create_hnsw(
    table: sql.Identifier,
    name: str,
    index: IndexConfig,
    extension_schema: str,
    *,
    concurrently: bool,
) -> sql.Composed:
    """Return the statement that makes the configured search index of a table of vectors."""
    operators = f"{extension_schema}.{index.type}_{OPERATORS[index.distance]}"
    return _compose(
        "create_hnsw_index",
        concurrently=sql.SQL(" concurrently" if concurrently else ""),
        index=sql.Identifier(name),
        table=table,
        operators=sql.SQL(operators),
        m=sql.Literal(index.m),
        ef_construction=sql.Literal(index.ef_construction),
    )


# --- rename ------------------------------------------------------------------------------------


def rename_ddl(schema: str, table: Table, known: Registered) -> Ddl:
    """Rename the source table, its table of vectors or its view; grants stay."""
    found = []
    if known.embedding_table != table.embedding_table:
        found += _renamed(schema, known.embedding_table, table.embedding_table)
    if known.search_view and known.search_view != table.search_view:
        view = sql.Identifier(schema, known.search_view)
        name = sql.Identifier(table.search_view)
        found.append(compose("target/view", "rename_view", view=view, name=name))
    parts = {
        "schema": sql.Identifier(schema),
        "table_name": sql.Literal(table.full_name),
        "former": sql.Literal(known.table_name),
    }
    named = sql.Literal(table.embedding_table)
    found.append(_compose("rename_source", embedding_table=named, **parts))
    found.append(_compose("rename_keys", **parts))
    return joined(f"rename {known.table_name} to {table.full_name}", found)


def _renamed(schema: str, former: str, name: str) -> list[sql.Composed]:
    """Return the statements that rename a table of vectors with its indexes."""
    parts = {"table": sql.Identifier(schema, former), "name": sql.Identifier(name)}
    return [
        compose("target/shadow", "rename_table", **parts),
        *(
            _compose(
                "rename_index",
                index=sql.Identifier(schema, index_name(former, kind)),
                name=sql.Identifier(index_name(name, kind)),
            )
            for kind in INDEXES
        ),
    ]


def rename_key_ddl(schema: str, table: Table, stored: VectorTable) -> list[Ddl]:
    """Give the key columns the names that they have in the source now, also in the view, whose
    grants stay, and in the dead letters."""
    vectors = sql.Identifier(schema, table.embedding_table)
    view = sql.Identifier(schema, table.search_view)
    renamed = [
        (old, new.name) for old, new in zip(stored.key, table.key, strict=True) if old != new.name
    ]
    # through names that no column has, because two columns can have changed names
    steps = [(old, f"cdc_embed {place}") for place, (old, _) in enumerate(renamed)]
    steps += [(f"cdc_embed {place}", new) for place, (_, new) in enumerate(renamed)]
    found = []
    for old, new in steps:
        names = {"column": sql.Identifier(old), "name": sql.Identifier(new)}
        found.append(_compose("rename_column", table=vectors, **names))
        found.append(compose("target/view", "rename_view_column", view=view, **names))
        letters = {"column": sql.Literal(old), "name": sql.Literal(new)}
        letters |= {"schema": sql.Identifier(schema), "table_name": sql.Literal(table.full_name)}
        found.append(compose("target/shadow", "rename_key_column", **letters))
    named = ", ".join(f"{old} {new}" for old, new in renamed)
    return [joined(f"rename the key of {table.full_name} ({named})", found)]


# --- alter -------------------------------------------------------------------------------------


def is_of_form(stored: str, wanted: str) -> bool:
    """Return whether a column of one type becomes one of another without a rewrite."""
    return _form(stored) == _form(wanted)


def _form(kind: str) -> str:
    bare = _LENGTH.sub("", kind)
    return _SAME_FORM.get(bare, bare)


def alter_columns(
    schema: str, table: Table, stored: Mapping[str, str], former: Sequence[str], change: TableChange
) -> bool:
    """Add the new metadata columns, drop the ``former`` ones that are not configured any more, and
    take lengths off; return whether anything differs."""
    name = sql.Identifier(schema, table.embedding_table)
    added = [
        Ddl(
            f"store {column.name} beside the vectors of {table.full_name}",
            _compose("add_column", table=name, **_parts(column)),
        )
        for column in table.metadata
        if column.name not in stored
    ]
    wanted = {column.name for column in table.metadata}
    dropped = [
        Ddl(
            f"drop {column} from the metadata of {table.full_name}",
            _compose("drop_column", table=name, column=sql.Identifier(column)),
        )
        for column in former
        if column not in wanted and column in stored
    ]
    retyped = [
        Ddl(
            f"store {column.name} beside the vectors of {table.full_name} as {column.type}",
            _compose("retype_column", table=name, **_parts(column)),
        )
        for column in table.stored_columns
        if stored.get(column.name, column.type) != column.type
    ]
    change.before += added
    change.together_without_view([*dropped, *retyped])
    return bool(added or dropped or retyped)


def restore_columns_ddl(schema: str, table: Table, stored: VectorTable, space: int) -> list[Ddl]:
    """Add the columns of ours that a table of vectors has lost; none is right in any row then."""
    name = table.embedding_table
    lost = [c for c in OWN_COLUMNS if c.name not in stored.columns]
    found = [
        Ddl(
            f"put {column.name} back beside the vectors of {table.full_name}",
            _compose(
                "add_column",
                table=sql.Identifier(schema, name),
                column=sql.Identifier(column.name),
                type=sql.SQL(column.type.format(space=space)),
            ),
        )
        for column in lost
    ]
    if lost:  # the index of the hashes went with a column of it
        found.append(_find_equal(schema, name))
    return found


def refer_to_spaces_ddl(schema: str, table: Table) -> Ddl:
    """Have each row refer to its space again, after the record of the spaces was lost."""
    name = table.embedding_table
    parts = {"table": sql.Identifier(schema, name), "schema": sql.Identifier(schema)}
    refer = _compose("refer_to_spaces", **parts)
    return Ddl(f"tie the vectors of {table.full_name} to their spaces", refer)


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
    names = (sql.Identifier(schema, index_name(table.embedding_table, kind)) for kind in HNSW)
    why = f"drop the index of {table.embedding_table}, which is made again"
    return Ddl(why, _compose("drop_index", index=_COMMA.join(names)))


# --- the shadow --------------------------------------------------------------------------------


def shadow_name(table: Table) -> str:
    return index_name(table.embedding_table, "shadow")


def swap_ddl(schema: str, table: Table) -> list[Ddl]:
    """Put the shadow in the place of the table of vectors."""
    name = sql.Identifier(schema, table.embedding_table)
    letters = {"schema": sql.Identifier(schema), "table_name": sql.Literal(table.full_name)}
    swap = [
        _compose("drop_table", table=name),
        *_renamed(schema, shadow_name(table), table.embedding_table),
        compose("target/shadow", "forget_keys", **letters),
    ]
    return [joined(f"store vectors of {table.full_name} by its key of now", swap)]


def fence_ddl(schema: str, slot: str) -> Ddl:
    """Have a running service read the tables of vectors anew before it writes again."""
    parts = {"schema": sql.Identifier(schema), "slot": sql.Literal(slot)}
    return Ddl("tell a running service", compose("target/shadow", "fence", **parts))


def _parts(column: TableColumn) -> dict[str, sql.Composable]:
    return {"column": sql.Identifier(column.name), "type": sql.SQL(column.type)}


def _definition(column: TableColumn) -> sql.Composed:
    return sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.type))


def _compose(query: str, **parts: sql.Composable) -> sql.Composed:
    return compose("target/schema", query, **parts)
