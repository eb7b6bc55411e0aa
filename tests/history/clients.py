"""The application of a history: clients that change a few rows in every way, each in its thread.

What a client does follows from its seed; what comes of it does not, because they block, deadlock
and cut each other off. So each keeps a log of every statement with its outcome.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg2

from tests.history.tables import BULK, POISON, PREFILLED, TABLES, HistoryTable, Texts
from tests.quiet import let_pass
from tests.site import Site

Statement = tuple[str, tuple[Any, ...]]

SHOWN = 40
"""Characters of a value in the log."""


class Diary:
    """A log in a file, one line for each event."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def note(self, line: str) -> None:
        with self._lock, self.path.open("a") as file:
            file.write(f"{time.time():.3f} {line}\n")

    def tail(self, lines: int) -> str:
        text = self.path.read_text() if self.path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def ask(site: Site, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run one statement in a session of its own: those that are there may have been ended."""
    connection = site.connect()
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("set synchronous_commit = local")
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


class Client(threading.Thread):
    """Runs random transactions until told to stop."""

    def __init__(
        self, number: int, seed: str, connect: Callable[[], Any], folder: Path, *, poison: bool
    ) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self._number = number
        self._choice = random.Random(f"{seed}/{self.name}")
        self._texts = Texts(self._choice, poison=poison)
        self._connect = connect
        self._connection: Any = None
        self._prepared = 0
        self._unresolved = ""
        """A prepared transaction of ours that may still hold its locks."""
        self.diary = Diary(folder / f"{self.name}.log")
        self.ended = threading.Event()
        self.committed = 0

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = self._open()
                if self._unresolved:
                    self._resolve("rollback")
                self._transaction()
            except psycopg2.Error as exc:
                self.diary.note(
                    f"! {exc.pgcode or type(exc).__name__} {' '.join(str(exc).split())}"
                )
                self._give_up()
            self.ended.wait(self._choice.choice([0, 0, 0.01, 0.05]))
        if self._connection is not None:
            self._connection.close()

    def _open(self) -> Any:
        connection = self._connect()
        with connection.cursor() as cursor:
            cursor.execute("set lock_timeout = '300ms'")
            if self._number % 2:  # many more transactions; a crash of the server takes the last
                cursor.execute("set synchronous_commit = off")
            cursor.execute("set application_name = %s", (self.name,))
        connection.commit()
        return connection

    def _give_up(self) -> None:
        try:
            if self._connection is not None:
                self._connection.rollback()
        except psycopg2.Error:
            self._connection = None
        if self._connection is None:
            self.ended.wait(0.1)

    # -- transactions --------------------------------------------------------------------------

    def _transaction(self) -> None:
        choice = self._choice
        if choice.random() < 0.01:
            self._rewrite()
            return
        with self._connection.cursor() as cursor:
            for _ in range(choice.choice([1, 1, 1, 2, 3, 6])):
                if choice.random() < 0.25:
                    self._savepoint(cursor)
                else:
                    self._operation(cursor)
                if choice.random() < 0.1:
                    let_pass(choice.random() / 20)
        chance = choice.random()
        if chance < 0.1:
            self.diary.note("rollback")
            self._connection.rollback()
        elif chance < 0.12:
            self._prepare()
        else:
            self._commit()

    def _commit(self) -> None:
        self.diary.note("commit")
        self._connection.commit()
        self.committed += 1
        self.diary.note("committed")

    def _rewrite(self) -> None:
        """Other files for the same rows: none of it is in the log."""
        table = self._choice.choice(TABLES).name
        statement = self._choice.choice(
            [
                f"vacuum full {table}",
                f"cluster {table} using {table}_pkey",
                f"alter table {table} add column if not exists extra double precision "
                "default random()",
                f"alter table {table} drop column if exists extra",
                f"analyze {table}",
            ]
        )
        self._outside(statement)

    def _prepare(self) -> None:
        self._prepared += 1
        self._unresolved = f"{self.name}-{self._prepared}"
        with self._connection.cursor() as cursor:
            self._execute(cursor, (f"prepare transaction '{self._unresolved}'", ()))
        self._connection.commit()
        let_pass(self._choice.random() / 5)
        self._resolve(self._choice.choice(["commit", "rollback"]))

    def _resolve(self, end: str) -> None:
        with suppress(psycopg2.errors.UndefinedObject):  # it was not prepared, or has ended
            self._outside(f"{end} prepared '{self._unresolved}'")
        self._unresolved = ""

    def _outside(self, statement: str) -> None:
        """A statement that cannot be in a transaction."""
        self._connection.autocommit = True
        try:
            with self._connection.cursor() as cursor:
                self._execute(cursor, (statement, ()))
        finally:
            if not self._connection.closed:
                self._connection.autocommit = False

    def _savepoint(self, cursor: Any) -> None:
        """Some operations that are taken back together, or kept, or fail alone."""
        self._execute(cursor, ("savepoint s", ()))
        try:
            for _ in range(self._choice.choice([1, 2])):
                self._operation(cursor)
        except psycopg2.Error as exc:
            if self._connection.closed:
                raise
            self.diary.note(f"! {exc.pgcode}, back to the savepoint")
            cursor.execute("rollback to savepoint s")
            return
        end = self._choice.choice(["rollback to savepoint s", "release savepoint s"])
        self._execute(cursor, (end, ()))

    def _operation(self, cursor: Any) -> None:
        operation = self._choice.choices(*OPERATIONS)[0]
        table = self._choice.choice(TABLES)
        for statement in operation(self, table):
            self._execute(cursor, statement)

    def _execute(self, cursor: Any, statement: Statement) -> None:
        text, values = statement
        shown = [
            f"{v[:SHOWN]!r}.." if isinstance(v, str) and len(v) > SHOWN else repr(v) for v in values
        ]
        self.diary.note(f"{text} ({', '.join(shown)})" if values else text)
        cursor.execute(text, values or None)

    # -- operations: statements on one table ---------------------------------------------------

    def _key(self, table: HistoryTable) -> tuple[Any, ...]:
        """Of a few hot rows, or of many cold ones: what goes wrong there is not mended soon."""
        key = self._choice.choice(table.keys)
        chance = self._choice.random()
        if chance < 0.5:
            return key
        if chance < 0.6:
            return (-key[0], *key[1:])
        if chance < 0.7:
            return (PREFILLED + 37 + 100 * self._choice.randrange(8), *key[1:])
        return (PREFILLED + self._choice.randrange(800), *table.filled)

    def _values(self, columns: tuple[str, ...]) -> tuple[str | None, ...]:
        return tuple(self._texts.value(column) for column in columns)

    def _some_columns(self, table: HistoryTable) -> tuple[str, ...]:
        count = self._choice.randint(1, len(table.columns))
        return tuple(sorted(self._choice.sample(table.columns, count)))

    def insert(self, table: HistoryTable) -> Iterator[Statement]:
        names = (*table.key, *table.columns)
        marks = ", ".join(["%s"] * len(names))
        values = (*self._key(table), *self._values(table.columns))
        conflict = self._choice.choice(["", "nothing", "update", "update"])
        clause = f" on conflict ({', '.join(table.key)}) do {conflict}" if conflict else ""
        if conflict == "update":
            columns = self._some_columns(table)
            clause += " set " + ", ".join(f"{name} = excluded.{name}" for name in columns)
        yield f"insert into {table.name} ({', '.join(names)}) values ({marks}){clause}", values

    def merge(self, table: HistoryTable) -> Iterator[Statement]:
        columns = self._some_columns(table)
        on = " and ".join(f"t.{name} = n.{name}" for name in table.key)
        names = (*table.key, *columns)
        casts = {"id": "integer", "tenant": "integer", "score": "numeric"}
        source = ", ".join(f"%s::{casts.get(name, 'text')} as {name}" for name in names)
        matched = self._choice.choice(
            ["delete", "update set " + ", ".join(f"{name} = n.{name}" for name in columns)]
        )
        yield (
            f"merge into {table.name} t using (select {source}) n on {on} "
            f"when matched then {matched} when not matched then "
            f"insert ({', '.join(names)}) values ({', '.join(f'n.{name}' for name in names)})",
            (*self._key(table), *self._values(columns)),
        )

    def update(self, table: HistoryTable) -> Iterator[Statement]:
        columns = self._some_columns(table)
        assignments = ", ".join(f"{name} = %s" for name in columns)
        yield (
            f"update {table.name} set {assignments} where {table.where}",
            (*self._values(columns), *self._key(table)),
        )

    def update_other(self, table: HistoryTable) -> Iterator[Statement]:
        yield f"update {table.name} set views = views + 1 where {table.where}", self._key(table)

    def update_all(self, table: HistoryTable) -> Iterator[Statement]:
        column = self._choice.choice(table.text)
        assignment, values = self._choice.choice(
            [
                ("views = views + 1", ()),
                (f"{column} = {column}", ()),
                (f"{column} = %s", (f"common text {self._choice.randrange(12)}",)),
            ]
        )
        yield f"update {table.name} set {assignment} where abs({table.number}) < {BULK}", values

    def append(self, table: HistoryTable) -> Iterator[Statement]:
        yield (
            f"update {table.name} set body = left(body, 9000) || %s where {table.where}",
            (f" and {self._choice.randrange(1 << 30)}", *self._key(table)),
        )

    def delete(self, table: HistoryTable) -> Iterator[Statement]:
        yield f"delete from {table.name} where {table.where}", self._key(table)

    def delete_many(self, table: HistoryTable) -> Iterator[Statement]:
        rest = self._choice.randrange(3)
        yield f"delete from {table.name} where abs({table.number}) %% 3 = %s", (rest,)

    def replace(self, table: HistoryTable) -> Iterator[Statement]:
        key = self._key(table)
        yield f"delete from {table.name} where {table.where}", key
        names = (*table.key, *table.columns)
        marks = ", ".join(["%s"] * len(names))
        yield (
            f"insert into {table.name} ({', '.join(names)}) values ({marks})",
            (*key, *self._values(table.columns)),
        )

    def move(self, table: HistoryTable) -> Iterator[Statement]:
        """A row takes another key, and perhaps another text with it."""
        old, new = self._key(table), self._key(table)
        columns = self._some_columns(table) if self._choice.random() < 0.4 else ()
        more = "".join(f", {name} = %s" for name in columns)
        if self._choice.random() < 0.5:
            yield f"delete from {table.name} where {table.where}", new
        yield (
            f"update {table.name} set {table.assign_key}{more} where {table.where}",
            (*new, *self._values(columns), *old),
        )

    def swap(self, table: HistoryTable) -> Iterator[Statement]:
        one, other = self._key(table), self._key(table)
        between = (BULK - 1 - self._number, *one[1:])
        for old, new in ((one, between), (other, one), (between, other)):
            yield (
                f"update {table.name} set {table.assign_key} where {table.where}",
                (*new, *old),
            )

    def mirror(self, table: HistoryTable) -> Iterator[Statement]:
        number = table.number
        same = "".join(f" and o.{name} = t.{name}" for name in table.key[1:])
        yield (
            f"update {table.name} t set {number} = -{number} where abs({number}) < {BULK} "
            f"and not exists (select from {table.name} o where o.{number} = -t.{number}{same})",
            (),
        )

    def chain(self, table: HistoryTable) -> Iterator[Statement]:
        """Every row takes the key of the next one."""
        number, far = table.number, 2 * BULK
        yield f"update {table.name} set {number} = {number} + {far} where abs({number}) < 100", ()
        yield (
            f"update {table.name} set {number} = {number} - {far - 1} "
            f"where {number} between {far - 100} and {far + 100}",
            (),
        )

    def bulk(self, table: HistoryTable) -> Iterator[Statement]:
        """Rows enough for several batches of one transaction."""
        first = 3 * BULK + self._choice.randrange(1000)
        last = first + self._choice.choice([100, 400])
        rest = "".join(f", '{value}'" for value in table.filled)
        column = self._choice.choice(table.text)
        names = ", ".join((*table.key, column))
        yield f"delete from {table.name} where {number_between(table)}", (first, last)
        if self._choice.random() < 0.7:
            yield (
                f"insert into {table.name} ({names}) select i{rest}, 'bulk ' || i %% 150 "
                "from generate_series(%s, %s) i",
                (first, last),
            )

    def refill(self, table: HistoryTable) -> Iterator[Statement]:
        """Cold rows, some of them from before the service was there."""
        first = PREFILLED + self._choice.randrange(700)
        rest = "".join(f", '{value}'" for value in table.filled)
        names = ", ".join((*table.key, *table.text))
        texts = [None if text and POISON in text else text for text in self._values(table.text)]
        marks = ", ".join(
            f"%s || case when i %% 3 = {n} then i::text else '' end" for n, _ in enumerate(texts)
        )
        yield (
            f"insert into {table.name} ({names}) select i{rest}, {marks} "
            "from generate_series(%s, %s) i on conflict do nothing",
            (*texts, first, first + self._choice.choice([20, 100])),
        )

    def truncate(self, table: HistoryTable) -> Iterator[Statement]:
        names = {table.name, self._choice.choice(TABLES).name}
        yield f"truncate {', '.join(sorted(names))}", ()
        if self._choice.random() < 0.7:
            yield from self.insert(table)


def number_between(table: HistoryTable) -> str:
    return f"{table.number} between %s and %s"


_WEIGHTS: dict[Callable[[Client, HistoryTable], Iterator[Statement]], float] = {
    Client.insert: 16,
    Client.merge: 4,
    Client.update: 16,
    Client.update_other: 14,
    Client.update_all: 2,
    Client.append: 6,
    Client.delete: 5,
    Client.delete_many: 0.05,
    Client.replace: 4,
    Client.move: 14,
    Client.swap: 8,
    Client.mirror: 3,
    Client.chain: 1.5,
    Client.bulk: 0.5,
    Client.refill: 0.5,
    Client.truncate: 0.05,
}
OPERATIONS = (list(_WEIGHTS), list(_WEIGHTS.values()))
