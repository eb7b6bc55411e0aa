"""The comparison of keys in the source's SQL, as the key's own index makes it.

A type can be in any schema, with operators that an unqualified name does not find or finds wrongly.
For a ``citext`` outside the search path ``=`` is that of ``text``, which is another order and
another equality. So each operator is named with its schema, as the catalogue has it.
"""

from collections.abc import Sequence
from typing import Any, Final

from psycopg2 import sql

from cdc_embed.change.document import KeyOrder, Table, TableColumn

_COMMA = sql.SQL(", ")
_AND = sql.SQL(" and ")
EVERY_ROW: Final = sql.Composed([sql.SQL("true")])
"""The condition that leaves no row out."""
_EXACT: Final = sql.SQL(
    "{compared} and pg_catalog.format('%%s', {column}) collate pg_catalog.\"C\" = {text}"
)


def key_order(kind: str, cast: str, operators: Sequence[str], *rest: Any) -> KeyOrder:
    """Return the comparison of a key column, from what the catalogue says of its index."""
    less, up_to, equal, greater = operators
    collation, loose = rest
    return KeyOrder(
        type=kind,
        cast=cast,
        less=less,
        up_to=up_to,
        equal=equal,
        greater=greater,
        collation=collation,
        loose=loose,
    )


def output_of(column: sql.Composable) -> sql.Composed:
    """Return a column in the form of its output function, because a cast to text would trim
    ``character(n)``."""
    return sql.SQL("case when {0} is distinct from null then format('%%s', {0}) end").format(column)


def comparison_parts(table: Table) -> dict[str, sql.Composable]:
    """Return the parts of a statement that reads a table, ``t``, by key or in the order of the
    key. The keys that are given are ``k``."""
    names = [sql.Identifier(f"k{place}") for place in range(len(table.key))]
    columns = [sql.Identifier("t", column.name) for column in table.key]
    asked = [sql.SQL("k.{}").format(name) for name in names]
    return {
        "table": sql.Identifier(table.schema, table.name),
        "keys": _COMMA.join(output_of(column) for column in columns),
        "order": _COMMA.join(
            sql.SQL("{} using {}").format(_compared(column), sql.SQL(column.order.less))
            for column in table.key
        ),
        "key_names": _COMMA.join(names),
        "asked": _COMMA.join(asked),
        "key_arrays": _COMMA.join(
            sql.SQL("{}::text[]").format(sql.Placeholder(f"k{place}"))
            for place in range(len(table.key))
        ),
        "key_matches": _AND.join(
            _matches(column, text) for column, text in zip(table.key, asked, strict=True)
        ),
    }


def _matches(column: TableColumn, text: sql.Composable) -> sql.Composed:
    """Find the row by the key's index. Where equal keys can have different texts, the text must be
    the same too, because the table of vectors tells such keys apart."""
    compared = _compare(column, column.order.equal, text)
    if not column.order.loose:
        return compared
    return _EXACT.format(compared=compared, column=sql.Identifier("t", column.name), text=text)


def following(table: Table) -> list[sql.Composed]:
    """Return the conditions for the rows that follow a key, ``k0``...; the rows of each come in
    this order.

    A comparison of whole rows uses the index best, but has one operator for all columns. Where they
    have several, a condition for each column takes its place, with all columns before it equal.
    """
    values = [sql.Placeholder(f"k{place}") for place in range(len(table.key))]
    operators = {column.order.greater for column in table.key}
    if len(operators) == 1:
        return [_whole(table.key, operators.pop(), "k")]
    return [_branch(table.key, values, last) for last in reversed(range(len(table.key)))]


def between(table: Table, *, after: bool, last: bool) -> sql.Composed | None:
    """Return the condition for the rows after a key, ``k0``..., and up to another, ``l0``...

    None if no comparison of whole rows says it, because the columns have several operators.
    """
    operators = {(column.order.greater, column.order.up_to) for column in table.key}
    if len(operators) > 1 and (after or last):
        return None
    greater, up_to = operators.pop()
    lower = [_whole(table.key, greater, "k")] if after else []
    upper = [_whole(table.key, up_to, "l")] if last else []
    return _AND.join([*lower, *upper]) if after or last else EVERY_ROW


def in_parts(table: Table) -> dict[str, sql.Composed] | None:
    """Return the conditions for the rows before some bounds, between two of them, and after them.

    The bounds are ``l0``..., a row ``b`` of their lower (``k0``...) and upper ones, and ``k0``....
    None if no comparison of whole rows says it, as for ``between``.
    """
    if between(table, after=True, last=True) is None:
        return None
    order, places = table.key[0].order, range(len(table.key))
    lower, upper = ([sql.Identifier("b", f"{side}{p}") for p in places] for side in "kl")
    inner = [_rows(table.key, order.greater, lower), _rows(table.key, order.up_to, upper)]
    return {
        "first": _rows(table.key, order.up_to, [sql.Placeholder(f"l{p}") for p in places]),
        "inner": _AND.join(inner),
        "last": _rows(table.key, order.greater, [sql.Placeholder(f"k{p}") for p in places]),
    }


def _whole(columns: Sequence[TableColumn], operator: str, prefix: str) -> sql.Composed:
    values = [sql.Placeholder(f"{prefix}{place}") for place in range(len(columns))]
    return _rows(columns, operator, values)


def _rows(
    columns: Sequence[TableColumn], operator: str, values: Sequence[sql.Composable]
) -> sql.Composed:
    return sql.SQL("({}) {} ({})").format(
        _COMMA.join(_compared(column) for column in columns),
        sql.SQL(operator),
        _COMMA.join(_cast(c, value) for c, value in zip(columns, values, strict=True)),
    )


def narrowed(own: sql.Composed, condition: sql.Composed) -> sql.Composed:
    """Return the condition of the rows that meet both."""
    return sql.SQL("({}) and ({})").format(own, condition)


def _branch(
    columns: Sequence[TableColumn], values: Sequence[sql.Composable], last: int
) -> sql.Composed:
    pairs = list(zip(columns, values, strict=True))
    column, value = pairs[last]
    equal = [_compare(c, c.order.equal, v) for c, v in pairs[:last]]
    return _AND.join([*equal, _compare(column, column.order.greater, value)])


def _compare(column: TableColumn, operator: str, value: sql.Composable) -> sql.Composed:
    return sql.SQL("{} {} {}").format(_compared(column), sql.SQL(operator), _cast(column, value))


def _compared(column: TableColumn) -> sql.Composed:
    return sql.SQL("{}{}{}").format(
        sql.Identifier("t", column.name),
        sql.SQL(column.order.cast),
        sql.SQL(column.order.collation),
    )


def _cast(column: TableColumn, value: sql.Composable) -> sql.Composed:
    kind = column.order.type or column.source_type or column.type
    return sql.SQL("{}::{}").format(value, sql.SQL(kind))
