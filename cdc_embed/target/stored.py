"""The stored documents of a table, as a comparison needs them: their keys in the target's order,
their number, and the end of those of former spaces. It reads no text.
"""

from collections.abc import Iterator
from typing import Any, Final

from psycopg2 import sql

from cdc_embed.change.compare import KeyColumn
from cdc_embed.change.document import Key, Table
from cdc_embed.postgres.ddl import compose
from cdc_embed.postgres.session import Session

PAGES: Final = 1024
"""The pages of a table of vectors, with four rows each, of which one transaction deletes
vectors."""


class StoredDocuments:
    """Reads the tables of vectors of one slot. Not for two threads at once."""

    def __init__(self, session: Session, schema: str, slot: str) -> None:
        self._session = session
        self._schema = schema
        self._slot = slot

    def close(self) -> None:
        """Close the session."""
        self._session.close()

    def stored_keys(self, table: Table, after: Key | None, limit: int) -> list[Key]:
        """Return keys that have vectors, in the order of the target."""
        values = {f"k{place}": value for place, value in enumerate(after or ())}
        name = "stored_keys" if after is not None else "first_stored_keys"
        return self._keys(table, name, {**values, "limit": limit})

    def stored_key_columns(self, table: Table) -> list[KeyColumn]:
        """Return the columns by which a table's vectors are stored, as the catalogue has them."""
        values = {"schema": self._schema, "name": table.embedding_table}
        with self._session.transaction(table.embedding_table) as cursor:
            cursor.execute(self._sql("stored_key_columns", table), values)
            return [KeyColumn(*row) for row in cursor.fetchall()]

    def count_shown(self, table: Table) -> tuple[int, int]:
        """Return (documents that the search view shows, documents that are stored)."""
        with self._session.transaction(table.search_view) as cursor:
            cursor.execute(self._sql("count_shown", table))
            shown, stored = cursor.fetchone()
        return shown, stored

    def sample_keys(self, table: Table, space: int, limit: int) -> list[Key]:
        """Return keys of random documents."""
        return self._keys(table, "sample_keys", {"space": space, "limit": limit})

    def letter_keys(self, table: Table) -> list[Key]:
        """Return the keys that have a dead letter."""
        with self._session.transaction("dead_letter") as cursor:
            cursor.execute(self._sql("letter_keys", table), {"table_name": table.full_name})
            found = [row[0] for row in cursor.fetchall()]
        return [tuple(str(key.get(column.name)) for column in table.key) for key in found]

    def delete_other_spaces(self, table: Table, space: int, epoch: int) -> Iterator[int]:
        """Delete the vectors of former spaces, once every document has its vectors in the new one.

        Deletes some pages' vectors in each transaction, so that a batch waits for none of them
        long, and yields the number of vectors after each. Nothing happens when another instance
        took over.
        """
        values = {
            "table_name": table.full_name,
            "space": space,
            "slot": self._slot,
            "epoch": epoch,
        }
        for page in range(0, self._count_pages(table), PAGES):
            with self._session.transaction(table.embedding_table) as cursor:
                part = {**values, "page": page, "pages": PAGES}
                cursor.execute(self._sql("delete_other_spaces", table), part)
                deleted: int = cursor.rowcount
            yield deleted
        with self._session.transaction("dead_letter") as cursor:
            cursor.execute(self._sql("delete_other_letters", table), values)

    def _count_pages(self, table: Table) -> int:
        with self._session.transaction(table.embedding_table) as cursor:
            name = sql.Identifier(self._schema, table.embedding_table).as_string(cursor)
            cursor.execute(self._sql("count_pages", table), {"table": name})
            pages: int = cursor.fetchone()[0]
        return pages

    def _keys(self, table: Table, name: str, values: dict[str, Any]) -> list[Key]:
        with self._session.transaction(table.embedding_table) as cursor:
            cursor.execute(self._sql(name, table), values)
            return [tuple(row) for row in cursor.fetchall()]

    def _sql(self, name: str, table: Table) -> sql.Composed:
        parts = _table_parts(self._schema, table)
        return compose("target/reconcile", name, schema=sql.Identifier(self._schema), **parts)


def _table_parts(schema: str, table: Table) -> dict[str, sql.Composable]:
    columns = [sql.Identifier(column.name) for column in table.key]
    return {
        "table": sql.Identifier(schema, table.embedding_table),
        "view": sql.Identifier(schema, table.search_view),
        "key": sql.SQL(", ").join(columns),
        "key_texts": sql.SQL(", ").join(
            sql.SQL("format('%%s', {})").format(column) for column in columns
        ),
        "after": sql.SQL(", ").join(
            sql.SQL("{}::{}").format(sql.Placeholder(f"k{place}"), sql.SQL(column.type))
            for place, column in enumerate(table.key)
        ),
    }
