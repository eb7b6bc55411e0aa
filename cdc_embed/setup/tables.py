"""The part of ``setup`` for tables of vectors: create, rename, add columns, rebuild.

Vectors are kept as long as they are right: after a rename of the source, with other metadata, with
another text or chunk size (vectors of the same model stay comparable, and are replaced row by row).
Only another model or prompt empties a table, because its vectors must never be compared with the
new ones.
"""

from collections.abc import Collection, Iterable, Mapping

from cdc_embed.change.document import Table
from cdc_embed.embed.base import CHARACTERS_PER_TOKEN, ModelCard
from cdc_embed.errors import PreflightError, SpaceMismatchError
from cdc_embed.postgres.ddl import Ddl
from cdc_embed.setup.connections import Connections, space_of
from cdc_embed.setup.ownership import expect_free, is_ours, other_source
from cdc_embed.target.checks import vector_extension
from cdc_embed.target.ledger import compare_again_ddl
from cdc_embed.target.registry import Registered, Space, columns_of, stored_size
from cdc_embed.target.schema import (
    chunk_row_ddl,
    column_ddl,
    create_ddl,
    drop_ddl,
    forget_comparison_ddl,
    register_ddl,
    rename_ddl,
    retype_ddl,
    space_ddl,
    vector_type,
)
from cdc_embed.target.view import drop_view_ddl, view_ddl


class TablePlanner:
    """Composes the missing statements of each configured table."""

    def __init__(
        self,
        databases: Connections,
        card: ModelCard,
        *,
        known: Mapping[str, Registered],
        undelivered: Collection[str],
        rebuild: bool,
    ) -> None:
        self._databases = databases
        self._card = card
        self._known = known
        self._undelivered = undelivered
        self._rebuild = rebuild
        self._schema = databases.config.target.schema
        self._slot = databases.config.source.slot
        installed = vector_extension(databases.target)
        self._vector_type = vector_type(
            databases.config.index, card.dimensions, installed[1] if installed else "public"
        )
        self._without_view = False
        self.alone = False
        """Vectors are dropped or made again, so no service may write the old ones meanwhile."""

    def ddl(self, tables: Iterable[Table]) -> list[Ddl]:
        """Return the statements of all tables, in order."""
        configured = list(tables)
        names = {table.full_name for table in configured}
        return [ddl for table in configured for ddl in self._table(table, names)]

    def _table(self, table: Table, configured: set[str]) -> list[Ddl]:
        known = self._known.get(table.full_name) or self._former(table, configured)
        if known is not None:
            expect_free(self._databases, table, known, takes_over=self._rebuild)
        self._expect_own(table, known)
        space = space_of(self._card, table)
        self._without_view = False
        found = self._vectors(table, known, space)
        if known is not None and (known.source_oid != table.oid or self._is_elsewhere(known)):
            found.append(forget_comparison_ddl(self._schema, table))
        elif known is not None and self._has_missed(table, known):
            found.append(compare_again_ddl(self._schema, table))
        if not self._is_registered(table, known, space):
            found.append(space_ddl(self._schema, space))
            found.append(register_ddl(self._schema, table, space, self._slot))
        return found + view_ddl(
            self._databases.target,
            self._schema,
            table,
            one_database=self._databases.config.target_is_source,
            again=self._without_view,
        )

    def _vectors(self, table: Table, known: Registered | None, space: Space) -> list[Ddl]:
        """Return the statements that create the table of vectors, or change it to the configured
        one."""
        found: list[Ddl] = []
        if known is None:
            existing = columns_of(self._databases.target, self._schema, table.embedding_table)
        else:
            found += self._rename(table, known)
            existing = columns_of(self._databases.target, self._schema, known.embedding_table)
            if existing:
                self._check_key(table, existing)
            found += self._change_space(table, known, space)
            if self._is_emptied(known, space):
                existing = {}
        if not existing:
            return found + create_ddl(self._schema, table, self._vector_type)
        found += self._number(table, known, existing)
        found += self._change_columns(table, known, existing)
        return found + self._retype(table, existing)

    def _drop_view(self, name: str | None) -> list[Ddl]:
        if not name:
            return []
        self._without_view = True
        return [drop_view_ddl(self._schema, name)]

    def _change_columns(
        self, table: Table, known: Registered | None, existing: Mapping[str, str]
    ) -> list[Ddl]:
        former = known.metadata if known is not None else ()
        changes = column_ddl(self._schema, table, existing, former)
        if not changes:
            return []
        view = known.search_view if known is not None else None
        return [*self._drop_view(view), *changes, forget_comparison_ddl(self._schema, table)]

    def _number(
        self, table: Table, known: Registered | None, existing: Mapping[str, str]
    ) -> list[Ddl]:
        if "chunk_row" in existing:
            return []
        self.alone = True
        view = self._drop_view(known.search_view) if known is not None else []
        return [*view, *chunk_row_ddl(self._schema, table)]

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
        """Return the same source table under its former name."""
        found = (r for r in self._known.values() if r.source_oid == table.oid)
        former = (r for r in found if r.table_name not in configured)
        return next((r for r in former if not self._is_elsewhere(r)), None)

    def _is_elsewhere(self, known: Registered) -> bool:
        databases = self._databases
        return not is_ours(databases, known) and other_source(databases, known.slot) is not None

    def _rename(self, table: Table, known: Registered) -> list[Ddl]:
        names = (known.table_name, known.embedding_table, known.search_view)
        if names == (table.full_name, table.embedding_table, table.search_view):
            return []
        return [*self._drop_view(known.search_view), *rename_ddl(self._schema, table, known)]

    def _has_missed(self, table: Table, known: Registered) -> bool:
        """Return whether changes of the table can have been missed.

        The slot is new or was another's, or the table's changes were undelivered for a while.
        """
        return known.slot != self._slot or table.full_name in self._undelivered

    def _is_emptied(self, registered: Registered, space: Space) -> bool:
        return registered.space != space and not space.is_comparable(registered.space)

    def _change_space(self, table: Table, registered: Registered, space: Space) -> list[Ddl]:
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
        found = [forget_comparison_ddl(self._schema, table)]
        if self._is_emptied(registered, space):
            found += self._drop_view(table.search_view)
            why = f"drop the vectors of {registered.space.model}"
            found.append(drop_ddl(self._schema, table.embedding_table, why))
        return found

    def _retype(self, table: Table, existing: Mapping[str, str]) -> list[Ddl]:
        """Return the statements between vector and halfvec: the vectors stay, their index is made
        again."""
        stored, wanted = existing["embedding"], self._vector_type
        if stored.rpartition(".")[2] == wanted.rpartition(".")[2]:
            return []
        self.alone = True
        view = self._drop_view(table.search_view)
        return [*view, *retype_ddl(self._schema, table, wanted)]

    def _expect_own(self, table: Table, known: Registered | None) -> None:
        """Raise when another source table has this table of vectors."""
        for other in self._known.values():
            if other is not known and other.embedding_table == table.embedding_table:
                raise PreflightError(
                    where=f"table {table.full_name}",
                    problem=f"its embedding table, {self._schema}.{table.embedding_table}, is "
                    f"used by {other.table_name}",
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
