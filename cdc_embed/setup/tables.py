"""``setup``'s part for the tables of vectors: what is missing, renamed, added, or to be rebuilt.

Vectors are kept wherever they stay right: a renamed source, other metadata, another text or chunk
size (the same model's vectors stay comparable, and are replaced row by row). Only another model or
prompt empties a table, because its vectors must never be compared with the new ones.
"""

from collections.abc import Collection, Iterable, Mapping

from psycopg2 import sql

from cdc_embed.change.document import Table
from cdc_embed.embed.base import CHARACTERS_PER_TOKEN, ModelCard
from cdc_embed.errors import PreflightError, SpaceMismatchError
from cdc_embed.setup.connections import Connections, space_of
from cdc_embed.setup.ownership import expect_free, is_ours, other_source
from cdc_embed.target.ledger import compare_again
from cdc_embed.target.schema import (
    Registered,
    Space,
    Step,
    column_steps,
    columns_of,
    compose,
    create_steps,
    index_name,
    register_step,
    space_step,
    stored_size,
    vector_type,
)
from cdc_embed.target.view import drop_view_step, view_steps


class TablePlanner:
    """Gives the missing steps of each configured table."""

    def __init__(
        self,
        databases: Connections,
        card: ModelCard,
        *,
        extension_schema: str,
        known: Mapping[str, Registered],
        undelivered: Collection[str],
        rebuild: bool,
    ) -> None:
        self._databases = databases
        self._card = card
        self._extension_schema = extension_schema
        self._known = known
        self._undelivered = undelivered
        self._rebuild = rebuild
        self._schema = databases.config.target.schema
        self._slot = databases.config.source.slot
        self._without_view = False
        self.alone = False
        """Vectors are dropped or made again: no service may write the old ones meanwhile."""

    def steps(self, tables: Iterable[Table]) -> list[Step]:
        configured = list(tables)
        names = {table.full_name for table in configured}
        return [step for table in configured for step in self._table(table, names)]

    def _table(self, table: Table, configured: set[str]) -> list[Step]:
        known = self._known.get(table.full_name) or self._former(table, configured)
        if known is not None:
            expect_free(self._databases, table, known, takes_over=self._rebuild)
        self._expect_own(table, known)
        space = space_of(self._card, table)
        steps: list[Step] = []
        self._without_view = False
        existing: dict[str, str] = {}
        if known is None:
            existing = columns_of(self._databases.target, self._schema, table.embedding_table)
        else:
            steps += self._rename(table, known)
            existing = columns_of(self._databases.target, self._schema, known.embedding_table)
            if existing:
                self._check_key(table, existing)
            steps += self._change_space(table, known, space)
            if self._is_emptied(known, space):
                existing = {}
        if existing:
            steps += self._change_columns(table, known, existing)
            steps += self._retype(table, space, existing)
        else:
            index = self._databases.config.index
            steps += create_steps(self._schema, table, space, index, self._extension_schema)
        if known is not None and (known.source_oid != table.oid or self._is_elsewhere(known)):
            steps.append(self._forget_comparison(table))
        elif known is not None and self._has_missed(table, known):
            steps.append(self._compare_again(table))
        if not self._is_registered(table, known, space):
            steps.append(space_step(self._schema, space))
            steps.append(register_step(self._schema, table, space, self._slot))
        one_database = self._databases.config.target_is_source
        return steps + view_steps(
            self._databases.target,
            self._schema,
            table,
            one_database=one_database,
            again=self._without_view,
        )

    def _drop_view(self, name: str | None) -> list[Step]:
        if not name:
            return []
        self._without_view = True
        return [drop_view_step(self._schema, name)]

    def _change_columns(
        self, table: Table, known: Registered | None, existing: Mapping[str, str]
    ) -> list[Step]:
        former = known.metadata if known is not None else ()
        steps = column_steps(self._schema, table, existing, former)
        if not steps:
            return []
        view = known.search_view if known is not None else None
        return [*self._drop_view(view), *steps, self._forget_comparison(table)]

    def _is_registered(self, table: Table, registered: Registered | None, space: Space) -> bool:
        return registered is not None and (
            registered.table_name,
            registered.embedding_table,
            registered.source_oid,
            set(registered.metadata),
            registered.search_view,
            registered.slot,
            registered.space,
        ) == (
            table.full_name,
            table.embedding_table,
            table.oid,
            {column.name for column in table.metadata},
            table.search_view,
            self._slot,
            space,
        )

    def _former(self, table: Table, configured: set[str]) -> Registered | None:
        """The same source table under the name that it had before."""
        found = (r for r in self._known.values() if r.source_oid == table.oid)
        former = (r for r in found if r.table_name not in configured)
        return next((r for r in former if not self._is_elsewhere(r)), None)

    def _is_elsewhere(self, known: Registered) -> bool:
        databases = self._databases
        return not is_ours(databases, known) and other_source(databases, known.slot) is not None

    def _rename(self, table: Table, known: Registered) -> list[Step]:
        names = (known.table_name, known.embedding_table, known.search_view)
        if names == (table.full_name, table.embedding_table, table.search_view):
            return []
        parts = {
            "schema": sql.Identifier(self._schema),
            "table_name": sql.Literal(table.full_name),
            "embedding_table": sql.Literal(table.embedding_table),
            "former": sql.Literal(known.table_name),
        }
        why = f"{known.table_name} is now {table.full_name}"
        steps = self._drop_view(known.search_view)
        if known.embedding_table != table.embedding_table:
            rename = compose(
                "rename_table",
                table=sql.Identifier(self._schema, known.embedding_table),
                name=sql.Identifier(table.embedding_table),
            )
            steps.append((f"{known.embedding_table} is now {table.embedding_table}", rename))
            steps += [self._rename_index(table, known, kind) for kind in ("hash", "hnsw")]
        return [
            *steps,
            (why, compose("rename_source", **parts)),
            (f"{why}: its dead letters", compose("rename_letters", **parts)),
        ]

    def _has_missed(self, table: Table, known: Registered) -> bool:
        """Whether changes of the table may have been missed: the slot is new or was another's, or
        it was not published for a while."""
        return known.slot != self._slot or table.full_name in self._undelivered

    def _compare_again(self, table: Table) -> Step:
        """Nobody has to be asked for it: what was missed would have been embedded."""
        again = compare_again(self._schema, [table.full_name], None)
        return f"compare every row of {table.full_name}", again

    def _forget_comparison(self, table: Table) -> Step:
        """As with a new table, a large one may have to be asked for."""
        forget = compose(
            "forget_comparison",
            schema=sql.Identifier(self._schema),
            table_name=sql.Literal(table.full_name),
        )
        return f"compare every row of {table.full_name}", forget

    def _rename_index(self, table: Table, known: Registered, kind: str) -> Step:
        former, name = (
            index_name(relation, kind)
            for relation in (known.embedding_table, table.embedding_table)
        )
        rename = compose(
            "rename_index",
            index=sql.Identifier(self._schema, former),
            name=sql.Identifier(name),
        )
        return f"{former} is now {name}", rename

    def _is_emptied(self, registered: Registered, space: Space) -> bool:
        return registered.space != space and not space.is_comparable(registered.space)

    def _change_space(self, table: Table, registered: Registered, space: Space) -> list[Step]:
        difference = space.difference(registered.space)
        if not difference:
            return []
        if not self._rebuild:
            rows, characters = stored_size(
                self._databases.target, self._schema, registered.embedding_table
            )
            raise SpaceMismatchError(
                table=table.full_name,
                rows=rows,
                difference=f"stored: {difference}",
                tokens=characters // CHARACTERS_PER_TOKEN,
            )
        self.alone = True
        steps = [self._forget_comparison(table)]
        if self._is_emptied(registered, space):
            steps += self._drop_view(table.search_view)
            drop = compose("drop_table", table=sql.Identifier(self._schema, table.embedding_table))
            steps.append((f"drop the vectors of {registered.space.model}", drop))
        return steps

    def _retype(self, table: Table, space: Space, existing: Mapping[str, str]) -> list[Step]:
        """Between vector and halfvec: the vectors stay, their index is made again."""
        wanted = vector_type(self._databases.config.index, space.dimensions, self._extension_schema)
        if existing["embedding"].rpartition(".")[2] == wanted.rpartition(".")[2]:
            return []
        self.alone = True
        name = sql.Identifier(self._schema, table.embedding_table)
        retype = compose("retype_vectors", table=name, vector_type=sql.SQL(wanted))
        return [
            *self._drop_view(table.search_view),
            (
                f"drop the index of {table.embedding_table}, it is made again",
                compose(
                    "drop_index",
                    index=sql.Identifier(self._schema, index_name(table.embedding_table, "hnsw")),
                ),
            ),
            (f"keep the vectors of {table.full_name} as {wanted}", retype),
        ]

    def _expect_own(self, table: Table, known: Registered | None) -> None:
        """Raise when the table of vectors is another source table's."""
        for other in self._known.values():
            if other is not known and other.embedding_table == table.embedding_table:
                raise PreflightError(
                    where=f"table {table.full_name}",
                    problem=f"its table of vectors, {self._schema}.{table.embedding_table}, is "
                    f"that of {other.table_name}",
                    hint="set another embedding_table",
                )

    def _check_key(self, table: Table, existing: Mapping[str, str]) -> None:
        stored = list(existing.items())[: len(table.key)]
        if stored != [(column.name, column.type) for column in table.key]:
            was = ", ".join(f"{column} {kind}" for column, kind in stored)
            now = ", ".join(f"{column.name} {column.type}" for column in table.key)
            raise PreflightError(
                where=f"table {table.full_name}",
                problem=f"its primary key is ({now}), its vectors are stored by ({was})",
                hint="put the key back, or start over: cdc-embed teardown && cdc-embed setup",
            )
