"""The rows of the source: by key, when the log did not carry their text, or one after another.

Two facts make a plain SELECT unsound here. First, a transaction can be decoded before a SELECT sees
it, because its commit still waits for a synchronous standby. So the read's own snapshot must see
the transaction that caused the read, or the caller must get the snapshot. Second, a snapshot from
before a TRUNCATE or a rewrite shows an empty table. So the table's files must be the same before
and after the read.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from threading import Event
from typing import Any, Final

from psycopg2 import sql

from cdc_embed.change.action import Row
from cdc_embed.change.document import Key, Table
from cdc_embed.change.snapshot import Snapshot, widen
from cdc_embed.errors import SourceUnavailableError
from cdc_embed.postgres.ddl import compose
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import RowRefusedError
from cdc_embed.source.comparison import comparison_parts, following, output_of
from cdc_embed.sql import queries

POLL_SECONDS: Final = 0.05
"""Seconds between two checks whether a transaction has become visible."""
FIRST_FETCH: Final = 4
"""Rows of the first fetch, while their length is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """Rows as one snapshot shows them."""

    rows: dict[Key, Row | None]
    """The rows by key; None: there is no such row."""
    snapshot: Snapshot
    more: bool = False
    """The table has further rows after these."""


class RowReader:
    """Reads current rows. Not for two threads at once.

    Every method raises ``SourceUnavailableError`` when the connection fails.
    """

    def __init__(self, session: Session, stop: Event) -> None:
        self._session = session
        self._stop = stop
        self.waiting_for: int | None = None
        """The transaction whose visibility is waited for; ``status`` shows it."""

    def close(self) -> None:
        self._session.close()

    def read(self, table: Table, wanted: Mapping[Key, int]) -> dict[Key, Row | None]:
        """Return the rows ``wanted`` (key to the xid that must be visible); None: there is no such
        row.

        Waits until every xid is visible. Raises ``SourceUnavailableError`` also when the service
        stops meanwhile.
        """
        try:
            while True:
                found = self._parts(table, list(wanted), _by_key, wanted.values())
                if found is not None:
                    return {key: found.rows.get(key) for key in wanted}
                if self._stop.wait(POLL_SECONDS):
                    raise SourceUnavailableError(problem="stopped while waiting for a commit")
        finally:
            self.waiting_for = None

    def scan_keys(self, table: Table, keys: Collection[Key]) -> Scan | None:
        """Return the rows with these keys; None when the table was rewritten meanwhile."""
        found = self._parts(table, list(keys), _by_key)
        if found is None:
            return None
        return Scan(rows={key: found.rows.get(key) for key in keys}, snapshot=found.snapshot)

    def scan_missing(self, table: Table, keys: Collection[Key]) -> Scan | None:
        """Return the keys that have no row; None when the table was rewritten meanwhile."""
        found = self._parts(table, list(keys), _present)
        if found is None:
            return None
        gone: dict[Key, Row | None] = {key: None for key in keys if key not in found.rows}
        return Scan(rows=gone, snapshot=found.snapshot)

    def scan(self, table: Table, after: Key | None, rows: int, characters: int) -> Scan | None:
        """Return the rows that follow ``after`` in the order of the key, within both limits.

        Returns at least one row, where there is one; None when the table was rewritten meanwhile.
        """
        try:
            return self._read(
                table, lambda cursor: _in_order(cursor, table, after, rows, characters)
            )
        except RowRefusedError:
            if after is None:
                raise
        # the position of the scan is not a value of the key's type any more
        return self.scan(table, None, rows, characters)

    def snapshot(self) -> Snapshot:
        """Return the snapshot of a transaction that begins now."""
        with self._session.transaction("snapshot") as cursor:
            return _snapshot(cursor)

    def next_xid(self) -> int:
        """Return an id, of 64 bits, that no transaction had before.

        A snapshot's ``xmax`` is not enough, because running transactions can be at or beyond it.
        """
        with self._session.transaction("snapshot", keep=False) as cursor:
            cursor.execute(queries("source/tables")["next_xid"])
            xid: int = cursor.fetchone()[0]
        return xid

    def running_before(self, xid: int) -> list[str]:
        """Describe the transactions that began to write before ``xid``, a 64-bit id."""
        with self._session.transaction("snapshot") as cursor:
            cursor.execute(queries("source/tables")["running"])
            return [who for running, who in cursor.fetchall() if widen(running, xid) < xid]

    def _parts(
        self,
        table: Table,
        keys: list[Key],
        fetch: Callable[[Any, Table, Collection[Key]], tuple[dict[Key, Row], bool]],
        xids: Collection[int] = (),
    ) -> Scan | None:
        """Return the rows of some keys; a key that is not a value of its type any more has no
        row."""
        try:
            return self._read(table, lambda cursor: fetch(cursor, table, keys), xids)
        except RowRefusedError:
            if len(keys) == 1:
                return Scan(rows={}, snapshot=self.snapshot())
        middle = len(keys) // 2
        first = self._parts(table, keys[:middle], fetch, xids)
        second = self._parts(table, keys[middle:], fetch, xids)
        if first is None or second is None:
            return None
        return Scan(rows=first.rows | second.rows, snapshot=first.snapshot)

    def _read(
        self,
        table: Table,
        fetch: Callable[[Any], tuple[dict[Key, Row], bool]],
        xids: Iterable[int] = (),
    ) -> Scan | None:
        """Fetch in one snapshot; None when the snapshot does not see the ``xids``, or when the
        table's files changed during the read."""
        files = self._files(table)
        with self._session.transaction(table.full_name, rows=True) as cursor:
            cursor.execute(queries("source/tables")["begin_read"])
            snapshot = _snapshot(cursor)
            self.waiting_for = next((xid for xid in xids if not snapshot.sees(xid)), None)
            if self.waiting_for is not None:
                return None
            rows, more = fetch(cursor)
            cursor.execute(queries("source/tables")["file_nodes"], {"oid": table.oid})
            if cursor.fetchone()[0] != files:
                return None
        return Scan(rows=dict(rows), snapshot=snapshot, more=more)

    def _files(self, table: Table) -> Any:
        with self._session.transaction(table.full_name) as cursor:
            cursor.execute(queries("source/tables")["file_nodes"], {"oid": table.oid})
            return cursor.fetchone()[0]


