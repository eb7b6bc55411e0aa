"""Random changes of rows: the application's own statements between its migrations."""

import random
from collections.abc import Callable
from typing import Final

from tests.migrations.steps import Step
from tests.migrations.tables import Column, HistoryTable, Leaf, names

EDGE: Final = 400
"""Partitions cover keys below it."""


class Rows:
    """Composes INSERT, UPDATE, DELETE, TRUNCATE and COPY of one table."""

    def __init__(self, choice: random.Random) -> None:
        self._choice = choice
        self._kinds: list[tuple[Callable[[HistoryTable], Step | None], int]] = [
            (self.insert, 6),
            (self.copy, 2),
            (self.update_text, 5),
            (self.update_same, 1),
            (self.update_other, 2),
            (self.update_metadata, 3),
            (self.move, 2),
            (self.upsert, 2),
            (self.delete, 3),
            (self.truncate, 1),
            (self.together, 2),
        ]

    def step(self, table: HistoryTable) -> Step | None:
        kinds = [kind for kind, _ in self._kinds]
        weights = [weight for _, weight in self._kinds]
        return self._choice.choices(kinds, weights)[0](table)

    # -- values ------------------------------------------------------------------------------------

    def value(self, table: HistoryTable, column: Column) -> str:
        """Return a random value as a literal."""
        choice, number = self._choice, table.next()
        if column.use == "text":
            return self._text(column, number)
        if table.partitioned and column is table.key[0]:
            return f"'{choice.randrange(EDGE)}'"
        if column not in table.key and not column.rest and choice.random() < 0.1:
            return "null"
        return f"'{self._plain(column.type, number)}'"

    def _plain(self, kind: str, number: int) -> str:
        choice = self._choice
        base = kind.partition("(")[0]
        if base.endswith("[]"):
            return f"{{{self._plain(base[:-2], number)}}}"
        if base == "pair":
            return f"({number},{choice.choice(['a', ''])})"
        if base in {"integer", "bigint", "numeric", "double precision"}:
            return str(number)
        if base in {"timestamp", "timestamptz", "date"}:
            return f"2026-{number % 12 + 1:02d}-{number % 28 + 1:02d}"
        if base == "boolean":
            return choice.choice("tf")
        if base == "mood":
            return choice.choice(["happy", "sad"])
        if base in {"json", "jsonb"}:
            return f'{{"n": {number}}}'
        if base == "uuid":
            return f"00000000-0000-4000-8000-{number:012d}"
        return f"{choice.choice('kK')}{number}"

    def _text(self, column: Column, number: int) -> str:
        choice = self._choice
        chance = choice.random()
        if chance < 0.08:
            return "null"
        if chance < 0.12:
            return "''"
        if chance < 0.3:
            return f"'common {choice.randrange(4)}'"
        if chance < 0.4 and "(" not in column.type:
            return f"'{choice.randbytes(2500).hex()}'"
        return f"'text {number}'"

    def row(self, table: HistoryTable) -> tuple[list[Column], list[str]]:
        columns = [c for c in table.columns if not c.generated]
        columns = [c for c in columns if c in table.key or self._choice.random() < 0.85]
        return columns, [self.value(table, column) for column in columns]

    def _part(self, table: HistoryTable, most: int = 6) -> str:
        """Return a condition for a part of the rows; the same rows in every database."""
        key = " || '/' || ".join(f"{column.name}::text" for column in table.key)
        many = self._choice.randint(2, most)
        return f"abs(hashtext({key})) % {many} = {self._choice.randrange(many)}"

    # -- statements --------------------------------------------------------------------------------

    def insert(self, table: HistoryTable) -> Step:
        statements = []
        for _ in range(self._choice.choice([1, 2, 8])):
            columns, values = self.row(table)
            listed, written = names(columns), ", ".join(values)
            statements.append(f"insert into {table.full_name} ({listed}) values ({written})")
        return Step(statements)

    def copy(self, table: HistoryTable) -> Step:
        columns = [c for c in table.columns if not c.generated]
        lines = []
        for _ in range(self._choice.choice([5, 30])):
            values = [self.value(table, column) for column in columns]
            lines.append("\t".join(r"\N" if v == "null" else v[1:-1] for v in values))
        statement = f"copy {table.full_name} ({names(columns)}) from stdin"
        return Step([statement], data="\n".join(lines) + "\n")

    def _update(self, table: HistoryTable, columns: list[Column]) -> Step | None:
        if not columns:
            return None
        chosen = self._choice.sample(columns, self._choice.randint(1, len(columns)))
        changes = ", ".join(f"{column.name} = {self.value(table, column)}" for column in chosen)
        return Step([f"update {table.full_name} set {changes} where {self._part(table)}"])

    def update_text(self, table: HistoryTable) -> Step | None:
        return self._update(table, table.of("text"))

    def update_metadata(self, table: HistoryTable) -> Step | None:
        return self._update(table, table.of("metadata"))

    def update_other(self, table: HistoryTable) -> Step | None:
        return self._update(table, [c for c in table.of("other") if not c.generated])

    def update_same(self, table: HistoryTable) -> Step | None:
        column = self._choice.choice(table.columns)
        if column.generated:
            return None
        return Step([f"update {table.full_name} set {column.name} = {column.name}"])

    def move(self, table: HistoryTable) -> Step | None:
        """Change a part of the key."""
        column = self._choice.choice(table.key)
        moved = f"{column.name} + 100000"
        if table.partitioned and column is table.key[0]:
            moved = f"({column.name}::text::int + 100) % {EDGE}"
        elif column.type.partition("(")[0] not in {"integer", "bigint", "numeric"}:
            return None
        return Step(
            [f"update {table.full_name} set {column.name} = {moved} where {self._part(table)}"]
        )

    def upsert(self, table: HistoryTable) -> Step | None:
        columns, values = self.row(table)
        changed = [c for c in columns if c not in table.key]
        if not changed:
            return None
        changes = ", ".join(f"{c.name} = excluded.{c.name}" for c in changed)
        return Step(
            [
                f"insert into {table.full_name} ({names(columns)}) values ({', '.join(values)}) "
                f"on conflict ({names(table.key)}) do update set {changes}"
            ]
        )

    def delete(self, table: HistoryTable) -> Step:
        return Step([f"delete from {table.full_name} where {self._part(table)}"])

    def truncate(self, table: HistoryTable) -> Step:
        leaves = [leaf for leaf in table.leaves if leaf.attached]
        if leaves and self._choice.random() < 0.5:
            return Step([f"truncate {self._choice.choice(leaves).name}"])
        return Step([f"truncate {table.full_name}"])

    def together(self, table: HistoryTable) -> Step | None:
        """Several changes in one transaction, which may be rolled back."""
        steps = [self.insert(table), self.update_text(table), self.delete(table)]
        if self._choice.random() < 0.2:
            steps.insert(0, self.truncate(table))
        statements = [s for step in steps if step is not None for s in step.statements]
        return Step(statements, rolled_back=self._choice.random() < 0.2)

    def fill(self, table: HistoryTable, leaf: Leaf, count: int) -> str:
        """Return the statement that puts rows into a partition, or a table that will be one."""
        first, second = table.key[:2]
        text = table.of("text")
        more = f", {text[0].name}" if text else ""
        value = ", 'leaf ' || n" if text else ""
        start = 1_000_000 + 1000 * table.next()
        return (
            f"insert into {leaf.name} ({first.name}, {second.name}{more}) "
            f"select {leaf.lower} + n % 50, {start} + n{value} from generate_series(1, {count}) n"
        )
