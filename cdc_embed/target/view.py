"""The search view for applications: ``<table>_search``, one row for each chunk, and who sees what.

Neither the view nor a policy depends on the source table, or PostgreSQL would refuse the
application's own ALTER TABLE. They read it through functions whose bodies are strings. If the
source has row level security, the table of vectors has it, too. A reader sees the vectors of those
rows that this reader can read in the source.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from psycopg2 import sql

from cdc_embed.change.document import Table
from cdc_embed.postgres.ddl import Ddl, compose
from cdc_embed.postgres.session import Session
from cdc_embed.sql import queries
from cdc_embed.target.registry import Registered, own_functions
from cdc_embed.target.schema import checksum
from cdc_embed.target.source_functions import (
    SourceFunctions,
    altered_objects,
    function_names,
    function_results,
    text_name,
    visible_name,
)

POLICIES: Final = ("cdc_embed_readers", "cdc_embed_service")

_COMMA = sql.SQL(", ")


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewState:
    """The search view of a table, and the row security of its vectors, as they are now."""

    columns: Sequence[str] | None
    """The columns of the view; None if there is no view."""
    row_security: bool
    policies: frozenset[str]
    others: Sequence[str]
    """The policies of the user's own that show vectors to more readers, as SQL writes their
    names."""
    as_reader: bool
    """Whether the view is read with its reader's rights."""
    calls: Sequence[str]
    """The functions that the view calls."""
    retyped: Sequence[str]
    """The columns of the view that have another type than the vectors' table has."""
    irreplaceable: Sequence[str]
    """The functions of ours that CREATE OR REPLACE refuses to make, as other hands altered them."""


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
        self._functions = SourceFunctions(session, schema, table, one_database=one_database)
        self._name = sql.Identifier(schema, table.search_view)
        self._vectors = sql.Identifier(schema, table.embedding_table)

    @cached_property
    def state(self) -> ViewState:
        """The view, and the row security of the vectors, as they are now."""
        known = self._known
        view, table = self._name, self._vectors
        if known is not None:  # both can have other names still
            view = sql.Identifier(self._schema, known.search_view or self._table.search_view)
            table = sql.Identifier(self._schema, known.embedding_table)
        with self._session.transaction(self._table.search_view) as cursor:
            values = {
                "view": view.as_string(cursor),
                "table": table.as_string(cursor),
                "schema": self._schema,
                "functions": json.dumps(function_results(self._table)),
                "arguments": [column.type for column in self._table.key],
            }
            cursor.execute(queries("target/view")["view_state"], values)
            columns, row_security, policies, others, *seen = cursor.fetchone()
        as_reader, calls, retyped, irreplaceable = seen
        return ViewState(
            columns=columns,
            row_security=row_security,
            policies=frozenset(policies),
            others=others,
            as_reader=as_reader,
            calls=calls,
            retyped=retyped,
            irreplaceable=irreplaceable,
        )

    def rename(self, columns: Mapping[str, str]) -> None:
        """Take in that columns of it get other names before anything else is done."""
        if self.state.columns is not None:
            names = [columns.get(name, name) for name in self.state.columns]
            self.state = replace(self.state, columns=names)

    def statements(self, *, again: bool) -> list[sql.Composed]:
        """Return the statements that make all of it. ``again``: it made way before."""
        names, made = self.functions, self._functions.statements()
        gone = names if again else names - made.keys()
        own = own_functions(self._session, self._schema, sorted(gone))
        refused = self.state.irreplaceable
        first = dict.fromkeys([*refused, *(own if again else [])])
        return [
            *([] if again else self._drop_policies()),
            *(drop_function_ddl(identity).statement for identity in first),
            *made.values(),
            *self._security(),
            self._view(again),
            *([] if again else (drop_function_ddl(identity).statement for identity in own)),
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
        visible = sql.Identifier(self._schema, visible_name(self._table))
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
        """Whether CREATE OR REPLACE makes it what it must be: the view, if it exists, has no column
        that it must not have any more, and other hands gave nothing of it another form."""
        state = self.state
        fits = set(state.columns or ()) <= self._columns().keys()
        return fits and not state.retyped and not state.irreplaceable

    @property
    def exists(self) -> bool:
        """Whether there is such a view now."""
        return self.state.columns is not None

    def find_renamed(self) -> tuple[str, str] | None:
        """Return what the view is called now that other hands renamed or moved, and the way back;
        None if there is none."""
        if self.exists:
            return None
        values = {
            "schema": self._schema,
            "view": self._table.search_view,
            "table": self._table.embedding_table,
            "columns": list(self.columns),
        }
        rows = self._session.fetch("view", queries("target/view")["renamed_view"], values)
        return (rows[0][0], rows[0][1]) if rows else None

    @property
    def as_made(self) -> bool:
        """Whether the view, if it exists, was not replaced by other hands, as far as its columns
        and the rows that it shows tell."""
        state, visible = self.state, visible_name(self._table)
        if state.columns is None:
            return True
        same = set(state.columns) == self._columns().keys() and not state.retyped
        filters = visible in state.calls or not self._one_database
        return same and filters and state.as_reader

    def is_right(self) -> bool:
        """Return whether everything is there as it must be."""
        secured = self._table.row_security
        policies = set(POLICIES if self._one_database else POLICIES[1:]) if secured else set()
        return (
            self._known is not None
            and self.exists
            and self.as_made
            and not altered_objects(self._session, self._schema, [self._functions])
            and self.state.row_security >= secured
            and self.state.policies == policies
            and self._known.definition == self.definition(again=False)
        )

    def definition(self, *, again: bool) -> str:
        """Return the checksum of the view, its functions and its policies."""
        made = [*self._functions.statements().values(), *self._security(), self._view(again)]
        with self._session.transaction(self._table.search_view) as cursor:
            return checksum(";".join(statement.as_string(cursor) for statement in made))

    def _columns(self) -> dict[str, sql.Composable]:
        table = self._table
        text: sql.Composable = sql.SQL("e.chunk_text")
        if self._one_database and not table.store_text:
            text = sql.SQL(
                "substr({} ({}), e.start_offset + 1, e.end_offset - e.start_offset)"
            ).format(sql.Identifier(self._schema, text_name(table)), self._key("e"))
        names = [*(c.name for c in table.key), "chunk", "embedding", "text"]
        names += [*(c.name for c in table.metadata), "embedded_at"]
        return {
            name: sql.SQL("{} as text").format(text)
            if name == "text"
            else sql.Identifier("e", name)
            for name in names
        }

    def _key(self, alias: str) -> sql.Composed:
        return _COMMA.join(sql.Identifier(alias, column.name) for column in self._table.key)

    def make_way(self) -> list[sql.Composed]:
        """Return the statements that drop what keeps a column of the table as it is, the view and
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
            visible = sql.Identifier(self._schema, visible_name(self._table))
            key = _COMMA.join(sql.Identifier(column.name) for column in self._table.key)
            parts = {"table": self._vectors, "visible": visible, "key": key}
            found.append(_compose("create_reader_policy", **parts))
        return found


def drop_view_ddl(schema: str, name: str) -> Ddl:
    return Ddl(f"drop view {schema}.{name}", drop_view(schema, name))


def drop_view(schema: str, name: str) -> sql.Composed:
    return _compose("drop_view", view=sql.Identifier(schema, name))


def drop_function_ddl(identity: str) -> Ddl:
    return Ddl(f"drop function {identity}", _compose("drop_function", function=sql.SQL(identity)))


def _compose(query: str, **parts: sql.Composable) -> sql.Composed:
    return compose("target/view", query, **parts)
