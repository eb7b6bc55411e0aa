"""Random migrations of one table: every kind of DDL that can touch a table that is followed."""

import random
from collections.abc import Callable
from functools import partial
from typing import Final

from tests.migrations.rows import Rows
from tests.migrations.steps import Step, nothing
from tests.migrations.tables import TYPES, Column, HistoryTable, Leaf, bounds, names

Make = Callable[[HistoryTable], Step | None]

NEW_TYPES: Final = (
    "integer", "text", "varchar(20)", "timestamptz", "numeric(8,2)", "jsonb", "extensions.citext",
    "mood", "mood[]", "text[]", "short", "pair",
)  # fmt: skip
TEXTUAL: Final = (
    "text",
    "varchar(8)",
    "varchar(20)",
    "varchar(40)",
    'text collate "C"',
    "extensions.citext",
)


class Migrations:
    """Composes DDL of one table; a statement may fail, if it fails without cdc_embed, too."""

    def __init__(self, choice: random.Random, rows: Rows, version: int) -> None:
        self._choice = choice
        self._rows = rows
        self._version = version
        self._anywhere: list[Make] = [
            self.add_column, self.add_text, self.add_metadata, self.add_generated,
            self.drop_other, self.drop_used, self.rename_other, self.rename_used,
            self.rename_key, self.retype_other, self.retype_used, self.retype_key,
            self.another_key, self.key_from_index, self.key_in_two_steps, self.included,
            self.identity, self.identity, self.secure, self.index, self.rewrite,
            self.constrain, self.constrain, self.other_schema, self.rename_table,
            self.drop_and_create, self.within_a_transaction, self.storage, self.child, self.own,
            self.types, self.identity_column, self.expression, self.rename_parts, self.trigger,
            self.revoke,
        ]  # fmt: skip
        self._whole: list[Make] = [self.swap, self.swap, self.unlogged]
        self._parted: list[Make] = [
            self.attach, self.attach, self.detach, self.detach, self.make_leaf, self.drop_leaf,
            self.swap_leaf, self.leaf_identity, self.leaf_logging, self.passing_leaf,
        ]  # fmt: skip

    def step(self, table: HistoryTable) -> Step | None:
        kinds = self._parted * 2 if table.partitioned else self._whole
        return self._choice.choice([*self._anywhere, *kinds])(table)

    def _alter(self, table: HistoryTable, *clauses: str, done: Callable[[], None]) -> Step:
        return Step([f"alter table {table.full_name} {', '.join(clauses)}"], done)

    def _pick(self, columns: list[Column]) -> Column | None:
        return self._choice.choice(columns) if columns else None

    # -- columns -----------------------------------------------------------------------------------

    def _add(self, table: HistoryTable, column: Column) -> Step:
        return self._alter(
            table, f"add column {column.definition}", done=partial(table.columns.append, column)
        )

    def add_column(self, table: HistoryTable) -> Step:
        kind = self._choice.choice(NEW_TYPES)
        rest = ""
        if kind == "integer":
            rest = self._choice.choice(["", "default 5", "default random() * 100 not null"])
        return self._add(table, Column(f"extra_{table.next()}", kind, "other", rest))

    def add_text(self, table: HistoryTable) -> Step | None:
        if len(table.of("text")) > 2:
            return None
        rest = self._choice.choice(["", "default 'a default'"])
        return self._add(table, Column(f"words_{table.next()}", "text", "text", rest))

    def add_metadata(self, table: HistoryTable) -> Step | None:
        if len(table.of("metadata")) > 2:
            return None
        kind = self._choice.choice(NEW_TYPES)
        return self._add(table, Column(f"fact_{table.next()}", kind, "metadata"))

    def add_generated(self, table: HistoryTable) -> Step | None:
        text = self._pick([c for c in table.of("text") if not c.generated])
        if text is None:
            return None
        kinds = ["stored", "stored", "virtual"] if self._version > 17 else ["stored"]
        how = self._choice.choice(kinds)
        rest = f"generated always as (upper({text.name})) {how}"
        return self._add(table, Column(f"made_{table.next()}", "text", "other", rest, True))

    def _drop(self, table: HistoryTable, column: Column) -> Step:
        cascade = " cascade" if self._choice.random() < 0.3 else ""

        def dropped() -> None:
            table.columns.remove(column)
            if cascade:
                table.columns = [c for c in table.columns if f"({column.name})" not in c.rest]

        return self._alter(table, f"drop column {column.name}{cascade}", done=dropped)

    def drop_other(self, table: HistoryTable) -> Step | None:
        column = self._pick(table.of("other"))
        return self._drop(table, column) if column is not None else None

    def drop_used(self, table: HistoryTable) -> Step | None:
        text, metadata = table.of("text"), table.of("metadata")
        column = self._pick([*(text if len(text) > 1 else []), *metadata])
        return self._drop(table, column) if column is not None else None

    def _rename(self, table: HistoryTable, column: Column) -> Step:
        old, new = column.name, f"{column.name.partition('_')[0]}_{table.next()}"

        def renamed() -> None:
            column.name = new
            for other in table.columns:
                other.rest = other.rest.replace(f"({old})", f"({new})")

        return self._alter(table, f"rename column {old} to {new}", done=renamed)

    def rename_other(self, table: HistoryTable) -> Step | None:
        column = self._pick(table.of("other"))
        return self._rename(table, column) if column is not None else None

    def rename_used(self, table: HistoryTable) -> Step | None:
        column = self._pick(table.of("text", "metadata"))
        return self._rename(table, column) if column is not None else None

    def rename_key(self, table: HistoryTable) -> Step:
        return self._rename(table, self._choice.choice(table.key))

    def _retype(self, table: HistoryTable, column: Column | None) -> Step | None:
        if column is None or column.generated or "default" in column.rest:
            return None
        kinds = TYPES.get(column.type, ())
        if column.use == "text":
            kinds = tuple(kind for kind in TEXTUAL if kind != column.type)
        if not kinds:
            return None
        kind = self._choice.choice(kinds)
        plain = kind.partition(" collate")[0]
        return self._alter(
            table,
            f"alter column {column.name} type {kind} using {column.name}::{plain}",
            done=partial(setattr, column, "type", kind),
        )

    def retype_other(self, table: HistoryTable) -> Step | None:
        return self._retype(table, self._pick(table.of("other")))

    def retype_used(self, table: HistoryTable) -> Step | None:
        return self._retype(table, self._pick(table.of("text", "metadata")))

    def retype_key(self, table: HistoryTable) -> Step | None:
        return self._retype(table, self._choice.choice(table.key))

    # -- key and identity --------------------------------------------------------------------------

    def _new_key(self, table: HistoryTable) -> list[Column] | None:
        """Choose the columns of another key; they always include a unique part of the old one."""
        more = [c for c in table.of("other", "metadata") if not c.generated and c.type != "json"]
        more = [c for c in more if "random" not in c.rest]  # the twin has other values
        if len(table.key) > 2 or (len(table.key) > 1 and self._choice.random() < 0.4):
            least = 2 if table.partitioned else 1
            return table.key[: max(least, len(table.key) - 1)]
        column = self._pick(more)
        return [*table.key, column] if column is not None else None

    def _key_set(self, table: HistoryTable, key: list[Column], name: str) -> Callable[[], None]:
        def changed() -> None:
            table.key = key
            table.pkey = name

        return changed

    def another_key(self, table: HistoryTable) -> Step | None:
        key = self._new_key(table)
        if key is None:
            return None
        name = f"key_{table.number}_{table.next()}"
        return self._alter(
            table,
            f"drop constraint {table.pkey}",
            f"add constraint {name} primary key ({names(key)})",
            done=self._key_set(table, key, name),
        )

    def included(self, table: HistoryTable) -> Step | None:
        column = self._pick(table.of("metadata", "other"))
        if column is None or table.partitioned or column.type.startswith("json"):
            return None
        name = f"key_{table.number}_{table.next()}"
        return self._alter(
            table,
            f"drop constraint {table.pkey}",
            f"add constraint {name} primary key ({names(table.key)}) include ({column.name})",
            done=self._key_set(table, list(table.key), name),
        )

    def key_from_index(self, table: HistoryTable) -> Step | None:
        """Swap the key as a migration without downtime does, in one transaction."""
        key = self._new_key(table)
        if key is None or table.partitioned:
            return None
        name = f"key_{table.number}_{table.next()}"
        full = table.full_name
        required = ", ".join(f"alter column {c.name} set not null" for c in key)
        return Step(
            [
                f"alter table {full} {required}",
                f"create unique index {name} on {full} ({names(key)})",
                f"alter table {full} drop constraint {table.pkey}",
                f"alter table {full} add constraint {name} primary key using index {name}",
            ],
            self._key_set(table, key, name),
        )

    def key_in_two_steps(self, table: HistoryTable) -> Step | None:
        """Another key for a column that is made for it."""
        if len(table.key) > 2 or table.partitioned:
            return None
        column = Column(f"part_{table.next()}", "bigint", "other", "not null default 1")
        key = [*table.key, column]
        name = f"key_{table.number}_{table.next()}"
        key_set = self._key_set(table, key, name)

        def done() -> None:
            table.columns.append(column)
            key_set()

        return Step(
            [
                f"alter table {table.full_name} add column {column.definition}",
                f"alter table {table.full_name} drop constraint {table.pkey}",
                f"alter table {table.full_name} add constraint {name} primary key ({names(key)})",
            ],
            done,
        )

    def identity(self, table: HistoryTable) -> Step:
        chosen = self._choice.choice(["default", "default", "full", "full", "nothing", "index"])
        statements = [f"alter table {table.full_name} replica identity {chosen}"]
        if chosen == "index":
            name, key = f"unique_{table.number}_{table.next()}", names(table.key)
            statements = [
                f"create unique index {name} on {table.full_name} ({key})",
                f"alter table {table.full_name} replica identity using index {name}",
            ]
        told_by = tuple(table.key) if chosen == "index" else ()
        return Step(statements, partial(setattr, table, "identity_key", told_by))

    # -- what changes no row -----------------------------------------------------------------------

    def secure(self, table: HistoryTable) -> Step:
        full = table.full_name
        policy = f"p{table.next()}"
        return Step(
            self._choice.choice(
                [
                    [f"alter table {full} enable row level security"],
                    [f"alter table {full} enable row level security",
                     f"alter table {full} force row level security",
                     f"create policy {policy} on {full} using (true)"],
                    [f"alter table {full} disable row level security"],
                    [f"alter table {full} no force row level security"],
                ]
            )
        )  # fmt: skip

    def index(self, table: HistoryTable) -> Step:
        column = self._choice.choice([c for c in table.columns if not c.type.startswith("json")])
        name = f"index_{table.number}_{table.next()}"
        if self._choice.random() < 0.3 and not table.partitioned:
            statement = f"create index concurrently {name} on {table.full_name} ({column.name})"
            return Step([statement], alone=True)
        return Step([f"create index {name} on {table.full_name} ({column.name})"])

    def rewrite(self, table: HistoryTable) -> Step:
        full = table.full_name
        statement = self._choice.choice(
            [f"vacuum full {full}", f"cluster {full} using {table.pkey}", f"vacuum {full}",
             f"reindex table {full}", f"analyze {full}", f"reindex table concurrently {full}"]
        )  # fmt: skip
        return Step([statement], alone=True)

    def constrain(self, table: HistoryTable) -> Step | None:
        column = self._choice.choice(table.columns)
        name = f"check_{table.number}_{table.next()}"
        return self._alter(
            table,
            self._choice.choice(
                [
                    f"add constraint {name} check ({column.name} is not null) not valid",
                    f"alter column {column.name} drop not null",
                    f"alter column {column.name} set statistics 50",
                    f"add constraint {name} unique ({names(table.key)})",
                    f"drop constraint if exists {name}",
                    f"alter column {column.name} drop default",
                ]
            ),
            done=nothing,
        )

    def storage(self, table: HistoryTable) -> Step | None:
        column = self._pick(table.of("text"))
        if column is None:
            return None
        clause = self._choice.choice(["storage external", "storage extended", "compression pglz"])
        return self._alter(table, f"alter column {column.name} set {clause}", done=nothing)

    def own(self, table: HistoryTable) -> Step:
        clauses = ["owner to current_user", "set (fillfactor = 80)", "enable trigger all"]
        return self._alter(table, self._choice.choice(clauses), done=nothing)

    def types(self, _: HistoryTable) -> Step:
        """Change a type, which can be that of columns of several tables."""
        statement = self._choice.choice(
            [
                "alter type mood add value if not exists 'so so'",
                "alter type pair rename attribute word to text",
                "alter type pair rename attribute text to word",
                "alter domain short add constraint some check (value <> 'never') not valid",
                "alter domain short drop constraint if exists some",
                "comment on type mood is 'how it is'",
            ]
        )
        return Step([statement])

    def identity_column(self, table: HistoryTable) -> Step:
        """A number that the server gives, to the rows that are there too."""
        rest = self._choice.choice(
            ["generated by default as identity", "generated always as identity"]
        )
        name = f"serial_{table.next()}"
        return self._add(table, Column(name, "bigint", "other", rest, generated=True))

    def expression(self, table: HistoryTable) -> Step | None:
        column = self._pick(
            [c for c in table.columns if c.rest.startswith("generated always as (")]
        )
        if column is None:
            return None
        if self._version > 16 and self._choice.random() < 0.5:
            source = column.rest[column.rest.rindex("(") + 1 : column.rest.index(")")]
            clause = f"alter column {column.name} set expression as (lower({source}) || '!')"
            return self._alter(table, clause, done=nothing)
        clause = f"alter column {column.name} drop expression"

        def plain() -> None:
            column.rest, column.generated = "", False

        return self._alter(table, clause, done=plain)

    def rename_parts(self, table: HistoryTable) -> Step:
        """Rename the key's constraint, and its index with it."""
        name = f"key_{table.number}_{table.next()}"
        renamed = self._choice.choice(
            [
                f"alter table {table.full_name} rename constraint {table.pkey} to {name}",
                f"alter index {table.schema}.{table.pkey} rename to {name}",
            ]
        )
        return Step([renamed], partial(setattr, table, "pkey", name))

    def trigger(self, table: HistoryTable) -> Step:
        name = f"quick_{table.next()}"
        return Step(
            [
                f"create trigger {name} before update on {table.full_name} "
                "for each row execute function suppress_redundant_updates_trigger()"
            ]
        )

    def revoke(self, table: HistoryTable) -> Step:
        """Take away a right that an owner has by itself; to a superuser it means nothing."""
        return Step([f"revoke select on {table.full_name} from current_user"])

    def child(self, table: HistoryTable) -> Step | None:
        if table.partitioned:
            return None
        name = f"child_{table.number}_{table.next()}"
        return Step([f"create table {name} () inherits ({table.full_name})"])

    # -- the table itself --------------------------------------------------------------------------

    def other_schema(self, table: HistoryTable) -> Step:
        schema = "other" if table.schema == "public" else "public"
        return self._alter(
            table, f"set schema {schema}", done=partial(setattr, table, "schema", schema)
        )

    def rename_table(self, table: HistoryTable) -> Step:
        name = f"{table.name.partition('_')[0]}_{table.next()}"
        return self._alter(table, f"rename to {name}", done=partial(setattr, table, "name", name))

    def drop_and_create(self, table: HistoryTable) -> Step:
        """Make it anew from its definition, as a reset or a failed migration does."""
        old = table.pkey
        statements = [f"drop table {table.full_name} cascade", *table.definition()]
        new, table.pkey = table.pkey, old
        statements += self._rows.insert(table).statements
        return Step(statements, partial(self._made_anew, table, new))

    @staticmethod
    def _made_anew(table: HistoryTable, pkey: str) -> None:
        table.pkey, table.identity_key, table.logged = pkey, (), True

    def swap(self, table: HistoryTable) -> Step:
        """Put a copy in its place, as online migrations do; part of the rows are changed."""
        full, number, old = table.full_name, table.next(), table.pkey
        copy, gone = f"{table.schema}.copy_{number}_{table.number}", f"gone_{number}_{table.number}"
        statements = table.definition(copy)
        new, table.pkey = table.pkey, old
        columns = names([c for c in table.columns if not c.generated])
        statements += [
            f"insert into {copy} ({columns}) select {columns} from {full}",
            *(s.replace(full, copy) for s in self._rows.insert(table).statements),
            f"alter table {full} rename to {gone}",
            f"alter table {copy} rename to {table.name}",
        ]
        if self._choice.random() < 0.6:
            statements.append(f"drop table {table.schema}.{gone} cascade")
        return Step(statements, partial(self._made_anew, table, new))

    def unlogged(self, table: HistoryTable) -> Step:
        now = not table.logged
        return self._alter(
            table,
            "set logged" if now else "set unlogged",
            done=partial(setattr, table, "logged", now),
        )

    def within_a_transaction(self, table: HistoryTable) -> Step | None:
        """Change rows, then the table, then rows again, in one transaction."""
        ddl = self._choice.choice([self.add_column, self.retype_other, self.storage, self.add_text])
        step = ddl(table)
        if step is None:
            return None
        before, after = self._rows.insert(table), self._rows.update_text(table)
        last = after.statements if after is not None else ()
        statements = [*before.statements, *step.statements, *last]
        if self._choice.random() < 0.3:
            return Step(statements, rolled_back=True)
        return Step(statements, step.done)

    # -- partitions --------------------------------------------------------------------------------

    def _free(self, table: HistoryTable) -> Leaf:
        taken = {leaf.lower for leaf in table.leaves if leaf.attached}
        lower = self._choice.choice([n for n in range(0, 800, 100) if n not in taken] or [800])
        return Leaf(f"leaf_{table.number}_{table.next()}", lower, lower + 100)

    def _attached(self, table: HistoryTable) -> Leaf | None:
        leaves = [leaf for leaf in table.leaves if leaf.attached]
        return self._choice.choice(leaves) if len(leaves) > 1 else None

    def attach(self, table: HistoryTable) -> Step:
        """A table that has rows becomes a partition: one that was one before, or a new one."""
        old = [leaf for leaf in table.leaves if not leaf.attached]
        taken = {leaf.lower for leaf in table.leaves if leaf.attached}
        old = [leaf for leaf in old if leaf.lower not in taken]
        if old and self._choice.random() < 0.6:
            leaf = self._choice.choice(old)
            made = [self._rows.fill(table, leaf, 3)] if self._choice.random() < 0.5 else []
            done = partial(setattr, leaf, "attached", True)
        else:
            leaf = self._free(table)
            made = [
                f"create table {leaf.name} (like {table.full_name} including all)",
                self._rows.fill(table, leaf, self._choice.choice([0, 4, 60])),
            ]
            done = partial(table.leaves.append, leaf)
        attach = f"alter table {table.full_name} attach partition {leaf.name} {bounds(leaf)}"
        return Step([*made, attach], done)

    def detach(self, table: HistoryTable) -> Step | None:
        leaf = self._attached(table)
        if leaf is None:
            return None
        statement = f"alter table {table.full_name} detach partition {leaf.name}"
        done = partial(setattr, leaf, "attached", False)
        if self._choice.random() < 0.3:
            return Step([f"{statement} concurrently"], done, alone=True)
        return Step([statement], done)

    def make_leaf(self, table: HistoryTable) -> Step:
        leaf = self._free(table)
        count = self._choice.choice([0, 5, 40])
        return Step(
            [table.make_leaf(leaf), self._rows.fill(table, leaf, count)],
            partial(table.leaves.append, leaf),
        )

    def drop_leaf(self, table: HistoryTable) -> Step | None:
        leaf = self._attached(table)
        if leaf is None:
            return None
        return Step([f"drop table {leaf.name}"], partial(table.leaves.remove, leaf))

    def passing_leaf(self, table: HistoryTable) -> Step:
        """A partition that is made, filled and dropped between two looks at the catalogue."""
        leaf = self._free(table)
        how = self._choice.choice(
            [
                f"drop table {leaf.name}",
                f"alter table {table.full_name} detach partition {leaf.name}",
                f"truncate {leaf.name}",
            ]
        )
        done = partial(table.leaves.append, leaf) if how.startswith("truncate") else nothing
        statements = [table.make_leaf(leaf), self._rows.fill(table, leaf, 5), how]
        return Step(statements, done, apart=True)

    def swap_leaf(self, table: HistoryTable) -> Step | None:
        """Another table takes a partition's place, its name and its bounds."""
        leaf = self._attached(table)
        if leaf is None:
            return None
        old = f"old_{table.number}_{table.next()}"
        return Step(
            [
                f"alter table {table.full_name} detach partition {leaf.name}",
                f"alter table {leaf.name} rename to {old}",
                f"create table {leaf.name} (like {table.full_name} including all)",
                self._rows.fill(table, leaf, 5),
                f"alter table {table.full_name} attach partition {leaf.name} {bounds(leaf)}",
            ]
        )

    def leaf_identity(self, table: HistoryTable) -> Step | None:
        leaf = self._attached(table)
        if leaf is None:
            return None
        identity = self._choice.choice(["full", "default", "nothing"])
        return Step([f"alter table {leaf.name} replica identity {identity}"])

    def leaf_logging(self, table: HistoryTable) -> Step | None:
        leaf = self._attached(table)
        if leaf is None:
            return None
        return Step([f"alter table {leaf.name} set {self._choice.choice(['unlogged', 'logged'])}"])
