"""The dead letters, for the command line: list, choose, count, forget.

The service writes them, in the transactions of its batches (see ``write``); this module does not.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg2 import sql

from cdc_embed.change.document import Key, Table
from cdc_embed.postgres.ddl import compose
from cdc_embed.postgres.session import Session

LONGEST_ERROR: Final = 2000
"""The characters of an error that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A document that cannot be embedded."""

    id: int
    table: str
    """The full name of the source table."""
    key: dict[str, str]
    """The key columns' values as text, by name."""
    fingerprint: bytes
    """The fingerprint, as in ``change.knowledge.Refused``."""
    model: str
    reason: str
    error: str
    attempts: int
    first_at: datetime
    last_at: datetime

    def key_in(self, table: Table) -> Key:
        """Return the key of the letter's row in ``table``, which is the source table."""
        return tuple(self.key.get(column.name, "") for column in table.key)


def storable(text: str, encoding: str) -> str:
    """Return a text in a form that fits into a target of this encoding, whatever is in it.

    One row whose error cannot be stored would stop all others.
    """
    codec = "utf-8" if encoding == "UTF8" else "ascii"
    fit = text.replace("\0", "\\x00").encode(codec, "backslashreplace").decode(codec)
    return fit[:LONGEST_ERROR]


class Letters:
    """Reads and forgets dead letters. Not for two threads at once."""

    def __init__(self, session: Session, schema: str) -> None:
        self._session = session
        self._schema = schema

    def find(self, tables: Collection[str], ids: Collection[int] | None = None) -> list[Letter]:
        """Return letters of some source tables, all or only these ids, in the order of the ids."""
        values = {"table_names": list(tables), "ids": None if ids is None else list(ids)}
        with self._session.transaction("dead_letter") as cursor:
            cursor.execute(self._sql("find_letters"), values)
            return [_letter(row) for row in cursor.fetchall()]

    def count(self) -> dict[str, int]:
        """Return the number of dead letters of each source table that has any."""
        with self._session.transaction("dead_letter") as cursor:
            cursor.execute(self._sql("count_letters"))
            return dict(cursor.fetchall())

    def drop(self, ids: Collection[int]) -> int:
        """Forget letters; return their number."""
        with self._session.transaction("dead_letter") as cursor:
            cursor.execute(self._sql("drop_letters"), {"ids": list(ids)})
            dropped: int = cursor.rowcount
        return dropped

    def _sql(self, name: str) -> sql.Composed:
        return compose("target/letters", name, schema=sql.Identifier(self._schema))


def _letter(row: Sequence[Any]) -> Letter:
    return Letter(
        id=row[0],
        table=row[1],
        key={name: str(value) for name, value in row[2].items()},
        fingerprint=bytes(row[3]),
        model=row[4],
        reason=row[5],
        error=row[6],
        attempts=row[7],
        first_at=row[8],
        last_at=row[9],
    )