def _snapshot(cursor: Any) -> Snapshot:
    cursor.execute(queries("source/tables")["snapshot"])
    return Snapshot.parse(cursor.fetchone()[0])


def _by_key(cursor: Any, table: Table, keys: Collection[Key]) -> tuple[dict[Key, Row], bool]:
    """Fetch rows under the keys as given: ``1.0`` finds the row ``1.00`` of a numeric key."""
    cursor.execute(_compose("read_rows", table), _arrays(table, keys))
    return _rows(table, cursor.fetchall()), False


def _present(cursor: Any, table: Table, keys: Collection[Key]) -> tuple[dict[Key, Row], bool]:
    cursor.execute(_compose("present_keys", table), _arrays(table, keys))
    return {tuple(row): Row(()) for row in cursor.fetchall()}, False


def _arrays(table: Table, keys: Collection[Key]) -> dict[str, list[str]]:
    return {f"k{place}": [key[place] for key in keys] for place in range(len(table.key))}


def _in_order(
    cursor: Any, table: Table, after: Key | None, most: int, characters: int
) -> tuple[dict[Key, Row], bool]:
    """Fetch a few rows first: their length decides the size of the next fetch."""
    found: dict[Key, Row] = {}
    spent = 0
    scanned = _Scanned(cursor.connection, table, after)
    size = FIRST_FETCH
    while len(found) < most and spent < characters:
        fetched = _rows(table, scanned.fetch(min(size, most - len(found))))
        if not fetched:
            return found, False
        found |= fetched
        spent += sum(len(text or "") for row in fetched.values() for text in row.texts)
        size = max(1, (characters - spent) * len(found) // max(spent, 1))
    return found, True


class _Scanned:
    """The rows that follow a key, in its order, by cursors on the server that end with the
    transaction."""

    def __init__(self, connection: Any, table: Table, after: Key | None) -> None:
        self._connection = connection
        self._values = {f"k{place}": value for place, value in enumerate(after or ())}
        self._statements = [
            _compose("scan_rows", table, following=condition)
            for condition in (following(table) if after else ())
        ] or [_compose("scan_first_rows", table)]
        self._cursors = 0
        self._cursor: Any = None

    def fetch(self, rows: int) -> list[tuple[str | None, ...]]:
        """Return up to so many of the next rows; none at the end."""
        while self._cursor is not None or self._statements:
            if self._cursor is None:
                self._cursors += 1
                self._cursor = self._connection.cursor(name=f"scan_{self._cursors}")
                self._cursor.execute(self._statements.pop(0), self._values)
            fetched: list[tuple[str | None, ...]] = self._cursor.fetchmany(rows)
            if fetched:
                return fetched
            self._cursor = None
        return []


def _rows(table: Table, fetched: Iterable[tuple[str | None, ...]]) -> dict[Key, Row]:
    key, text = len(table.key), len(table.key) + len(table.text_columns)
    return {
        tuple(str(value) for value in row[:key]): Row(tuple(row[key:text]), tuple(row[text:]))
        for row in fetched
    }


def _compose(query: str, table: Table, **parts: sql.Composable) -> sql.Composed:
    return compose(
        "source/tables",
        query,
        values=sql.SQL("").join(
            sql.SQL(", {}").format(output_of(sql.Identifier("t", name)))
            for name in (*table.text_columns, *(column.name for column in table.metadata))
        ),
        **comparison_parts(table),
        **parts,
    )
