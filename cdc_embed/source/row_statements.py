"""The statements that read rows of the source, composed for one table.

The server adds up the bytes of the rows before it sends them, so that a statement can end at a
number of bytes. Our own columns in it have names with a space, which no application's column has.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from psycopg2 import sql

from cdc_embed.change.document import Key, Table
from cdc_embed.postgres.ddl import compose
from cdc_embed.source.comparison import EVERY_ROW, comparison_parts, in_parts, output_of

_COMMA = sql.SQL(", ")
_PLUS = sql.SQL(" + ")
_BYTES: Final = sql.SQL(
    "coalesce(case when pg_typeof({0}) in ('text'::regtype, 'character varying'::regtype) "
    "then octet_length({0}::text) else octet_length(format('%%s', {0})) end, 0)"
)
"""The bytes of a column's output; of a text they are known without reading an out-of-line value."""
_TEXT_BYTES: Final = sql.SQL("coalesce(octet_length({0}::text), 0)")


def compose_read(query: str, table: Table, condition: sql.Composed = EVERY_ROW) -> sql.Composed:
    """Return a statement of ``source/tables.sql`` for this table, and rows of one condition."""
    keys, metadata = [c.name for c in table.key], [c.name for c in table.metadata]
    texts = [sql.Identifier("t", name) for name in table.text_columns]
    values = [*texts, *(sql.Identifier("t", name) for name in metadata)]
    names = dict.fromkeys([*keys, *table.text_columns, *metadata])
    read = [sql.Identifier("t", name) for name in names]
    return compose(
        "source/tables",
        query,
        columns=_COMMA.join(read),
        bytes=_PLUS.join(_BYTES.format(column) for column in read),
        text_bytes=_PLUS.join(_TEXT_BYTES.format(column) for column in texts),
        values=sql.SQL("").join(sql.SQL(", {}").format(output_of(column)) for column in values),
        condition=condition,
        **comparison_parts(table),
    )


def compose_count(table: Table, bounds: Sequence[Key]) -> tuple[sql.Composed, dict[str, Any]]:
    """Return the statement that counts the rows of a table, and those in the parts between some
    bounds, with its values."""
    parts = in_parts(table) if bounds else None
    if parts is None:
        return compose_read("count_rows", table), {}
    sides = {"k": bounds[:-1], "l": bounds[1:]}
    values: dict[str, Any] = {**key_values("l", bounds[0]), **key_values("k", bounds[-1])}
    places = range(len(table.key))
    for side, keys in sides.items():
        values |= {f"{side}s{p}": [key[p] for key in keys] for p in places}
    statement = compose(
        "source/tables",
        "count_parts",
        table=sql.Identifier(table.schema, table.name),
        arrays=_COMMA.join(
            sql.SQL("{}::text[]").format(sql.Placeholder(f"{side}s{p}"))
            for side in sides
            for p in places
        ),
        names=_COMMA.join(sql.Identifier(f"{side}{p}") for side in sides for p in places),
        **parts,
    )
    return statement, values


def key_values(prefix: str, key: Key | None) -> dict[str, str]:
    """Return the values of one key, if there is one: ``k0``, ``k1``..."""
    return {f"{prefix}{place}": value for place, value in enumerate(key or ())}


def key_arrays(table: Table, keys: Iterable[Key]) -> dict[str, list[str]]:
    """Return the values of many keys, an array for each column."""
    listed = list(keys)
    return {f"k{place}": [key[place] for key in listed] for place in range(len(table.key))}
