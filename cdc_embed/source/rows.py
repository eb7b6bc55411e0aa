"""Reads of the source's rows, by key if the log did not carry their text, or one after another.

Three facts make a plain SELECT unsound here. First, a transaction can be decoded before a SELECT
sees it, because its commit still waits for a synchronous standby. So the read's own snapshot must
see the transaction that caused the read, or the caller must get the snapshot. Second, a snapshot
from before a TRUNCATE or a rewrite shows an empty table. So the table's files must be the same
before and after the read. Third, a statement names a table, and another one can have the name for a
while. So each transaction proves that it read the table that is followed.

A read returns no more text than ``part_bytes`` and one row, whatever the lengths and their order,
because the server adds them up before it sends a row.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Event
from typing import Any, Final, NamedTuple

from psycopg2 import sql

from cdc_embed.change.action import Row
from cdc_embed.change.compare import KeyColumn
from cdc_embed.change.document import Key, Table
from cdc_embed.change.snapshot import Snapshot, widen
from cdc_embed.errors import SourceUnavailableError, UnprovenError
from cdc_embed.postgres.session import Session
from cdc_embed.postgres.side import CANCELLED, RowRefusedError
from cdc_embed.source.comparison import EVERY_ROW, between, following, narrowed
from cdc_embed.source.row_statements import compose_count, compose_read, key_arrays, key_values
from cdc_embed.sql import queries

POLL_SECONDS: Final = 0.05
"""The seconds between two checks whether a transaction has become visible."""
PART_BYTES: Final = 4 << 20
"""The bytes of text that are read together. Several parts are in flight, each several times as
large in memory."""
PARTS_IN_MEMORY: Final = 32
"""The parts that ``limits.memory`` has room for, with all that is made of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """Rows as one snapshot shows them."""

    rows: dict[Key, Row | None]
    """The rows by key; None if there is no such row."""
    snapshot: Snapshot
    more: bool = False
    """Whether the table has further rows after these."""
    rest: tuple[Key, ...] = ()
    """The keys that were asked for and not read, because a part was full."""


class _PartSize(NamedTuple):
    """The rows and the bytes of text that one part has at the most."""

    rows: int
    bytes: int


class _Part(NamedTuple):
    """Rows that one statement returned."""

    rows: dict[Key, Row | None]
    more: bool = False
    rest: tuple[Key, ...] = ()


