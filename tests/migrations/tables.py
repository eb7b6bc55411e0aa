"""The tables of a history with DDL: their forms at the start, and what has become of them.

A ``HistoryTable`` follows its table through every statement that succeeded. It knows the
configuration that its user wants, not what cdc_embed makes of it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

TYPES: Final = {
    "integer": ("bigint", "text", "numeric"),
    "bigint": ("numeric", "text"),
    "varchar(8)": ("varchar(20)", "text"),
    "varchar(20)": ("text", "varchar(40)"),
    "varchar(40)": ("text",),
    "text": ("varchar(40)", 'text collate "C"'),
    'text collate "C"': ("text",),
    "numeric(8,2)": ("numeric(12,4)", "numeric", "double precision"),
    "numeric(12,4)": ("numeric", "text"),
    "numeric": ("text", "double precision"),
    "timestamp": ("timestamptz", "date", "text"),
    "timestamptz": ("timestamp", "text"),
    "date": ("timestamp", "text"),
    "boolean": ("text",),
    "uuid": ("text",),
    "mood": ("text",),
    "jsonb": ("text", "json"),
    "json": ("jsonb",),
    "double precision": ("numeric",),
    "mood[]": ("text",),
    "text[]": ("text",),
    "short": ("text", "varchar(20)"),
    "pair": ("text",),
    "extensions.citext": ("text", "varchar(40)"),
}
"""Types, with those that a migration turns them into."""


@dataclass(eq=False, slots=True)
class Column:
    """A column and what it is for: ``text`` and ``metadata`` are configured, ``other`` is not."""

    name: str
    type: str
    use: str
    rest: str = ""
    generated: bool = False

    @property
    def definition(self) -> str:
        return f"{self.name} {self.type} {self.rest}".rstrip()


@dataclass(eq=False, slots=True)
class Leaf:
    """A partition, or a table that was one."""

    name: str
    lower: int
    upper: int
    attached: bool = True


@dataclass(eq=False, slots=True, kw_only=True)
class HistoryTable:
    """One followed table as the application's migrations leave it."""

    number: int
    name: str
    schema: str = "public"
    columns: list[Column]
    key: list[Column]
    partitioned: bool = False
    leaves: list[Leaf] = field(default_factory=list)
    more: tuple[str, ...] = ()
    """Statements that follow its definition."""
    vectors_name: str = ""
    """The configured name of its table of vectors, which stays when it is renamed."""
    exists: bool = True
    identity_key: Sequence[Column] = ()
    """The columns of the index that is its replica identity: then they are the key, whatever
    becomes of the primary key."""
    logged: bool = True
    pkey: str = ""
    """The name of its primary key."""
    serial: int = 0
    """Numbers for new names and values."""

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"

    def of(self, *uses: str) -> list[Column]:
        return [c for c in self.columns if c.use in uses and c not in self.key]

    def new_key_name(self) -> str:
        self.pkey = f"key_{self.number}_{self.next()}"
        return self.pkey

    def next(self) -> int:
        self.serial += 1
        return self.serial

    def definition(self, name: str = "") -> list[str]:
        """Return the statements that create it as it is now."""
        lines = [column.definition for column in self.columns]
        lines.append(f"constraint {self.new_key_name()} primary key ({names(self.key)})")
        split = f" partition by range ({self.key[0].name})" if self.partitioned else ""
        made = [f"create table {name or self.full_name} ({', '.join(lines)}){split}"]
        for leaf in self.leaves:
            if leaf.attached:
                made.append(self.make_leaf(leaf))
        return made

    def make_leaf(self, leaf: Leaf) -> str:
        return f"create table {leaf.name} partition of {self.full_name} {bounds(leaf)}"


def bounds(leaf: Leaf) -> str:
    return f"for values from ({leaf.lower}) to ({leaf.upper})"


def names(columns: Sequence[Column]) -> str:
    return ", ".join(column.name for column in columns)


def _table(number: int, name: str, key: Sequence[str], columns: str, **more: Any) -> HistoryTable:
    """Make a table of columns that are written as ``name use type``, separated by bars."""
    made = []
    for words in columns.split("|"):
        column, use, kind, *rest = words.split(" ", 3)
        made.append(Column(column, kind.replace("_", " "), use, " ".join(rest)))
    named = {column.name: column for column in made}
    return HistoryTable(
        number=number,
        name=name,
        columns=made,
        key=[named[column] for column in key],
        **more,
    )


def plain(number: int) -> HistoryTable:
    columns = "id other integer|title text text|body text text|kind metadata varchar(8)"
    columns += "|views other integer not null default 0|code other integer"
    return _table(number, f"notes{number}", ["id"], columns)


def composite(number: int) -> HistoryTable:
    columns = "tenant other integer|id other integer|rev other integer not null default 1"
    columns += "|body text text|price metadata numeric(8,2)|mood metadata mood"
    return _table(number, f"letters{number}", ["tenant", "id"], columns)


def partitioned(number: int) -> HistoryTable:
    columns = "day other integer|id other bigint|title text varchar(20)|body text text"
    columns += "|at metadata timestamptz"
    leaves = [Leaf(f"events{number}_{n}", 100 * n, 100 * n + 100) for n in range(3)]
    return _table(
        number, f"events{number}", ["day", "id"], columns, partitioned=True, leaves=leaves
    )


def whole(number: int) -> HistoryTable:
    """REPLICA IDENTITY FULL and a generated column."""
    columns = "id other bigint|title text text|body text text|flag metadata boolean"
    table = _table(number, f"posts{number}", ["id"], columns)
    made = "generated always as (lower(title)) stored"
    table.columns.append(Column("slug", "text", "other", made, True))
    table.more = (f"alter table {table.full_name} replica identity full",)
    return table


def secured(number: int) -> HistoryTable:
    columns = "code other varchar(20)|body text text|owner metadata text|extra metadata jsonb"
    table = _table(number, f"papers{number}", ["code"], columns)
    table.more = (
        f"alter table {table.full_name} enable row level security",
        f"create policy own on {table.full_name} using (owner = current_user)",
    )
    return table


def other_keys(number: int) -> HistoryTable:
    columns = "id other uuid|since other timestamp|body text text|weight metadata integer"
    columns += "|num other integer not null default 7"
    return _table(number, f"things{number}", ["id", "since"], columns)


def caseless(number: int) -> HistoryTable:
    columns = "slug other extensions.citext|tenant other integer|body text text"
    columns += "|title text extensions.citext|tag metadata extensions.citext"
    return _table(number, f"words{number}", ["slug"], columns)


FORMS: Final = (plain, composite, whole, secured, other_keys, caseless)


def choose_tables(choice: random.Random, partitions: bool) -> list[HistoryTable]:
    """Choose one to four of them; wal2json follows no table in partitions."""
    forms = choice.sample([*FORMS, *([partitioned] if partitions else [])], choice.randint(1, 4))
    tables = [form(number) for number, form in enumerate(forms, 1)]
    for table in tables:
        table.vectors_name = f"vectors_{table.number}" if choice.random() < 0.5 else ""
    return tables
