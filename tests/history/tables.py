"""The source tables of a history: what they are, what their rows' texts are, and random ones."""

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tests.oracle import Documents

POISON = "POISON"
"""A text with this word in it is refused by the embedding server."""

PREFILLED = 1_000_000
"""Keys from here on are of rows that were there before the service first started."""
BULK = 10_000
"""Keys from here on are of rows that come and go many at once."""


@dataclass(frozen=True, kw_only=True)
class HistoryTable:
    """One table; the first column of its key is a number."""

    name: str
    definition: str
    key: tuple[str, ...]
    text: tuple[str, ...]
    metadata: tuple[str, ...]
    template: str | None = None
    chunk_tokens: int = 100_000
    full_identity: bool = False
    keys: tuple[tuple[Any, ...], ...]
    """The few keys that the clients quarrel about."""

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.text, *self.metadata)

    @property
    def filled(self) -> tuple[str, ...]:
        """The rest of the key of rows that are made many at once."""
        return ("x",) * (len(self.key) - 1)

    @property
    def number(self) -> str:
        """The key column that is a number; its sign mirrors a row."""
        return self.key[0]

    @property
    def entry(self) -> str:
        """Its part of the configuration."""
        rule = f'template = "{self.template}"' if self.template else f"text = {_list(self.text)}"
        return (
            f'[[tables]]\nname = "{self.name}"\n{rule}\nmetadata = {_list(self.metadata)}\n'
            f"chunk = {{ max_tokens = {self.chunk_tokens} }}\n"
        )

    @property
    def documents(self) -> Documents:
        template = (self.template or "").replace("\\n", "\n")
        return Documents(
            name=self.name,
            key=self.key,
            text=self.text,
            template=template,
            metadata=self.metadata,
            chunked=True,
        )

    @property
    def where(self) -> str:
        return " and ".join(f"{column} = %s" for column in self.key)

    @property
    def assign_key(self) -> str:
        return ", ".join(f"{column} = %s" for column in self.key)


def _list(names: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


DOCUMENTS = HistoryTable(
    name="documents",
    definition="""
        create table documents (
          id bigint primary key, title text, body text, views integer not null default 0);
        alter table documents alter title set storage external;
        alter table documents alter body set storage external;
    """,
    key=("id",),
    text=("title", "body"),
    metadata=(),
    keys=tuple((number,) for number in range(1, 8)),
)

NOTES = HistoryTable(
    name="notes",
    definition="""
        create table notes (
          tenant integer, name text, heading text, body text, score numeric(8,2), label text,
          views integer not null default 0, primary key (tenant, name));
        alter table notes alter heading set storage external;
        alter table notes alter body set storage external;
        alter table notes alter label set storage external;
    """,
    key=("tenant", "name"),
    text=("heading", "body"),
    metadata=("score", "label"),
    template="# {heading}\\n\\n{body}",
    chunk_tokens=300,
    keys=tuple((tenant, name) for tenant in (1, 2) for name in ("a", "b c", "ü'{,}")),
)

PAGES = HistoryTable(
    name="pages",
    definition="""
        create table pages (
          id integer primary key, body text, remark text, views integer not null default 0);
        alter table pages alter body set storage external;
        alter table pages replica identity full;
    """,
    key=("id",),
    text=("body",),
    metadata=("remark",),
    chunk_tokens=1000,
    full_identity=True,
    keys=tuple((number,) for number in range(1, 6)),
)

TABLES = (DOCUMENTS, NOTES, PAGES)

IN_PARTITIONS = """
    create table documents (
      id bigint primary key, title text, body text, views integer not null default 0)
      partition by range (id);
    create table documents_below partition of documents for values from (minvalue) to (0);
    create table documents_few partition of documents for values from (0) to (4);
    create table documents_rest partition of documents for values from (4) to (maxvalue);
    alter table documents_below alter title set storage external;
    alter table documents_below alter body set storage external;
    alter table documents_few alter title set storage external;
    alter table documents_few alter body set storage external;
    alter table documents_rest alter title set storage external;
    alter table documents_rest alter body set storage external;
"""
"""The same table of documents; a change of a key is then a delete and an insert in the log."""


class Texts:
    """Random values; those of two generators with one seed of the pool have texts in common."""

    def __init__(self, choice: random.Random, *, poison: bool) -> None:
        self._choice = choice
        self._poison = poison
        self._number = 0

    @cached_property
    def _pool(self) -> list[str]:
        return [large(number) for number in range(5)]

    def text(self) -> str | None:
        choice = self._choice
        self._number += 1
        chance = choice.random()
        if chance < 0.06:
            return None
        if chance < 0.10:
            return choice.choice(["", "  ", "\n\t"])
        if chance < 0.40:
            return f"common text {choice.randrange(12)}"
        if chance < 0.62:
            return f"text {choice.randrange(1 << 40)} 😀 é e\u0301 \u202b"
        if chance < 0.66 and self._poison:
            return f"{POISON} {choice.randrange(6)}"
        pieces = choice.choice(self._pool).split("\n\n")
        if chance < 0.85:
            pieces[choice.randrange(len(pieces))] = f"an edit, {choice.randrange(1 << 40)}"
        return "\n\n".join(pieces)

    def value(self, column: str) -> str | None:
        """Of a text or metadata column."""
        if column == "score":
            return self._choice.choice([None, "1.50", "-0.01", f"{self._choice.randrange(9999)}"])
        if column in {"label", "remark"}:
            return self._choice.choice([None, "", "x", "  kept  ", large(90), large(91)])
        return self.text()


def large(seed: int) -> str:
    """A text in paragraphs that PostgreSQL stores out of line: other updates leave it out."""
    choice = random.Random(seed)
    letters = string.ascii_lowercase + "     "
    return "\n\n".join("".join(choice.choices(letters, k=700)).strip() for _ in range(13))