def part_bytes(memory: int) -> int:
    """Return the bytes of one part, with this limit for pending changes."""
    return max(1, min(PART_BYTES, memory // PARTS_IN_MEMORY))


class RowReader:
    """Reads current rows. Not for two threads at once.

    Every method raises ``SourceUnavailableError`` when the connection fails, and when another table
    has the name of the one to be read.
    """

    def __init__(self, session: Session, stop: Event, *, part_bytes: int = PART_BYTES) -> None:
        self._session = session
        self._stop = stop
        self._part_bytes = part_bytes
        self.waiting_for: int | None = None
        """The transaction whose visibility is waited for; ``status`` shows it."""

    def close(self) -> None:
        self._session.close()

    def read(self, table: Table, wanted: Mapping[Key, int]) -> dict[Key, Row | None]:
        """Return the first of the rows ``wanted`` (key to the xid that must be visible), as many as
        a part holds; None if there is no such row.

        Waits until every xid is visible. Raises ``SourceUnavailableError`` also when the service
        stops meanwhile.
        """
        try:
            while True:
                found = self._read_keys(table, list(wanted), _fetch_rows, wanted.values())
                if found is not None:
                    return found.rows
                if self._stop.wait(POLL_SECONDS):
                    raise SourceUnavailableError(problem="stopped while waiting for a commit")
        finally:
            self.waiting_for = None

    def scan_keys(self, table: Table, keys: Collection[Key]) -> Scan | None:
        """Return the rows with these keys, or the first of them; None when the table was rewritten
        meanwhile."""
        return self._read_keys(table, list(keys), _fetch_rows)

    def scan_missing(self, table: Table, keys: Collection[Key]) -> Scan | None:
        """Return the keys that have no row; None when the table was rewritten meanwhile."""
        return self._read_keys(table, list(keys), _fetch_missing)

    def scan(
        self, table: Table, after: Key | None, rows: int, leaf: int | None = None
    ) -> Scan | None:
        """Return the rows that follow ``after`` in the order of the key, as many as a part holds.

        Returns at least one row, where there is one; None when the table was rewritten meanwhile.
        Raises ``UnprovenError`` when these are not all rows up to the last one. ``leaf``: the oid
        of a leaf partition, of which alone rows are read.
        """

        def fetch(cursor: Any) -> _Part:
            own = EVERY_ROW if leaf is None else _leaf_condition(cursor, leaf)
            return _fetch_in_order(cursor, table, after, _PartSize(rows, self._part_bytes), own)

        try:
            return self._read(table, fetch)
        except RowRefusedError:
            if after is None:
                raise
        # the position of the scan is not a value of the key's type any more
        return self.scan(table, None, rows, leaf)

    def count(self, table: Table, bounds: Sequence[Key] = ()) -> tuple[int, int]:
        """Return the number of rows, whatever their key, and of those in the parts between these
        bounds, in one snapshot; all, if they cannot be told by the table's index."""
        with self._session.transaction(table.full_name) as cursor:
            cursor.execute(queries("source/tables")["begin_count"])
            cursor.execute(*compose_count(table, bounds))
            counts = cursor.fetchone()
            _expect_followed(cursor, table)
        return counts[0], counts[-1]

    def key_columns(self, table: Table) -> list[KeyColumn]:
        """Return the columns by which the table's rows are told apart, as the catalogue has them
        now."""
        with self._session.transaction(table.full_name) as cursor:
            cursor.execute(queries("source/tables")["key_columns"], {"oid": table.oid})
            return [KeyColumn(*row) for row in cursor.fetchall()]

    def text_size(self, table: Table) -> tuple[int, int]:
        """Return (rows, bytes of text).

        Reads the whole table, but no out-of-line value.
        """
        with self._session.transaction(table.full_name) as cursor:
            cursor.execute(queries("source/tables")["begin_count"])
            cursor.execute(compose_read("text_size", table))
            rows, size = cursor.fetchone()
            _expect_followed(cursor, table)
        return rows, size

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

    def _read_keys(
        self,
        table: Table,
        keys: list[Key],
        fetch: Callable[[Any, Table, list[Key], int], _Part],
        xids: Collection[int] = (),
    ) -> Scan | None:
        """Return the rows of the first keys; a key that is not a value of its type any more has no
        row."""
        try:
            return self._read(
                table, lambda cursor: fetch(cursor, table, keys, self._part_bytes), xids
            )
        except RowRefusedError:
            if len(keys) == 1:
                return Scan(rows={keys[0]: None}, snapshot=self.snapshot())
        middle = len(keys) // 2
        found = self._read_keys(table, keys[:middle], fetch, xids)
        return found and replace(found, rest=(*found.rest, *keys[middle:]))

    def _read(
        self, table: Table, fetch: Callable[[Any], _Part], xids: Collection[int] = ()
    ) -> Scan | None:
        """Fetch in one snapshot; None when the snapshot does not see the ``xids``, when the table's
        files changed during the read, or when the read gave way to a statement of another."""
        try:
            return self._read_once(table, fetch, xids)
        except SourceUnavailableError as exc:
            if exc.fields.get("state") != CANCELLED:
                raise
            return None

    def _read_once(
        self, table: Table, fetch: Callable[[Any], _Part], xids: Collection[int]
    ) -> Scan | None:
        with self._session.transaction(table.full_name) as cursor:
            files, _ = _state_of_read(cursor, table)
        with self._session.transaction(table.full_name, rows=True) as cursor:
            cursor.execute(queries("source/tables")["begin_read"])
            snapshot = _snapshot(cursor)
            self.waiting_for = next((xid for xid in xids if not snapshot.sees(xid)), None)
            if self.waiting_for is not None:
                return None
            part = fetch(cursor)
            if _expect_followed(cursor, table) != files:
                return None
        return Scan(rows=part.rows, snapshot=snapshot, more=part.more, rest=part.rest)


def _snapshot(cursor: Any) -> Snapshot:
    cursor.execute(queries("source/tables")["snapshot"])
    return Snapshot.parse(cursor.fetchone()[0])


def _expect_followed(cursor: Any, table: Table) -> str:
    """Return the files of the table that this transaction read; raise if another one has its name.

    A lock stays until the end of the transaction, so the locks tell what the names in its
    statements were.
    """
    files, followed = _state_of_read(cursor, table)
    if not followed:
        raise SourceUnavailableError(problem=f"{table.full_name} is the name of another table now")
    return files


def _state_of_read(cursor: Any, table: Table) -> tuple[str, bool]:
    cursor.execute(queries("source/tables")["state_of_read"], {"oid": table.oid})
    files, followed = cursor.fetchone()
    return files, followed


def _fetch_rows(cursor: Any, table: Table, keys: list[Key], most: int) -> _Part:
    """Fetch rows under the keys as given: ``1.0`` finds the row ``1.00`` of a numeric key."""
    cursor.execute(compose_read("read_rows", table), {**key_arrays(table, keys), "bytes": most})
    fetched = cursor.fetchall()
    places = [row[0] for row in fetched]
    if len(set(places)) < len(places):
        raise UnprovenError(table=table.full_name, problem="one key has two rows")
    full = bool(fetched) and fetched[-1][-1] >= most
    read = keys[: places[-1]] if full else keys
    rows: dict[Key, Row | None] = dict.fromkeys(read)
    text = 1 + len(table.text_columns)
    for row in fetched:
        rows[keys[row[0] - 1]] = Row(tuple(row[1:text]), tuple(row[text:-1]))
    return _Part(rows, rest=tuple(keys[len(read) :]))


def _fetch_missing(cursor: Any, table: Table, keys: list[Key], _: int) -> _Part:
    cursor.execute(compose_read("present_keys", table), key_arrays(table, keys))
    present = {tuple(row) for row in cursor.fetchall()}
    return _Part({key: None for key in keys if key not in present})


def _leaf_condition(cursor: Any, leaf: int) -> sql.Composed:
    """Return the condition that only the rows of a partition meet; no row if it is none any more.

    The rows are read through the table, because the right to read it need not be one to read its
    partitions. The server leaves the other partitions out.
    """
    cursor.execute(queries("source/tables")["leaf_condition"], {"leaf": leaf})
    condition = cursor.fetchone()[0]
    return sql.Composed([sql.SQL("false" if condition is None else condition.replace("%", "%%"))])


def _fetch_in_order(
    cursor: Any, table: Table, after: Key | None, most: _PartSize, own: sql.Composed
) -> _Part:
    """Fetch rows by the conditions that follow one another, until a part is full.

    ``own``: the condition that each row meets.
    """
    fetched: list[tuple[Any, ...]] = []
    spent = 0
    for condition in following(table) if after is not None else [EVERY_ROW]:
        if len(fetched) == most.rows or spent >= most.bytes:
            break
        left = {"rows": most.rows - len(fetched), "bytes": most.bytes - spent}
        statement = compose_read("scan_rows", table, narrowed(own, condition))
        cursor.execute(statement, {**key_values("k", after), **left})
        found = cursor.fetchall()
        spent += found[-1][-1] if found else 0
        fetched += found
    key, text = len(table.key), len(table.key) + len(table.text_columns)
    rows: dict[Key, Row | None] = {
        tuple(map(str, row[:key])): Row(tuple(row[key:text]), tuple(row[text:-1]))
        for row in fetched
    }
    more = len(fetched) == most.rows or spent >= most.bytes
    count = _count(cursor, table, after, next(reversed(rows)) if more else None, own)
    if len(rows) < len(fetched) or count not in {None, len(rows)}:
        raise UnprovenError(
            table=table.full_name,
            problem=f"{len(fetched)} rows with {len(rows)} keys were read where {count} are",
        )
    return _Part(rows, more=more)


def _count(
    cursor: Any, table: Table, after: Key | None, last: Key | None, own: sql.Composed
) -> int | None:
    """Count the rows after one key up to another, which a read of them must have returned.

    Return None if they cannot be counted by the table's index, and only the number of all rows
    tells.
    """
    condition = between(table, after=after is not None, last=last is not None)
    if condition is None:
        return None
    statement = compose_read("count_rows", table, narrowed(own, condition))
    cursor.execute(statement, {**key_values("k", after), **key_values("l", last)})
    rows: int = cursor.fetchone()[0]
    return rows
