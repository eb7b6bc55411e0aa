"""Reading rows again by key, when the change log did not carry their text.

Two facts make a plain SELECT unsound here. A transaction can be decoded before a SELECT sees it
(its commit still waits for a synchronous standby), so the read's own snapshot must see the
transaction that asked for it. And a snapshot from before a TRUNCATE or a rewrite of the table
shows an empty table, so the table's files must be the same before and after.
"""

from collections.abc import Iterable, Mapping
from threading import Event
from typing import Any, Final

from psycopg2 import sql

from cdc_embed.change.document import Key, Table
from cdc_embed.change.plan import Texts
from cdc_embed.errors import SourceUnavailableError
from cdc_embed.session import Session
from cdc_embed.sql import queries

POLL_SECONDS: Final = 0.05
"""Between two looks at whether a transaction has become visible."""


def widen(xid: int, xmax: int) -> int:
    """The 64-bit form of a 32-bit transaction id near ``xmax``, a 64-bit one.

    Ids in use lie within 2^31 of each other, so the signed distance decides the epoch.
    """
    distance = (xid - xmax) & 0xFFFFFFFF
    return xmax + (distance - 0x1_0000_0000 if distance >= 0x8000_0000 else distance)


class RowReader:
    """Reads current texts by key. Not for two threads at once."""

    def __init__(self, session: Session, stop: Event) -> None:
        self._session = session
        self._stop = stop
        self.waiting_for: int | None = None
        """The transaction whose visibility is waited for; for ``status``."""

    def read(self, table: Table, wanted: Mapping[Key, int]) -> dict[Key, Texts | None]:
        """The text columns' values of the rows ``wanted`` (key to the xid that must be visible).

        None stands for a row that is not there. Waits until every xid is visible; raises
        ``SourceUnavailableError`` when the connection fails or the service stops.
        """
        try:
            while True:
                found = self._try(table, wanted)
                if found is not None:
                    return {key: found.get(key) for key in wanted}
                if self._stop.wait(POLL_SECONDS):
                    raise SourceUnavailableError(problem="stopped while waiting for a commit")
        finally:
            self.waiting_for = None

    def _try(self, table: Table, wanted: Mapping[Key, int]) -> dict[Key, Texts] | None:
        files = self._files(table)
        with self._session.transaction(table.full_name) as cursor:
            cursor.execute("set transaction isolation level repeatable read, read only")
            if not self._sees(cursor, wanted.values()):
                return None
            cursor.execute(_read_rows(table), _arrays(list(wanted), len(table.key)))
            rows = cursor.fetchall()
            cursor.execute(queries("source/tables")["file_nodes"], {"oid": table.oid})
            if cursor.fetchone()[0] != files:
                return None
        width = len(table.key)
        return {tuple(row[:width]): tuple(row[width:]) for row in rows}

    def _files(self, table: Table) -> Any:
        with self._session.transaction(table.full_name) as cursor:
            cursor.execute(queries("source/tables")["file_nodes"], {"oid": table.oid})
            return cursor.fetchone()[0]

    def _sees(self, cursor: Any, xids: Iterable[int]) -> bool:
        cursor.execute(queries("source/tables")["snapshot"])
        snapshot, xmax = cursor.fetchone()
        wide = [str(widen(xid, xmax)) for xid in set(xids)]
        cursor.execute(queries("source/tables")["visible"], {"xids": wide, "snapshot": snapshot})
        unseen = cursor.fetchone()
        self.waiting_for = None if unseen is None else int(unseen[0])
        return unseen is None


def _read_rows(table: Table) -> sql.Composed:
    """Columns in their output functions' own form: a cast to text would trim ``character(n)``."""
    output = sql.SQL("case when {0} is not null then format('%%s', {0}) end")
    columns = [sql.Identifier("t", column.name) for column in table.key]
    names = [sql.Identifier(f"k{place}") for place in range(len(columns))]
    return sql.SQL(queries("source/tables")["read_rows"]).format(
        keys=sql.SQL(", ").join(output.format(column) for column in columns),
        texts=sql.SQL(", ").join(
            output.format(sql.Identifier("t", name)) for name in table.text_columns
        ),
        table=sql.Identifier(table.schema, table.name),
        key_arrays=sql.SQL(", ").join(
            sql.SQL("{}::text[]").format(sql.Placeholder(f"k{place}"))
            for place in range(len(columns))
        ),
        key_names=sql.SQL(", ").join(names),
        key_matches=sql.SQL(" and ").join(
            sql.SQL("{} = {}::{}").format(column, sql.Identifier("k", f"k{place}"), sql.SQL(kind))
            for place, (column, kind) in enumerate(
                zip(
                    columns,
                    (column.source_type or column.type for column in table.key),
                    strict=True,
                )
            )
        ),
    )


def _arrays(keys: list[Key], width: int) -> dict[str, list[str]]:
    return {f"k{place}": [key[place] for key in keys] for place in range(width)}
