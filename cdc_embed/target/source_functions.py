"""The functions that the search view and the policies ask: the rows a reader sees, and their texts.

Their bodies are strings, on which no object of the source table depends. Whoever may replace one of
them decides what readers see, so each is compared with what ``setup`` makes.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from psycopg2 import sql

from cdc_embed.change.document import Table, template_parts
from cdc_embed.postgres.ddl import compose
from cdc_embed.postgres.session import Session
from cdc_embed.sql import queries
from cdc_embed.target.registry import MARK, Registered
from cdc_embed.target.schema import checksum, within_63

BLANK: Final = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
"""The white space of ``str.isspace``; ``[:space:]`` is another set in every locale."""
_COMMA = sql.SQL(", ")


def function_names(table: Table | Registered) -> set[str]:
    """Return the names of the functions that ask a source table."""
    return {visible_name(table), text_name(table)}


def function_results(table: Table) -> dict[str, str]:
    """Return the types of their results, by name."""
    return {visible_name(table): "boolean", text_name(table): "text"}


def visible_name(table: Table | Registered) -> str:
    """Return the name of the function that says which rows a reader sees."""
    return within_63(f"visible_{_own(table)}")


def text_name(table: Table | Registered) -> str:
    """Return the name of the function that reads a row's text."""
    return within_63(f"text_{_own(table)}")


def _own(table: Table | Registered) -> str:
    """Return a name that no other table has. The stems of a_b.c and a.b_c are the same, so one of
    them has a table of vectors by another name."""
    name = table.embedding_table
    return table.stem if name == f"{table.stem}_embedding" else f"{name}_{checksum(name)[:8]}"


class SourceFunctions:
    """Composes the functions of one table."""

    def __init__(self, session: Session, schema: str, table: Table, *, one_database: bool) -> None:
        self._session = session
        self._schema = schema
        self._table = table
        self._one_database = one_database
        self._reads_text = one_database and not table.store_text

    def statements(self) -> dict[str, sql.Composed]:
        """Return the statements that make them, by the function's name."""
        visible = visible_name(self._table)
        return {
            name: _compose(
                "create_visible" if name == visible else "create_text",
                function=sql.Identifier(self._schema, name),
                types=_COMMA.join(sql.SQL(column.type) for column in self._table.key),
                body=sql.Literal(body),
            )
            for name, body in self._bodies().items()
        }

    def made(self) -> list[dict[str, Any]]:
        """Return what setup made, as it is compared with what is there."""
        return [
            {
                "name": self._table.embedding_table,
                "function": name,
                "body": hashlib.md5(body.encode(), usedforsecurity=False).hexdigest(),
                "key": [column.name for column in self._table.key],
                "visible": name == visible_name(self._table),
            }
            for name, body in self._bodies().items()
        ]

    def _bodies(self) -> dict[str, str]:
        """Return the bodies of the functions, by name."""
        table = self._table
        places = [sql.SQL(f"${place}") for place in range(1, len(table.key) + 1)]
        parts: dict[str, sql.Composable] = {
            "source": sql.Identifier(table.schema, table.name),
            "matches": _matches(table, "s"),
            "loose_matches": _matches(table, ""),
            "parameters": _COMMA.join(
                sql.SQL("{} as {}").format(place, sql.Identifier(column.name))
                for place, column in zip(places, table.key, strict=True)
            ),
        }
        found = {}
        if self._one_database:
            body = "visible_body" if table.row_security else "visible_body_without_security"
            parts |= _numbers(table)
            found[visible_name(table)] = self._body(body, parts)
        if self._reads_text:
            parts["text"] = _text(table, _blank(self._session))
            found[text_name(table)] = self._body("text_body", parts)
        return found

    def _body(self, name: str, parts: Mapping[str, sql.Composable]) -> str:
        with self._session.transaction(name) as cursor:
            return f"{MARK} {_compose(name, **parts).as_string(cursor)}"


def altered_objects(
    session: Session, schema: str, functions: Iterable[SourceFunctions]
) -> dict[str, str]:
    """Return the function or policy of ours that is not as setup made it, by the name of the table
    of vectors. One statement for all of them; none if there are none."""
    made = [each for one in functions for each in one.made()]
    if not made:
        return {}
    values = {"schema": schema, "made": json.dumps(made)}
    return dict(session.fetch("functions", queries("target/view")["altered"], values))


def _matches(table: Table, alias: str) -> sql.Composed:
    """Return the condition for the row whose key is given as parameters, as the source compares
    keys, so that its index is used."""
    return sql.SQL(" and ").join(
        sql.SQL("{name}{cast}{collation} {equal} ${place}::{type}").format(
            name=sql.Identifier(alias, column.name) if alias else sql.Identifier(column.name),
            cast=sql.SQL(column.order.cast),
            collation=sql.SQL(column.order.collation),
            equal=sql.SQL(column.order.equal),
            place=sql.SQL(str(place)),
            type=sql.SQL(column.order.type or column.source_type or column.type),
        )
        for place, column in enumerate(table.key, start=1)
    )


def _numbers(table: Table) -> dict[str, sql.Composable]:
    """Return the parts of the condition that the key's columns are still those of the vectors."""
    oid = sql.SQL("{}::pg_catalog.oid").format(sql.Literal(str(table.oid)))
    names = [
        _compose(
            "same_name",
            oid=oid,
            number=sql.Literal(number),
            schema=sql.Literal(table.schema),
            table=sql.Literal(table.name),
            column=sql.Literal(column.name),
        )
        for number, column in zip(table.key_numbers, table.key, strict=True)
    ]
    numbers = sql.Literal("{" + ",".join(map(str, table.key_numbers)) + "}")
    return {"oid": oid, "numbers": numbers, "same_names": sql.SQL("\n  and ").join(names)}


def _blank(session: Session) -> str:
    """Return the white space that the database's encoding has."""
    return BLANK if session.encoding() == "UTF8" else BLANK.encode("ascii", "ignore").decode()


def _text(table: Table, blank: str) -> sql.Composable:
    """Return the row's prepared text, in SQL, by the same rule as ``Table.prepare``.

    It is read in a reader's session, so every name has its schema.
    """
    if table.template is None:
        present = sql.SQL(", ").join(
            sql.SQL(
                "case when pg_catalog.format('%s', s.{0}) collate pg_catalog.\"C\" "
                "operator(pg_catalog.~) {1} then pg_catalog.format('%s', s.{0}) end"
            ).format(sql.Identifier(name), sql.Literal(f"[^{blank}]"))
            for name in table.text_columns
        )
        return sql.SQL("pg_catalog.array_to_string(array[{}], E'\\n\\n')").format(present)
    return sql.SQL(" operator(pg_catalog.||) ").join(
        sql.SQL("pg_catalog.format('%s', s.{})").format(sql.Identifier(part))
        if is_column
        else sql.Literal(part)
        for part, is_column in template_parts(table.template)
    )


def _compose(query: str, **parts: sql.Composable) -> sql.Composed:
    return compose("target/view", query, **parts)
