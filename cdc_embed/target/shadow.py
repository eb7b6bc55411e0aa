"""The shadow of a table of vectors, with the same documents, stored by another key.

Each row of the source takes a stored document along whose text has the same fingerprint. So it does
not matter what became of the former key. Nothing is embedded; a row whose text is stored nowhere is
left to the comparison.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from psycopg2 import sql

from cdc_embed.change.action import Row
from cdc_embed.change.document import Key, Table, TableColumn, fingerprint
from cdc_embed.postgres.ddl import Ddl, compose
from cdc_embed.postgres.session import Session
from cdc_embed.target import copy
from cdc_embed.target.kept import INDEXES, STORAGE, prepare_shadow
from cdc_embed.target.registry import CHUNK_COLUMNS, VectorTable
from cdc_embed.target.vectors import create_ddl, index_names, joined, shadow_name
from cdc_embed.wire.messages import UNCHANGED, Value

_COMMA = sql.SQL(", ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """A table of vectors by the key that a source table has now, beside the one by its former
    key."""

    schema: str
    table: Table
    stored: VectorTable
    space: int
    """The space whose documents are taken first, if several have the same text."""
    vector_type: str

    def create_ddl(self) -> Ddl:
        """Make it, empty; one that an interrupted ``setup`` left is dropped."""
        name = shadow_name(self.table)
        create, index = create_ddl(self.schema, self.table, self.vector_type, name)
        made = [create.statement, index.statement, self._prepare(STORAGE)]
        # default privileges open it to readers before it has its policies
        if self.table.row_security:
            shadow = sql.Identifier(self.schema, name)
            made.append(compose("target/view", "enable_row_security", table=shadow))
        return joined(create.why, [self.drop_ddl().statement, *made])

    def drop_ddl(self) -> Ddl:
        """Drop it."""
        name = sql.Identifier(self.schema, shadow_name(self.table))
        drop = compose("target/schema", "drop_table", table=name)
        return Ddl(f"drop {shadow_name(self.table)}", drop)

    def indexes_ddl(self) -> Ddl:
        """Give it the indexes that the application gave the former table."""
        return Ddl(f"index {shadow_name(self.table)}", self._prepare(INDEXES))

    def fill_ddl(self) -> Ddl:
        """Fill it, which takes more than a statement; ``fill`` does it."""
        text = sql.SQL(
            "-- only setup itself can do this: each row is found by the hash of its text"
        )
        return Ddl(f"copy the vectors of {self.table.full_name}", text)

    def fill(self, session: Session, slices: Iterable[Mapping[Key, Row | None]]) -> None:
        """Fill it from the stored documents, for rows of the source, given slice by slice."""
        where = self.table.embedding_table
        with session.transaction(where) as cursor:
            cursor.execute(self._compose("drop_keys"))
            cursor.execute(self._compose("create_keys"))
        for rows in slices:
            with session.transaction(where) as cursor:
                cursor.copy_expert(self._compose("copy_keys"), copy.CopyInput(self._fields(rows)))
        with session.transaction(where) as cursor:
            for name in ("empty_shadow", "fill_shadow", "drop_keys"):
                cursor.execute(self._compose(name))
            cursor.execute(self.indexes_ddl().statement)

    def _prepare(self, place: int) -> sql.Composed:
        """Return the statement that gives it what the application gave the former table."""
        former = self.table.embedding_table
        indexes = index_names(former)
        return prepare_shadow(self.schema, former, shadow_name(self.table), place, indexes)

    def _fields(self, rows: Mapping[Key, Row | None]) -> Iterator[Sequence[bytes]]:
        table = self.table
        for key, row in rows.items():
            text = None if row is None else table.prepare(_texts(row.texts))
            if row is None or text is None:
                continue
            yield [
                *map(copy.text, key),
                copy.raw(fingerprint(text)),
                copy.raw(table.hash_metadata(row.metadata) or b""),
                *map(copy.text, _texts(row.metadata)),
            ]

    def _compose(self, name: str) -> sql.Composed:
        table = self.table
        keys = [sql.Identifier(f"k{place}") for place in range(1, len(table.key) + 1)]
        values = [sql.Identifier(f"v{place}") for place in range(1, len(table.metadata) + 1)]
        former = [sql.Identifier(column) for column in self.stored.key]
        return compose(
            "target/shadow",
            name,
            definitions=_COMMA.join(
                [
                    *(sql.SQL("{} text").format(key) for key in keys),
                    sql.SQL("fingerprint bytea, metadata_hash bytea"),
                    *(sql.SQL("{} text").format(value) for value in values),
                ]
            ),
            shadow=sql.Identifier(self.schema, shadow_name(table)),
            table=sql.Identifier(self.schema, table.embedding_table),
            key=_COMMA.join(sql.Identifier(column.name) for column in table.key),
            typed_keys=_typed(keys, table.key),
            metadata=sql.SQL("").join(
                sql.SQL(", {}").format(sql.Identifier(column.name)) for column in table.metadata
            ),
            typed_metadata=sql.SQL("").join(
                sql.SQL(", {}").format(each) for each in _each_typed(values, table.metadata)
            ),
            former_key=_COMMA.join(former),
            same_document=sql.SQL(" and ").join(
                sql.SQL("t.{0} = d.{0}").format(column) for column in former
            ),
            row=sql.Identifier(next(c for c in CHUNK_COLUMNS if c in self.stored.columns)),
            vector_type=sql.SQL(self.vector_type),
            space=sql.Literal(self.space),
        )


def _texts(values: Sequence[Value]) -> list[str | None]:
    """Return values that were read, which are never unchanged ones."""
    return [None if value is UNCHANGED else value for value in values]


def _typed(names: Sequence[sql.Identifier], columns: Sequence[TableColumn]) -> sql.Composed:
    return _COMMA.join(_each_typed(names, columns))


def _each_typed(
    names: Sequence[sql.Identifier], columns: Sequence[TableColumn]
) -> list[sql.Composed]:
    return [
        sql.SQL("s.{}::{}").format(name, sql.SQL(column.type))
        for name, column in zip(names, columns, strict=True)
    ]
