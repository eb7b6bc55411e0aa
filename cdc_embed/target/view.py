"""The search view for applications: ``<table>_search``, one row for each chunk, and who sees what.

Neither the view nor a policy depends on the source table, or PostgreSQL would refuse the
application's own ALTER TABLE. They read it through functions whose bodies are strings. If the
source has row level security, the table of vectors has it, too: a reader sees the vectors of those
rows that this reader can read in the source.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from psycopg2 import sql

from cdc_embed.change.document import Table, template_parts
from cdc_embed.postgres.ddl import Ddl, compose
from cdc_embed.postgres.session import Session
from cdc_embed.sql import queries
from cdc_embed.target.registry import Registered
from cdc_embed.target.schema import checksum, within_63

BLANK: Final = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
"""The white space of ``str.isspace``; ``[:space:]`` is another set in every locale."""
POLICIES: Final = ("cdc_embed_readers", "cdc_embed_service")

MARK: Final = "/* made by cdc_embed */"
"""The beginning of each function of ours."""

_COMMA = sql.SQL(", ")


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewState:
    """The search view of a table, and the row security of its vectors, as they are now."""

    columns: Sequence[str] | None
    """None: there is no view."""
    row_security: bool
    policies: frozenset[str]


def function_names(table: Table | Registered) -> set[str]:
    """Return the names of the functions that ask a source table."""
    return {_visible(table), _text_of(table)}


def _visible(table: Table | Registered) -> str:
    return within_63(f"visible_{_own(table)}")


def _text_of(table: Table | Registered) -> str:
    return within_63(f"text_{_own(table)}")


def _own(table: Table | Registered) -> str:
    """Return a name that no other table has: the stems of a_b.c and a.b_c are the same, so one of
    them has a table of vectors by another name."""
    name = table.embedding_table
    return table.stem if name == f"{table.stem}_embedding" else f"{name}_{checksum(name)[:8]}"


class SearchView:
    """Composes the search view of one table, its functions and its policies."""

    def __init__(
        self,
        session: Session,
        schema: str,
        table: Table,
        *,
        known: Registered | None,
        one_database: bool,
    ) -> None:
        self._session = session
        self._known = known
        self._schema = schema
        self._table = table
        self._one_database = one_database
        self._name = sql.Identifier(schema, table.search_view)
        self._vectors = sql.Identifier(schema, table.embedding_table)
        self.state = self._read_state()

    def _read_state(self) -> ViewState:
        known = self._known
        view, table = self._name, self._vectors
        if known is not None:  # both can have other names still
            view = sql.Identifier(self._schema, known.search_view or self._table.search_view)
            table = sql.Identifier(self._schema, known.embedding_table)
        with self._session.transaction(self._table.search_view) as cursor:
            values = {"view": view.as_string(cursor), "table": table.as_string(cursor)}
            cursor.execute(queries("target/view")["view_state"], values)
            columns, row_security, policies = cursor.fetchone()
        return ViewState(columns=columns, row_security=row_security, policies=frozenset(policies))

    def rename(self, columns: Mapping[str, str]) -> None:
        """Take in that columns of it get other names before anything else is done."""
        if self.state.columns is not None:
            names = [columns.get(name, name) for name in self.state.columns]
            self.state = replace(self.state, columns=names)

    def statements(self, *, again: bool) -> list[sql.Composed]:
        """Return the statements that make all of it. ``again``: it made way before."""
        names = self.functions
        used = {name for name, _ in self._functions()}
        functions = [drop_function(self._schema, name) for name in sorted(names)] if again else []
        unused = [] if again else [drop_function(self._schema, n) for n in sorted(names - used)]
        return [
            *([] if again else self._drop_policies()),
            *functions,
            *(create for _, create in self._functions()),
            *self._security(),
            self._view(again),
            *unused,
        ]

    def _view(self, again: bool) -> sql.Composed:
        """Return the statement that makes the view; a replaced one keeps its columns' order."""
        wanted = self._columns()
        former = () if again else self.state.columns or ()
        order = dict.fromkeys([*(name for name in former if name in wanted), *wanted])
        return _compose(
            "create_search_view",
            view=self._name,
            columns=sql.SQL(",\n       ").join(wanted[name] for name in order),
            table=self._vectors,
            where=self._visible_rows(),
        )

    def _visible_rows(self) -> sql.Composed:
        """Return the condition that leaves out rows that the source has not, or not for this
        reader."""
        if not self._one_database:
            return sql.SQL("").format()
        visible = sql.Identifier(self._schema, _visible(self._table))
        return sql.SQL("\nwhere {} ({})").format(visible, self._key("e"))

    @property
    def functions(self) -> set[str]:
        """The names of its functions, now and afterwards."""
        former = function_names(self._known) if self._known is not None else set()
        return function_names(self._table) | former

    @property
    def columns(self) -> Collection[str]:
        """The columns that it has afterwards."""
        return self._columns().keys()

    @property
    def replaceable(self) -> bool:
        """Whether the view, if it exists, has no column that it must not have any more."""
        return set(self.state.columns or ()) <= self._columns().keys()

    @property
    def exists(self) -> bool:
        """Whether there is such a view now."""
        return self.state.columns is not None

    def is_right(self) -> bool:
        """Return whether everything is there as it must be."""
        secured = self._table.row_security
        policies = set(POLICIES if self._one_database else POLICIES[1:]) if secured else set()
        return (
            self._known is not None
            and self.exists
            and self.state.row_security >= secured
            and self.state.policies == policies
            and self._known.definition == self.definition(again=False)
        )

    def definition(self, *, again: bool) -> str:
        """Return the checksum of the view, its functions and its policies."""
        functions = [create for _, create in self._functions()]
        made = [*functions, *self._security(), self._view(again)]
        with self._session.transaction(self._table.search_view) as cursor:
            return checksum(";".join(statement.as_string(cursor) for statement in made))

    def _columns(self) -> dict[str, sql.Composable]:
        table = self._table
        text: sql.Composable = sql.SQL("e.chunk_text")
        if self._reads_text:
            text = sql.SQL(
                "substr({} ({}), e.start_offset + 1, e.end_offset - e.start_offset)"
            ).format(sql.Identifier(self._schema, _text_of(table)), self._key("e"))
        names = [*(c.name for c in table.key), "chunk", "embedding", "text"]
        names += [*(c.name for c in table.metadata), "embedded_at"]
        return {
            name: sql.SQL("{} as text").format(text)
            if name == "text"
            else sql.Identifier("e", name)
            for name in names
        }

    @property
    def _reads_text(self) -> bool:
        return self._one_database and not self._table.store_text

    def _key(self, alias: str) -> sql.Composed:
        return _COMMA.join(sql.Identifier(alias, column.name) for column in self._table.key)

    def _functions(self) -> list[tuple[str, sql.Composed]]:
        """Return the functions that ask the source: the name, and the statement that makes it."""
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
        found = []
        if self._one_database:
            body = "visible_body" if table.row_security else "visible_body_without_security"
            parts |= _numbers(table)
            name = _visible(table)
            found.append((name, self._function("create_visible", name, body, parts)))
        if self._reads_text:
            parts["text"] = _text(table, _blank(self._session))
            name = _text_of(table)
            found.append((name, self._function("create_text", name, "text_body", parts)))
        return found

    def _function(
        self, create: str, name: str, body: str, parts: dict[str, sql.Composable]
    ) -> sql.Composed:
        with self._session.transaction(name) as cursor:
            text = f"{MARK} {_compose(body, **parts).as_string(cursor)}"
        return _compose(
            create,
            function=sql.Identifier(self._schema, name),
            types=_COMMA.join(sql.SQL(column.type) for column in self._table.key),
            body=sql.Literal(text),
        )

    def make_way(self) -> list[sql.Composed]:
        """Return the statements that drop what keeps a column of the table as it is: view and
        policies."""
        return [drop_view(self._schema, self._table.search_view), *self._drop_policies()]

    def _drop_policies(self) -> list[sql.Composed]:
        """Return the statements that take our policies away, and with them row level security."""
        drops = [
            _compose("drop_policy", policy=sql.Identifier(policy), table=self._vectors)
            for policy in sorted(self.state.policies)
        ]
        if self.state.policies and not self._table.row_security:
            drops.append(_compose("disable_row_security", table=self._vectors))
        return drops

    def _security(self) -> list[sql.Composed]:
        """Return the statements for row level security, if the source has it."""
        if not self._table.row_security:
            return []
        role = sql.SQL("current_user")
        found = [_compose("enable_row_security", table=self._vectors)]
        found.append(_compose("create_service_policy", table=self._vectors, role=role))
        if self._one_database:
            visible = sql.Identifier(self._schema, _visible(self._table))
            key = _COMMA.join(sql.Identifier(column.name) for column in self._table.key)
            parts = {"table": self._vectors, "visible": visible, "key": key}
            found.append(_compose("create_reader_policy", **parts))
        return found


def drop_view_ddl(schema: str, name: str) -> Ddl:
    return Ddl(f"drop view {schema}.{name}", drop_view(schema, name))


def drop_view(schema: str, name: str) -> sql.Composed:
    return _compose("drop_view", view=sql.Identifier(schema, name))


def drop_function_ddl(schema: str, name: str) -> Ddl:
    return Ddl(f"drop function {schema}.{name}", drop_function(schema, name))


def drop_function(schema: str, name: str) -> sql.Composed:
    return _compose("drop_function", function=sql.Identifier(schema, name))


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
    """Return the row's prepared text, in SQL: the same rule as ``Table.prepare``.

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
