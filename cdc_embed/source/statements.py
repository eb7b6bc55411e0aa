"""The statements that make, alter and drop a publication."""

from collections.abc import Iterable
from typing import Final

from psycopg2 import sql

from cdc_embed.postgres.ddl import compose
from cdc_embed.source.publication import Publication, mark_of

OPERATIONS: Final = "publish = 'insert, update, delete, truncate'"
VIA_ROOT: Final = "publish_via_partition_root = true"
GENERATED: Final = "publish_generated_columns = stored"


def wrong_options(publication: Publication) -> list[str]:
    """Return the options that have to be set."""
    wrong = {
        OPERATIONS: not publication.all_operations,
        VIA_ROOT: not publication.via_root,
        GENERATED: publication.generated_withheld,
    }
    return [option for option, is_wrong in wrong.items() if is_wrong]


def create(name: str, tables: Iterable[sql.Composable], *, generated: bool) -> sql.Composed:
    """Make the publication; ``generated``: the server can publish stored generated columns."""
    options = [OPERATIONS, VIA_ROOT, *([GENERATED] if generated else [])]
    return _compose("create_publication", name, tables=_list(tables), options=_options(options))


def set_tables(name: str, tables: Iterable[sql.Composable]) -> sql.Composed:
    return _compose("set_tables", name, tables=_list(tables))


def set_options(name: str, options: Iterable[str]) -> sql.Composed:
    return _compose("set_options", name, options=_options(options))


def add_table(name: str, entry: sql.Composable) -> sql.Composed:
    return _compose("add_table", name, table=entry)


def drop_table(name: str, table: sql.Composable) -> sql.Composed:
    return _compose("drop_table", name, table=table)


def set_mark(name: str, slot: str, left_out: frozenset[int] = frozenset()) -> sql.Composed:
    return _compose("mark_publication", name, mark=sql.Literal(mark_of(slot, left_out)))


def drop_publication(name: str) -> sql.Composed:
    return _compose("drop_publication", name)


def entry(table: sql.Composable, columns: Iterable[str] = ()) -> sql.Composed:
    """Return a table as a publication lists it, without its children, with columns if there are
    some."""
    listed = sql.SQL(", ").join(sql.Identifier(column) for column in columns)
    form = "only {} ({})" if listed.seq else "only {}"
    return sql.SQL(form).format(table, listed)


def _options(options: Iterable[str]) -> sql.SQL:
    return sql.SQL(", ".join(options))


def _list(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _compose(query: str, name: str, **parts: sql.Composable) -> sql.Composed:
    return compose("source/publication", query, publication=sql.Identifier(name), **parts)
