"""The part of ``setup`` that changes the search view and the table of vectors together.

One transaction drops them, makes them anew, and puts back what the application gave them, so that
no search fails in between. If there is something that cannot be put back, nothing is changed.
"""

from dataclasses import dataclass

from cdc_embed.change.document import Table
from cdc_embed.config.table import OUR_COLUMNS
from cdc_embed.errors import PreflightError
from cdc_embed.postgres.ddl import Ddl
from cdc_embed.setup.connections import Connections
from cdc_embed.target.kept import Altered, change_relations, find_lost
from cdc_embed.target.registry import Registered, VectorTable
from cdc_embed.target.schema import register_view
from cdc_embed.target.vectors import TableChange, index_names, joined
from cdc_embed.target.view import SearchView


@dataclass(frozen=True, slots=True, kw_only=True)
class Relations:
    """The search view and the table of vectors of one source table, as they are now."""

    databases: Connections
    table: Table
    known: Registered | None
    stored: VectorTable
    vector_type: str

    def ddl(self, change: TableChange) -> list[Ddl]:
        """Return all statements of a table, first those beside it, then the others at once."""
        table, schema = self.table, self.databases.config.target.schema
        view = SearchView(
            self.databases.target,
            schema,
            table,
            known=self.known,
            one_database=self.databases.config.target_is_source,
        )
        view.rename(change.renamed)
        again = view.exists and (change.view_goes or not view.replaceable)
        if not again and not change.together and view.is_right():
            return change.before
        whys = [ddl.why for ddl in change.together]
        statements = [ddl.statement for ddl in change.together]
        if again or change.makes_anew or view.state.irreplaceable:
            self._expect_nothing_lost(change, view)
        if again:
            statements[:0] = view.make_way()
        made = again or not view.is_right()
        if made:
            whys.append(f"create the search view of {table.full_name}")
            statements += view.statements(again=again)
            statements.append(register_view(schema, table, view.definition(again=again)))
        why = ", ".join(whys)
        changed = [table.search_view] if view.exists and made else []
        changed += [table.embedding_table] if change.makes_anew else []
        if not changed:
            return [*change.before, joined(why, statements)]
        indexes = index_names(table.embedding_table)
        change.at_once = Ddl(why, change_relations(schema, changed, statements, indexes))
        return [*change.before, change.at_once]

    def _expect_nothing_lost(self, change: TableChange, view: SearchView) -> None:
        """Raise when the application has something here that cannot be put back."""
        found = find_lost(
            self.databases.target,
            self.databases.config.target.schema,
            self._altered(change, view),
            functions=view.functions,
            indexes=index_names((self.known or self.table).embedding_table),
        )
        if not found:
            return
        listed = ", ".join(found)
        raise PreflightError(
            where=f"table {self.table.full_name}",
            problem="setup must make its search view or its table of vectors anew, and cannot put "
            f"back what depends on them: {listed}",
            hint=f"drop {listed}, run: cdc-embed setup, and create "
            f"{'it' if len(found) == 1 else 'them'} again",
            table=self.table.full_name,
        )

    def _altered(self, change: TableChange, view: SearchView) -> list[Altered]:
        """Return both relations, with the columns that they keep, by their present names."""
        known, columns = self.known, self.stored.columns
        former = {new: old for old, new in change.renamed.items()}
        wanted = {former.get(c.name, c.name): c.type for c in self.table.stored_columns}
        retyped = {name for name in wanted.keys() & columns.keys() if columns[name] != wanted[name]}
        if columns.get("embedding", "").rpartition(".")[2] != self.vector_type.rpartition(".")[2]:
            retyped.add("embedding")
        own = OUR_COLUMNS | self.stored.key.keys() | set(known.metadata if known else ())
        search_view = known.search_view if known is not None else None
        return [
            Altered(
                name=search_view or self.table.search_view,
                anew=True,
                columns=[former.get(name, name) for name in view.columns],
            ),
            Altered(
                name=(known or self.table).embedding_table,
                anew=change.makes_anew,
                columns=OUR_COLUMNS | wanted.keys(),
                known=own,
                retyped=() if change.makes_anew else retyped,
            ),
        ]
