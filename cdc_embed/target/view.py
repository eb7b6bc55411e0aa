"""The search view for applications: ``<table>_search``, one row for each chunk.

If the vectors are in the source's own database, the view joins the source table. So a user finds
only rows that this user can read there, and the text need not be stored twice.
"""

from typing import Final

from psycopg2 import sql

from cdc_embed.change.document import Table, template_parts
from cdc_embed.postgres.ddl import Ddl, compose
from cdc_embed.postgres.session import Session
from cdc_embed.sql import queries
from cdc_embed.target.schema import checksum

BLANK: Final = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
"""The white space of ``str.isspace``; ``[:space:]`` is another set in every locale."""

_COMMA = sql.SQL(",\n       ")


def view_ddl(
    session: Session, schema: str, table: Table, *, one_database: bool, again: bool
) -> list[Ddl]:
    """Return the statements that make the search view, if it is not the right one or was
    dropped."""
    view = sql.Identifier(schema, table.search_view)
    text: sql.Composable = sql.SQL("e.chunk_text")
    if one_database and not table.store_text:
        text = sql.SQL("substr({}, e.start_offset + 1, e.end_offset - e.start_offset)").format(
            _text(table, _blank(session))
        )
    create = compose(
        "target/schema",
        "create_search_view",
        view=view,
        columns=_columns(table, text),
        table=sql.Identifier(schema, table.embedding_table),
        join=_join(table) if one_database else sql.SQL(""),
    )
    with session.transaction(table.search_view) as cursor:
        mark = f"made by cdc_embed {checksum(create.as_string(cursor))}"
        values = {"view": view.as_string(cursor)}
        cursor.execute(queries("target/schema")["view_definition"], values)
        exists, found = cursor.fetchone()
    if found == mark and not again:
        return []
    remember = compose("target/schema", "mark_view", view=view, mark=sql.Literal(mark))
    drop = [drop_view_ddl(schema, table.search_view)] if exists and not again else []
    return [
        *drop,
        Ddl(f"create the search view of {table.full_name}", create),
        Ddl(f"mark view {table.search_view} as made by setup", remember),
    ]


def drop_view_ddl(schema: str, name: str) -> Ddl:
    drop = compose("target/schema", "drop_view", view=sql.Identifier(schema, name))
    return Ddl(f"drop view {schema}.{name}", drop)


def _columns(table: Table, text: sql.Composable) -> sql.Composed:
    key = [sql.Identifier("e", column.name) for column in table.key]
    metadata = [sql.Identifier("e", column.name) for column in table.metadata]
    ours = [sql.SQL("e.chunk"), sql.SQL("e.embedding"), sql.SQL("{} as text").format(text)]
    return _COMMA.join([*key, *ours, *metadata, sql.SQL("e.embedded_at")])


def _join(table: Table) -> sql.Composed:
    """Join by the source's key in the source's types, so that its index is used."""
    matches = [
        sql.SQL("s.{name}{cast}{collation} {equal} e.{name}::{type}").format(
            name=sql.Identifier(column.name),
            type=sql.SQL(column.order.type or column.source_type or column.type),
            cast=sql.SQL(column.order.cast),
            collation=sql.SQL(column.order.collation),
            equal=sql.SQL(column.order.equal),
        )
        for column in table.key
    ]
    return sql.SQL("\njoin {} s on {}").format(
        sql.Identifier(table.schema, table.name), sql.SQL(" and ").join(matches)
    )


def _blank(session: Session) -> str:
    """Return the white space that the database's encoding has."""
    return BLANK if session.encoding() == "UTF8" else BLANK.encode("ascii", "ignore").decode()


def _text(table: Table, blank: str) -> sql.Composable:
    """Return the row's prepared text, in SQL: the same rule as ``Table.prepare``."""
    if table.template is None:
        present = sql.SQL(", ").join(
            sql.SQL("case when format('%s', s.{0}) ~ {1} then format('%s', s.{0}) end").format(
                sql.Identifier(name), sql.Literal(f"[^{blank}]")
            )
            for name in table.text_columns
        )
        return sql.SQL("array_to_string(array[{}], E'\\n\\n')").format(present)
    return sql.SQL(" || ").join(
        sql.SQL("format('%s', s.{})").format(sql.Identifier(part))
        if is_column
        else sql.Literal(part)
        for part, is_column in template_parts(table.template)
    )
