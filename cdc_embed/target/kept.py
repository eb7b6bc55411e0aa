"""Things that the application gave to relations of ours, put back or named.

PostgreSQL drops them with a relation, or refuses to drop it. ``setup`` puts back what it can in the
transaction that makes the relation anew. The rest is found before anything is changed.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg2 import sql

from cdc_embed.postgres.ddl import compose
from cdc_embed.postgres.session import Session

STORAGE: Final = 1
"""The place of what a table must have before it is filled, such as a tablespace."""
INDEXES: Final = 2
"""The place of indexes, which are made once it is filled."""

_COMMA = sql.SQL(", ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Altered:
    """A relation of ours that is made anew, or whose columns are altered."""

    name: str
    anew: bool
    columns: Collection[str]
    """The columns that it keeps, by their present names."""
    known: Collection[str] = ()
    """The columns that setup made; others are the application's."""
    retyped: Collection[str] = ()

    def values(self, schema: str) -> sql.Composed:
        """Return the row by which the database is asked what is lost with it."""
        lists = (_array(names) for names in (self.columns, self.known, self.retyped))
        parts = [_literal(schema, self.name), sql.Literal(self.anew), *lists]
        return sql.SQL("({})").format(_COMMA.join(parts))


def find_lost(
    session: Session,
    schema: str,
    altered: Iterable[Altered],
    *,
    functions: Iterable[str],
    indexes: Iterable[str],
) -> list[str]:
    """Describe the objects of the application that relations of ours cannot be altered with.

    ``functions`` of ours are dropped and made again; ``indexes`` are ours.
    """
    statement = _compose(
        "lost",
        relations=_COMMA.join(relation.values(schema) for relation in altered),
        functions=_array(functions),
        indexes=_array(indexes),
        schema=_literal(schema),
        space=_literal(schema, "space"),
    )
    return [row[0] for row in session.fetch("pg_depend", statement)]


def change_relations(
    schema: str,
    names: Sequence[str],
    change: Sequence[sql.Composable],
    indexes: Iterable[str],
) -> sql.Composed:
    """Return one statement that does all of ``change``, and puts back what the relations had."""
    return _compose(
        "change_relations",
        relations=sql.SQL("array[{}]").format(_COMMA.join(_literal(schema, n) for n in names)),
        kept=_kept(schema, [(name, name) for name in names], indexes),
        change=sql.SQL(";\n  ").join(change),
    )


def prepare_shadow(
    schema: str, table: str, shadow: str, place: int, indexes: Iterable[str]
) -> sql.Composed:
    """Return the statement that gives a shadow what the table has at one ``place`` of the order."""
    kept = _kept(schema, [(table, shadow)], indexes)
    return _compose("prepare_shadow", kept=kept, place=sql.Literal(place))


def _kept(schema: str, pairs: Iterable[tuple[str, str]], indexes: Iterable[str]) -> sql.Composed:
    rows = [
        sql.SQL("({}, {})").format(_literal(schema, name), _literal(schema, successor))
        for name, successor in pairs
    ]
    return _compose("kept", pairs=_COMMA.join(rows), indexes=_array(indexes))


def _literal(*names: str) -> sql.Literal:
    """Return a name, quoted as in SQL, as a text."""
    return sql.Literal(".".join('"{}"'.format(name.replace('"', '""')) for name in names))


def _array(names: Iterable[str]) -> sql.Composed:
    return sql.SQL("{}::text[]").format(sql.Literal(list(names)))


def _compose(query: str, **parts: sql.Composable) -> sql.Composed:
    return compose("target/kept", query, **parts)
