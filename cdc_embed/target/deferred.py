"""The deferred rows, for who reads and embeds them beside the stream.

Batches write and clear them, in their own transactions (see ``write``); this module only reads.
"""

from collections.abc import Sequence
from typing import NamedTuple

from psycopg2 import sql

from cdc_embed.change.batch import RowId
from cdc_embed.change.document import Table
from cdc_embed.postgres.ddl import compose
from cdc_embed.postgres.session import Session


class Note(NamedTuple):
    """A row whose text waits for the embedder."""

    id: int
    row: RowId


class DeferredRows:
    """Reads the deferred rows of some tables, the oldest first."""

    def __init__(self, session: Session, schema: str) -> None:
        self._session = session
        self._schema = schema

    def page(self, tables: Sequence[Table], after: int, limit: int) -> list[Note]:
        """Return the next rows behind the number ``after``."""
        named = {table.full_name: table for table in tables}
        values = {"table_names": list(named), "after": after, "limit": limit}
        page = compose("target/deferred", "deferred_page", schema=sql.Identifier(self._schema))
        with self._session.transaction("deferred") as cursor:
            cursor.execute(page, values)
            found = cursor.fetchall()
        return [
            Note(number, (table, tuple(str(key.get(column.name)) for column in table.key)))
            for number, name, key in found
            if (table := named[name])
        ]
