"""The HNSW index of a table of vectors.

It is made once the table is filled, because that is several times faster than inserts into it. It
is made again when it is not the configured one.
"""

from psycopg2 import sql

from cdc_embed.change.document import Table
from cdc_embed.config.sections import IndexConfig
from cdc_embed.postgres.ddl import compose
from cdc_embed.postgres.session import Session
from cdc_embed.sql import queries
from cdc_embed.target.schema import OPERATORS, index_name
from cdc_embed.target.vectors import create_hnsw


def ensure_index(
    session: Session, schema: str, table: Table, index: IndexConfig, extension_schema: str
) -> bool:
    """Make the configured index, while reads and writes go on; return whether that was necessary.

    Our index is dropped first when it has other operators or options, or when making it was
    interrupted. An index under another name is not ours and stays.
    """
    wanted = (
        f"{index.type}_{OPERATORS[index.distance]}",
        {f"m={index.m}", f"ef_construction={index.ef_construction}"},
    )
    found = _find(session, schema, table.embedding_table)
    if index.kind != "none" and [(True, *wanted)] == [each[1:] for each in found]:
        return False
    for name, *_ in found:
        drop = compose("target/reconcile", "drop_index", index=sql.Identifier(schema, name))
        _run(session, table, drop)
    if index.kind == "none":
        return False
    create = create_hnsw(schema, table.embedding_table, index, extension_schema, concurrently=True)
    _run(session, table, create)
    return True


def has_index(session: Session, schema: str, embedding_table: str) -> bool:
    """Return whether a table of vectors has its search index."""
    return any(valid for _, valid, *_ in _find(session, schema, embedding_table))


def _find(
    session: Session, schema: str, embedding_table: str
) -> list[tuple[str, bool, str, set[str]]]:
    name = sql.Identifier(schema, embedding_table)
    with session.transaction(embedding_table) as cursor:
        quoted = name.as_string(cursor)
        cursor.execute(queries("target/reconcile")["find_index"], {"table": quoted})
        ours = index_name(embedding_table, "hnsw")
        found = cursor.fetchall()
    return [(row[0], row[1], row[2], set(row[3])) for row in found if row[0] == ours]


def _run(session: Session, table: Table, statement: sql.Composed) -> None:
    with session.autocommit(table.embedding_table) as cursor:
        cursor.execute(statement)
