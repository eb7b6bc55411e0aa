"""Tables and documents: the text of a row, its metadata, and their fingerprints.

This module takes column values in the form of the log and returns the prepared text and the hash of
the metadata. It does not depend on the origin of the values, and never uses a database.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple

from cdc_embed.wire.messages import UNCHANGED, Value

Key = tuple[str, ...]
"""A row's primary key: the text form of each key column, in the key's own order."""

PREPARATION_VERSION: Final = 1
"""The preparation's part of the space's identity. Raise it when the same columns give another
text."""

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


COLUMNS_BYTES: Final = 4
VALUE_BYTES: Final = 8
"""The bytes of one value in a metadata hash. The hash has a part for the set of columns, then one
for each value, so that a value which the log did not carry keeps its part."""


class KeyOrder(NamedTuple):
    """The comparison of a key column in the source, as its own index makes it, in SQL."""

    type: str = ""
    """The type whose values are compared, with its schema, without a length; empty for the column's
    own."""
    cast: str = ""
    """The cast of the column to this type, where it has another one."""
    less: str = "operator(pg_catalog.<)"
    up_to: str = "operator(pg_catalog.<=)"
    equal: str = "operator(pg_catalog.=)"
    greater: str = "operator(pg_catalog.>)"
    collation: str = ""
    """The COLLATE clause, where the index has another collation than the column."""
    loose: bool = False
    """Whether texts that differ can be equal keys here, but different keys in the table of
    vectors."""


class TableColumn(NamedTuple):
    name: str
    type: str
    """The type in the table of vectors, as ``format_type`` names it, without a length, because a
    value must never be cut, and a longer type in the source needs no change here."""
    source_type: str = ""
    """The type in the source, where it differs because another database can lack it."""
    order: KeyOrder = KeyOrder()
    """The comparison in the source, of a key column."""
    type_oid: int = 0
    """The oid of a type that every database has, as a Relation tells it; else 0."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """One configured table: the columns that make a document, and the names of its table of
    vectors.

    Compared by identity, because there is one object for each configured table.
    """

    schema: str
    name: str
    oid: int
    key: tuple[TableColumn, ...]
    text_columns: tuple[str, ...]
    template: str | None
    embedding_table: str
    search_view: str = ""
    metadata: tuple[TableColumn, ...] = ()
    """The columns copied beside the vectors, in the order of their names."""
    max_tokens: int = 0
    """The tokens that a chunk can have; 0 for as many as the model takes."""
    store_text: bool = True
    """Whether each chunk's text is kept beside its vector."""
    partitioned: bool = False
    """Whether its rows are in partitions, each with a replica identity of its own."""
    key_numbers: tuple[int, ...] = ()
    """The numbers of the key's columns in the source, which stay when a column is renamed."""
    row_security: bool = False
    """Whether it has row level security, so that not everyone who may read it sees every row."""

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def stem(self) -> str:
        """The beginning of the names of its objects in the target."""
        return self.name if self.schema == "public" else f"{self.schema}_{self.name}"

    @property
    def stored_columns(self) -> tuple[TableColumn, ...]:
        """The columns that are stored beside the vectors, the key's, then the metadata."""
        return (*self.key, *self.metadata)

    @property
    def preparation(self) -> str:
        """The rule that turns column values into text: a part of the space's preparation."""
        rule = self.template if self.template is not None else " + ".join(self.text_columns)
        kind = "template" if self.template is not None else "columns"
        return f"v{PREPARATION_VERSION} {kind} {rule}"

    def prepare(self, values: Sequence[str | None]) -> str | None:
        """Return the row's text for the values of its text columns; None when there is no document.

        A row whose text columns are all NULL or blank has no document. Otherwise the text stays as
        it is, without trimming or normalisation.
        """
        present = [value for value in values if value is not None and not value.isspace() and value]
        if not present:
            return None
        if self.template is None:
            return "\n\n".join(present)
        return fill_template(self.template, dict(zip(self.text_columns, values, strict=True)))

    def hash_metadata(self, values: Sequence[Value], before: bytes | None = None) -> bytes | None:
        """Return the hash of metadata values; None when a value is unknown.

        An unchanged value keeps its part of ``before``, the hash of the version that it is
        unchanged from.
        """
        columns = _columns_hash(self.metadata)
        if before is not None and not before.startswith(columns):
            before = None  # the hash is of other columns
        parts = [columns]
        for place, value in enumerate(values):
            if value is not UNCHANGED:
                parts.append(_value_hash(value))
            elif before is not None:
                start = len(columns) + place * VALUE_BYTES
                parts.append(before[start : start + VALUE_BYTES])
            else:
                return None
        return b"".join(parts)

    def key_object(self, key: Key) -> dict[str, str | int]:
        """Return the key for users: an object of column names, integers as numbers."""
        return {
            column.name: key_value(value, column.type)
            for column, value in zip(self.key, key, strict=True)
        }


_INTEGERS = frozenset({"smallint", "integer", "bigint"})


def key_value(value: str, type: str) -> str | int:  # noqa: A002  the word of ``TableColumn``
    """Return the value of one key column for users."""
    return int(value) if type in _INTEGERS else value


def hash_without(digest: bytes, places: Collection[int]) -> bytes:
    """Return the hash of metadata whose values at some places are NULL instead."""
    parts = bytearray(digest)
    for place in places:
        start = COLUMNS_BYTES + place * VALUE_BYTES
        parts[start : start + VALUE_BYTES] = _value_hash(None)
    return bytes(parts)


def _columns_hash(columns: tuple[TableColumn, ...]) -> bytes:
    """Return the hash of the metadata columns' names; empty when there are none."""
    names = "\0".join(f"{column.name} {column.type}" for column in columns)
    return blake2b(names.encode(), digest_size=COLUMNS_BYTES).digest() if columns else b""


def _value_hash(value: str | None) -> bytes:
    if value is None:
        return bytes(VALUE_BYTES)
    return blake2b(value.encode(), digest_size=VALUE_BYTES).digest()


def template_parts(template: str) -> list[tuple[str, bool]]:
    """Return the template's texts and column names (true) in order; ``{{`` and ``}}`` are
    braces."""
    parts: list[tuple[str, bool]] = []
    end = 0
    for match in _PLACEHOLDER.finditer(template):
        parts.append((template[end : match.start()], False))
        column = match.group(1)
        parts.append((match.group(0)[0], False) if column is None else (column, True))
        end = match.end()
    parts.append((template[end:], False))
    return [part for part in parts if part[0]]


def fill_template(template: str, values: dict[str, str | None]) -> str:
    """Return the template with each ``{column}`` replaced; NULL becomes nothing."""
    return "".join(
        (values[part] or "") if is_column else part for part, is_column in template_parts(template)
    )


def fingerprint(text: str) -> bytes:
    """Return the identity of a text: 16 bytes of BLAKE2b over its UTF-8 form."""
    return blake2b(text.encode(), digest_size=16).digest()


class Chunk(NamedTuple):
    """A piece of a document, with one vector. ``start`` and ``end`` count characters."""

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
        """Return a document of one chunk: the text itself."""
        digest = fingerprint(text)
        return cls(digest, (Chunk(text, 0, len(text), digest),))
