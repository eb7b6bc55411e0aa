"""The slot and its server, read with SQL: the slot's reader, its position, its retained log."""

from dataclasses import dataclass
from typing import Any, Final

from psycopg2 import sql
from psycopg2.extensions import encodings

from cdc_embed.errors import PreflightError, SlotBusyError
from cdc_embed.lsn import LSN, Identity
from cdc_embed.postgres.ddl import Ddl, compose
from cdc_embed.postgres.session import Session
from cdc_embed.source.hosting import HOSTINGS, OWN, Hosting, hosting_of
from cdc_embed.sql import queries

WAL_PAGE: Final = 8192
WAL_HEADER: Final = 24
"""The bytes of the header of a page."""
WAL_SEGMENT_HEADER: Final = 40
"""The bytes of the header of a segment's first page."""
UNKNOWN_OWNER: Final = "unknown"
"""The owner of a slot whose reader has just left or has no name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The settings of the server on which logical decoding depends."""

    version: int
    """The ``server_version_num``, e.g. 180004."""
    version_text: str
    wal_level: str
    max_replication_slots: int
    in_recovery: bool
    may_replicate: bool
    encoding: str
    max_slot_wal_keep_size: str
    user: str
    """The role, quoted where SQL needs it."""
    allowed_plugins: str | None
    """The ``output_plugin_libraries``; None where it is hidden from the role, or is no setting."""
    hosting: Hosting = OWN

    @property
    def codec(self) -> str:
        """The name of Python's codec for the database's encoding."""
        name: str = encodings[self.encoding]
        return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A replication slot as ``pg_replication_slots`` shows it."""

    name: str
    plugin: str | None
    database: str | None
    active: bool
    active_pid: int | None
    confirmed_lsn: LSN | None
    restart_lsn: LSN | None
    wal_status: str | None
    retained_bytes: int | None
    safe_wal_bytes: int | None
    kind: str
    owner: str
    wal_end: LSN
    oldest_transaction_seconds: float | None
    """The age of the oldest transaction that holds the log back; None when there is none."""
    failover: bool = False
    """Whether standbys copy it."""
    waits_for: tuple[str, ...] = ()
    """The standbys' slots without which its server sends no change now."""

    @property
    def lost(self) -> bool:
        return self.wal_status == "lost"


def expect_idle(slot: Slot, command: str) -> None:
    """Raise ``SlotBusyError`` when a session reads the slot, because ``command`` cannot run
    then."""
    if slot.active and slot.active_pid is not None:
        raise SlotBusyError(
            slot=slot.name,
            pid=slot.active_pid,
            owner=slot.owner,
            hint=f"stop the service that reads it, then run: {command}",
        )


def create_slot_ddl(slot: str, plugin: str, failover: bool) -> Ddl:
    """Make the slot; with ``failover`` standbys copy it (PostgreSQL 17 and newer)."""
    query = "create_failover_slot" if failover else "create_slot"
    return _slot_ddl(query, "make the replication slot", slot, plugin)


def drop_slot_ddl(slot: str, plugin: str) -> Ddl:
    """Drop a logical slot of this database and plugin; leave any other slot of its name."""
    return _slot_ddl("drop_slot", f"drop slot {slot}", slot, plugin)


def _slot_ddl(query: str, why: str, slot: str, plugin: str) -> Ddl:
    parts = {"slot": sql.Literal(slot), "plugin": sql.Literal(plugin)}
    return Ddl(why, compose("source/slot", query, **parts))


def end_of_records(insert: LSN, segment: int) -> LSN:
    """Return the end of the log when the next record goes to ``insert``, with segments of this
    size.

    An insert position directly after a page's header means the start of the page, because the page
    is still empty. The same number of bytes after the start of another page, a record can have
    ended.
    """
    header = WAL_SEGMENT_HEADER if insert % segment < WAL_PAGE else WAL_HEADER
    behind = insert % WAL_PAGE
    return LSN(insert - behind) if behind == header else insert


class SlotCatalogue:
    """The catalogue's facts about one slot, its server and its transactions.

    Raises ``SourceUnavailableError``, ``AuthenticationError`` or ``PreflightError``.
    """

    def __init__(self, session: Session, slot: str) -> None:
        self._session = session
        self._name = slot

    def identity(self) -> Identity:
        system_identifier, database, timeline = self._row("identity")
        return Identity(system_identifier=system_identifier, database=database, timeline=timeline)

    def server(self) -> Server:
        marks = [mark for hosting in HOSTINGS for mark in hosting.marks]
        row = self._one("server", {"marks": marks})
        return Server(
            version=row[0],
            version_text=row[1],
            wal_level=row[2],
            max_replication_slots=row[3],
            in_recovery=row[4],
            may_replicate=row[5],
            encoding=row[6],
            max_slot_wal_keep_size=row[7],
            user=row[8],
            allowed_plugins=row[9],
            hosting=hosting_of(row[10]),
        )

    def slot(self) -> Slot | None:
        """Return the slot, or None when there is none of that name."""
        row = self._one("slot", {"slot": self._name})
        if row is None:
            return None
        return Slot(
            name=row[0],
            plugin=row[1],
            database=row[2],
            active=row[3],
            active_pid=row[4],
            confirmed_lsn=_lsn(row[5]),
            restart_lsn=_lsn(row[6]),
            wal_status=row[7],
            retained_bytes=row[8],
            safe_wal_bytes=row[9],
            kind=row[10],
            owner=row[11] or row[12] or UNKNOWN_OWNER,
            wal_end=LSN.parse(row[13]),
            oldest_transaction_seconds=row[14],
            failover=row[15],
            waits_for=tuple(row[16] or ()),
        )

    def wal_end(self) -> LSN:
        """Return the end of the log. Every transaction that is committed now ends at or before
        it."""
        position, segment = self._row("wal_end")
        return end_of_records(LSN.parse(position), segment)

    def slot_count(self) -> int:
        count: int = self._row("slot_count")[0]
        return count

    def transactions_waited_for(self) -> list[str]:
        """Describe the transactions that a slot waits for while it is being created."""
        statement = queries("source/slot")["transactions_waited_for"]
        return [row[0] for row in self._session.fetch("catalogue", statement)]

    def anchor(self) -> None:
        """Write an empty logical message, so that a stream that begins now has a message with a
        position before it tells of a new one by a keepalive."""
        self._row("anchor")

    def refuse_synchronous(self, application_name: str) -> None:
        """Raise when commits on the source wait, or would wait, for our own stream."""
        if self._one("synchronous_walsender", {"application_name": application_name})[0]:
            raise PreflightError(
                where="synchronous_standby_names",
                problem="it makes this service a synchronous standby, so every commit of the "
                "application would wait for an embedding",
                hint="name the real standbys in synchronous_standby_names, not '*'",
            )

    def _row(self, name: str) -> Any:
        return self._one(name, {})

    def _one(self, name: str, values: dict[str, object]) -> Any:
        rows = self._session.fetch("catalogue", queries("source/slot")[name], values)
        return rows[0] if rows else None


def _lsn(text: str | None) -> LSN | None:
    return None if text is None else LSN.parse(text)
