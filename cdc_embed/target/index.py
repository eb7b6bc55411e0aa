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
    found = _find(session, schema, table)
    if index.kind != "none" and [(True, *wanted)] == [each[1:] for each in found]:
        return False
    for name, *_ in found:
        drop = compose("target/reconcile", "drop_index", index=sql.Identifier(schema, name))
        _run(session, table, drop)
    if index.kind == "none":
        return False
    create = compose(
        "target/schema",
        "create_hnsw_index",
        index=sql.Identifier(index_name(table.embedding_table, "hnsw")),
        table=sql.Identifier(schema, table.embedding_table),
        operators=sql.SQL(f"{extension_schema}.{wanted[0]}"),
        m=sql.Literal(index.m),
        ef_construction=sql.Literal(index.ef_construction),
    )
    _run(session, table, create)
    return True


def _find(session: Session, schema: str, table: Table) -> list[tuple[str, bool, str, set[str]]]:
    name = sql.Identifier(schema, table.embedding_table)
    with session.transaction(table.embedding_table) as cursor:
        quoted = name.as_string(cursor)
        cursor.execute(queries("target/reconcile")["find_index"], {"table": quoted})
        ours = index_name(table.embedding_table, "hnsw")
        found = cursor.fetchall()
    return [(row[0], row[1], row[2], set(row[3])) for row in found if row[0] == ours]


def _run(session: Session, table: Table, statement: sql.Composed) -> None:
    with session.autocommit(table.embedding_table) as cursor:
        cursor.execute(statement)
