"""A table of unusual inputs, and what its rows go through."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql

from tests.oracle import Documents
from tests.site import Site

Key = tuple[Any, ...]


def big(number: int) -> str:
    """Stored out of line: an update of another column leaves it out of the log."""
    return " ".join(f"{number}:{word * 7919 % 104729:x}" for word in range(1000))


@dataclass(frozen=True, kw_only=True)
class InputTable:
    """A table with a row for each of its keys but the last, which is there to move to."""

    name: str
    schema: str = "public"
    key: Mapping[str, str]
    """The key's columns: name to type."""
    keys: Sequence[Key]
    text: Sequence[str] = ("title", "body")
    texts: Sequence[Sequence[str | None]] = ()
    """By row, where they are not to be made up."""
    metadata: Sequence[str] = ()
    template: str = ""

    @property
    def documents(self) -> Documents:
        stem = self.name if self.schema == "public" else f"{self.schema}_{self.name}"
        return Documents(
            name=self.name,
            schema=self.schema,
            key=tuple(self.key),
            text=self.text,
            template=self.template,
            metadata=self.metadata,
            embedding_table=f"{stem}_embedding",
        )

    @property
    def configuration(self) -> str:
        name = ".".join('"' + part.replace('"', '""') + '"' for part in (self.schema, self.name))
        values: dict[str, Any] = {"name": name, "metadata": list(self.metadata)}
        values |= {"template": self.template} if self.template else {"text": list(self.text)}
        lines = [
            f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()
        ]
        return "\n".join(["[[tables]]", *lines, ""])

    def create(self, site: Site) -> None:
        columns = [
            *(_composed("{} " + kind, name) for name, kind in self.key.items()),
            *(_composed("{} text", name) for name in (*self.text, *self.metadata)),
            sql.SQL("primary key ({})").format(_listed(self.key)),
        ]
        self._run(
            site, "create table {table} ({definition})", definition=sql.SQL(", ").join(columns)
        )
        for name in self.text:
            column = sql.Identifier(name)
            self._run(site, "alter table {table} alter {c} set storage external", c=column)

    def insert(self, site: Site) -> None:
        for place, key in enumerate(self.keys[:-1]):
            self._insert(site, key, self._texts(place))

    def change_a_text(self, site: Site) -> None:
        """The first text of every row: the others are left out of the log where they are long."""
        column = sql.Identifier(self.text[0])
        self._run(site, "update {table} set {c} = coalesce({c}, '') || ' changed'", c=column)

    def move(self, site: Site) -> None:
        self._move(site, self.keys[0], self.keys[-1])

    def move_back(self, site: Site) -> None:
        self._move(site, self.keys[-1], self.keys[0])

    def delete(self, site: Site) -> None:
        self._run(site, "delete from {table} where row ({columns}) = {values}", *self.keys[1])

    def insert_again(self, site: Site) -> None:
        self._insert(site, self.keys[1], self._texts(1))

    def shorten(self, site: Site) -> None:
        column = sql.Identifier(self.text[-1])
        self._run(site, "update {table} set {c} = 'short'", c=column)

    def _texts(self, place: int) -> Sequence[str | None]:
        if self.texts:
            return self.texts[place]
        return [f"{name} {place}" for name in self.text[:-1]] + [big(place)]

    def _insert(self, site: Site, key: Key, texts: Sequence[str | None]) -> None:
        names = (*self.key, *self.text, *self.metadata)
        metadata = [f"{name} of {key}" for name in self.metadata]
        self._run(
            site,
            "insert into {table} ({names}) values ({marks})",
            *(*key, *texts, *metadata),
            names=_listed(names),
            marks=sql.SQL(", ").join([sql.Placeholder()] * len(names)),
        )

    def _move(self, site: Site, old: Key, new: Key) -> None:
        change = "update {table} set ({columns}) = {values} where row ({columns}) = {values}"
        self._run(site, change, *new, *old)

    def _run(self, site: Site, statement: str, *values: Any, **parts: sql.Composable) -> None:
        marks = sql.SQL(", ").join(sql.SQL("%s::" + kind) for kind in self.key.values())
        composed = sql.SQL(statement).format(
            table=sql.Identifier(self.schema, self.name),
            columns=_listed(self.key),
            values=sql.SQL("row ({})").format(marks),
            **parts,
        )
        site.sql(composed, *values)


def _composed(form: str, name: str) -> sql.Composed:
    return sql.SQL(form).format(sql.Identifier(name))


def _listed(names: Any) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(name) for name in names)
