"""The part of ``setup`` for tables of vectors: create, rename, change columns and keys, rebuild.

Vectors are kept as long as they are right: after a rename of the source, with another key or other
metadata, with another text or chunk size (vectors of the same model stay comparable, and are
replaced row by row). Only another model or prompt empties a table, because its vectors must never
be compared with the new ones.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from cdc_embed.change.document import Table
from cdc_embed.embed.base import ModelCard
from cdc_embed.errors import PreflightError
from cdc_embed.finding import Finding
from cdc_embed.postgres.ddl import Ddl, OnWait
from cdc_embed.setup.agreement import expect_key
from cdc_embed.setup.connections import Connections, expect_comparable, space_of
from cdc_embed.setup.names import expect_free_shadow
from cdc_embed.setup.ownership import expect_free, is_ours, other_source
from cdc_embed.setup.relations import Relations
from cdc_embed.setup.shadow import all_rows, rehearse
from cdc_embed.target.checks import vector_extension
from cdc_embed.target.index import builds_of, has_index, with_spare_memory
from cdc_embed.target.ledger import compare_again_ddl
from cdc_embed.target.registry import (
    NOT_STORED,
    Registered,
    Space,
    VectorTable,
    vector_tables,
)
from cdc_embed.target.renamed import rename_back_ddl
from cdc_embed.target.schema import (
    drop_ddl,
    forget_comparison_ddl,
    register_ddl,
    set_logged_ddl,
    space_ddl,
    vector_type,
)
from cdc_embed.target.shadow import Shadow
from cdc_embed.target.vectors import (
    TableChange,
    alter_columns,
    chunk_row_ddl,
    create_ddl,
    fence_ddl,
    hnsw_ddl,
    is_of_form,
    refer_to_spaces_ddl,
    rename_ddl,
    rename_key_ddl,
    restore_columns_ddl,
    retype_ddl,
    shadow_name,
    swap_ddl,
)


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
        self._stored = vector_tables(databases.target, self._schema)
        installed = vector_extension(databases.target)
        self._extension_schema = installed[1] if installed else "public"
        self._vector_type = vector_type(
            databases.config.index, card.dimensions, self._extension_schema
        )
        self.alone = False
        """Whether vectors are dropped or made again, so that no service may write the old ones
        meanwhile."""
        self.refused: list[Finding] = []
        """The reasons why tables are left as they are, each for one table alone."""

    def ddl(self, tables: Iterable[Table]) -> list[Ddl]:
        """Return the statements of all tables, in order."""
        return [ddl for table in tables for ddl in self._unless_refused(table)]

    def _unless_refused(self, table: Table) -> list[Ddl]:
        alone = self.alone
        try:
            return [replace(ddl, table=table.full_name) for ddl in self._table(table)]
        except PreflightError as exc:
            if not exc.fields.get("table"):
                raise
            self.alone = alone
            name = table.full_name
            refused = Finding(id="table", ok=False, message=str(exc), fix=exc.hint, table=name)
            self.refused.append(refused)
            return []

    def _table(self, table: Table) -> list[Ddl]:
        known = self._known.get(table.full_name) or self._former(table)
        if known is not None:
            expect_free(self._databases, table, known, takes_over=self._rebuild)
        self._expect_own(table, known)
        space = space_of(self._card, table)
        change = TableChange()
        self._change_vectors(table, known, space, change)
        name = (known or table).embedding_table
        change.before[:0] = rename_back_ddl(self._databases.target, self._schema, name)
        if known is not None and (change.before or change.together):
            builds = builds_of(self._databases.target, self._schema, [known.embedding_table])
            change.before[:0] = builds.values()
        if known is not None and (known.source_oid != table.oid or self._is_elsewhere(known)):
            change.together.append(forget_comparison_ddl(self._schema, table))
        elif known is not None and self._has_missed(table, known):
            change.together.append(compare_again_ddl(self._schema, table))
        if not self._is_registered(table, known, space):
            source = self._databases.catalogue.identity()
            change.together.append(space_ddl(self._schema, space))
            change.together.append(register_ddl(self._schema, table, space, self._slot, source))
        relations = Relations(
            databases=self._databases,
            table=table,
            known=known,
            stored=self._stored.get((known or table).embedding_table, NOT_STORED),
            vector_type=self._vector_type,
        )
        return relations.ddl(change)

    # -- the table of vectors ----------------------------------------------------------------------

    def _change_vectors(
        self, table: Table, known: Registered | None, space: Space, change: TableChange
    ) -> None:
        """Add the statements that create the table of vectors, or change it to the configured
        one."""
        name = table.embedding_table if known is None else known.embedding_table
        stored = self._stored.get(name, NOT_STORED)
        if known is not None:
            self._rename(table, known, change)
            self._change_space(table, known, space, change)
            lost = bool(stored.columns) and "embedding" not in stored.columns
            if lost:  # with pgvector itself, which was dropped
                self.alone = True
                change.together.append(forget_comparison_ddl(self._schema, table))
            if lost or self._is_emptied(known, space):
                create = create_ddl(self._schema, table, self._vector_type)
                if stored.columns:
                    why = f"make the table of vectors of {table.full_name} anew"
                    drop = drop_ddl(self._schema, table.embedding_table, why)
                    change.together_without_view([drop, *create])
                    change.makes_anew = True
                else:
                    change.before += create
                return
        if not stored.columns:
            change.before += create_ddl(self._schema, table, self._vector_type)
            return
        expect_key(self._schema, table, name, stored)
        space_id = known.space_id if known is not None else 0
        restored = restore_columns_ddl(self._schema, table, stored, space_id)
        if not stored.logged:  # a crash can have emptied it
            restored.append(set_logged_ddl(self._schema, name))
        if not stored.refers_to_spaces:
            change.before.append(refer_to_spaces_ddl(self._schema, table))
        if restored:
            change.before[:0] = restored
            change.together.append(forget_comparison_ddl(self._schema, table))
        if self._fits(table, stored) and not self._opens(table, known):
            self._alter(table, known, stored, change)
        else:
            self._replace(table, known, stored, change)

    def _fits(self, table: Table, stored: VectorTable) -> bool:
        """Return whether names and lengths are all that differs, in the key and in the metadata.

        The caller has found out whether other names are a renaming.
        """
        wanted = {column.name: column.type for column in table.stored_columns}
        same = all(is_of_form(stored.columns.get(n, kind), kind) for n, kind in wanted.items())
        return same and list(stored.key) == [column.name for column in table.key]

    def _opens(self, table: Table, known: Registered | None) -> bool:
        """Return whether readers would see the vectors of other rows until all are compared.

        They would, under row level security, when other columns or another table have the names,
        because the rows that a reader sees are found by key values that the vectors are not stored
        by.
        """
        if known is None or not (table.row_security and self._databases.config.target_is_source):
            return False
        same_key = known.key_columns in {(), table.key_numbers}
        return known.source_oid != table.oid or not same_key

    def _alter(
        self, table: Table, known: Registered | None, stored: VectorTable, change: TableChange
    ) -> None:
        if "chunk_row" not in stored.columns:
            self.alone = True
            change.together_without_view(chunk_row_ddl(self._schema, table))
        former = known.metadata if known is not None else ()
        kept = {column.name for column in table.stored_columns} & stored.columns.keys()
        types = {column.name: column.type for column in table.stored_columns}
        if alter_columns(self._schema, table, stored.columns, former, change):
            change.together.append(forget_comparison_ddl(self._schema, table))
        if any(stored.columns[name] != types[name] for name in kept):
            change.together.append(fence_ddl(self._schema, self._slot))
        wanted = self._vector_type
        if stored.columns["embedding"].rpartition(".")[2] != wanted.rpartition(".")[2]:
            self.alone = True
            change.together_without_view(retype_ddl(self._schema, table, wanted))

    def _replace(
        self, table: Table, known: Registered | None, stored: VectorTable, change: TableChange
    ) -> None:
        """Change the key, or the types of metadata. Rename the key, or make a shadow."""
        renamed = self._after_renaming(table, known, stored)
        if renamed is not None and self._fits(table, renamed):
            change.together += rename_key_ddl(self._schema, table, stored)
            change.renamed = dict(zip(stored.key, renamed.key, strict=True))
            self._alter(table, known, renamed, change)
        else:
            self._make_shadow(table, known, stored, change)
        change.together.append(compare_again_ddl(self._schema, table))
        change.together.append(fence_ddl(self._schema, self._slot))

    def _after_renaming(
        self, table: Table, known: Registered | None, stored: VectorTable
    ) -> VectorTable | None:
        """Return the stored columns with their new names; None when the key is another one."""
        if known is None or known.source_oid != table.oid or known.key_columns != table.key_numbers:
            return None
        names = dict(zip(stored.key, (column.name for column in table.key), strict=True))
        return replace(
            stored,
            columns={names.get(name, name): kind for name, kind in stored.columns.items()},
            key={names[name]: kind for name, kind in stored.key.items()},
        )

    def _make_shadow(
        self, table: Table, known: Registered | None, stored: VectorTable, change: TableChange
    ) -> None:
        databases, index = self._databases, self._databases.config.index
        expect_free_shadow(databases, table)
        shadow = Shadow(
            schema=self._schema,
            table=table,
            stored=stored,
            space=known.space_id if known is not None else 0,
            vector_type=self._vector_type,
        )

        def fill(on_wait: OnWait) -> None:
            assert change.at_once is not None, "the table is made anew"
            rehearse(databases.target, shadow, change.at_once, on_wait)
            shadow.fill(databases.target, all_rows(databases.rows, table))

        change.before += [shadow.create_ddl(), replace(shadow.fill_ddl(), work=fill)]
        name = known.embedding_table if known is not None else table.embedding_table
        if index.kind != "none" and has_index(databases.target, self._schema, name):
            built = hnsw_ddl(self._schema, table, index, self._extension_schema, shadow_name(table))
            change.before.append(with_spare_memory(databases.target, built))
        change.together_without_view(swap_ddl(self._schema, table))
        change.makes_anew = True

    def _is_registered(self, table: Table, registered: Registered | None, space: Space) -> bool:
        return registered is not None and (
            registered.table_name,
            registered.embedding_table,
            registered.source_oid,
            set(registered.metadata),
            registered.search_view,
            registered.slot,
            registered.key_columns,
            registered.space,
        ) == (
            table.full_name,
            table.embedding_table,
            table.oid,
            {column.name for column in table.metadata},
            table.search_view,
            self._slot,
            table.key_numbers,
            space,
        )

    def _former(self, table: Table) -> Registered | None:
        """Return the same source table under its former name; with ``rebuild`` also another one
        whose place it takes, because its table of vectors is configured."""
        configured = {entry.full_name for entry in self._databases.config.tables}
        left = [r for r in self._known.values() if r.table_name not in configured]
        ours = [r for r in left if not self._is_elsewhere(r)]
        same = [r for r in ours if r.source_oid == table.oid]
        replaced = [r for r in ours if r.embedding_table == table.embedding_table]
        if self._rebuild and replaced and not same:
            self.alone = True
            return replaced[0]
        return same[0] if same else None

    def _is_elsewhere(self, known: Registered) -> bool:
        databases = self._databases
        return not is_ours(databases, known) and other_source(databases, known.slot) is not None

    def _rename(self, table: Table, known: Registered, change: TableChange) -> None:
        names = (known.table_name, known.embedding_table, known.search_view)
        if names != (table.full_name, table.embedding_table, table.search_view):
            change.before.append(rename_ddl(self._schema, table, known))

    def _has_missed(self, table: Table, known: Registered) -> bool:
        """Return whether changes of the table can have been missed.

        The slot is new or was another's, or the table's changes were undelivered for a while.
        """
        return known.slot != self._slot or table.full_name in self._undelivered

    def _is_emptied(self, registered: Registered, space: Space) -> bool:
        return registered.space != space and not space.is_comparable(registered.space)

    def _change_space(
        self, table: Table, registered: Registered, space: Space, change: TableChange
    ) -> None:
        if space == registered.space:
            return
        if not self._rebuild:
            expect_comparable(self._databases, self._stored, registered, space)
        self.alone = True
        change.together.append(forget_comparison_ddl(self._schema, table))

    def _expect_own(self, table: Table, known: Registered | None) -> None:
        """Raise when another source table has this table of vectors."""
        for other in self._known.values():
            if other is not known and other.embedding_table == table.embedding_table:
                raise PreflightError(
                    where=f"table {table.full_name}",
                    problem=f"its embedding table, {self._schema}.{table.embedding_table}, is "
                    f"used by {other.table_name}",
                    hint=f"if {table.full_name} takes the place of {other.table_name}, remove that "
                    "one from the configuration, stop the service and run: cdc-embed setup "
                    "--rebuild (equal texts keep their vectors); else set another embedding_table",
                )
