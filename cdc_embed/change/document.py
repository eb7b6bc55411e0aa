"""What the text of a row is: tables, documents, fingerprints.

Takes column values as the log carries them and gives the prepared text. It does not know where
the values came from, and it never talks to a database.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple

Key = tuple[str, ...]
"""A row's primary key: the text form of each key column, in the key's own order."""

PREPARATION_VERSION: Final = 1
"""Goes into the space's identity: raise it when the same columns give another text."""

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


class KeyColumn(NamedTuple):
    name: str
    type: str
    """In the table of vectors, as ``format_type`` names it, e.g. ``character varying(20)``."""
    source_type: str = ""
    """In the source, where it differs: a type that another database may not have."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """One configured table: what of it makes a document, and where its vectors are.

    Compared by identity: there is one object for each configured table.
    """

    schema: str
    name: str
    oid: int
    key: tuple[KeyColumn, ...]
    text_columns: tuple[str, ...]
    template: str | None
    embedding_table: str
    max_tokens: int = 0
    """Tokens that one text may have; 0: as many as the model takes."""

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def preparation(self) -> str:
        """How column values become text, for the space: a change of it changes every vector."""
        rule = self.template if self.template is not None else " + ".join(self.text_columns)
        kind = "template" if self.template is not None else "columns"
        return f"v{PREPARATION_VERSION} {kind} {rule}"

    def prepare(self, values: Sequence[str | None]) -> str | None:
        """The row's text of its text columns' values; None when there is no document.

        A row whose text columns are all NULL or blank has no document. The text is otherwise
        taken as it is: no trimming, no normalisation.
        """
        present = [value for value in values if value is not None and not value.isspace() and value]
        if not present:
            return None
        if self.template is None:
            return "\n\n".join(present)
        return fill_template(self.template, dict(zip(self.text_columns, values, strict=True)))

    def key_object(self, key: Key) -> dict[str, str | int]:
        """The key as users read it: an object of column names, integers as numbers."""
        return {
            column.name: int(value) if column.type in _INTEGERS else value
            for column, value in zip(self.key, key, strict=True)
        }


_INTEGERS = frozenset({"smallint", "integer", "bigint"})


def fill_template(template: str, values: dict[str, str | None]) -> str:
    """The template with ``{column}`` replaced, NULL by nothing; ``{{`` and ``}}`` are braces."""

    def replacement(match: re.Match[str]) -> str:
        column = match.group(1)
        if column is None:
            return match.group(0)[0]
        return values[column] or ""

    return _PLACEHOLDER.sub(replacement, template)


def fingerprint(text: str) -> bytes:
    """The identity of a text: 16 bytes of BLAKE2b over its UTF-8 form."""
    return blake2b(text.encode(), digest_size=16).digest()


class Chunk(NamedTuple):
    """A piece of a document: what one vector stands for. ``start`` and ``end`` are characters."""

    text: str
    start: int
    end: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Document:
    """A row's prepared text with its fingerprint and its pieces."""

    fingerprint: bytes
    chunks: tuple[Chunk, ...]

    @classmethod
    def whole(cls, text: str) -> "Document":
        """A document of one chunk: the text itself."""
        digest = fingerprint(text)
        return cls(digest, (Chunk(text, 0, len(text), digest),))
