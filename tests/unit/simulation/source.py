"""The simulated source: its rows, its log and its snapshots."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

from cdc_embed.change.action import Row as Read
from cdc_embed.change.document import Key, Table
from cdc_embed.change.snapshot import Snapshot
from cdc_embed.lsn import LSN, Position
from cdc_embed.wire.messages import (
    LEFT_OUT,
    UNCHANGED,
    Begin,
    Column,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    OldTuple,
    Relation,
    ReplicaIdentity,
    Truncate,
    Update,
)
from tests.builders import NOW
from tests.unit.simulation.data import (
    KEYS,
    LARGE,
    PARTED,
    SPARE,
    TABLES,
    Row,
    refused_by_database,
)
from tests.unit.simulation.partitions import LEAVING, Partitions


class Op(NamedTuple):
    """A step of the application in one table; it does nothing that its rows do not allow."""

    kind: str
    key: int = 0
    other: int = 1
    a: str | None = "a"
    b: str | None = "b"
    table: int = 0
    m: str | None = "m"


class Transaction(NamedTuple):
    messages: list[tuple[LSN, Message]]
    commit_lsn: LSN
    end_lsn: LSN


class Version(NamedTuple):
    """The text of a row in one change; ``new``: under this key it was another before."""

    position: Position
    text: str
    new: bool


Rows = dict[Table, dict[str, Row]]


@dataclass
class Unseen:
    """A commit that is in the log, but that no snapshot sees yet: it waits for a standby.

    Until then it keeps its locks: nobody else changes its rows, or reads a table that it emptied.
    """

    xid: int
    rows: dict[tuple[Table, str], Row | None]
    emptied: set[Table]


class Source:
    """Rows as they are now and as they are seen, and the log of how they came to be."""

    def __init__(self, *, full: bool, leaves_out: bool = False, parted: bool = False) -> None:
        self.rows: Rows = {t: {} for t in TABLES}
        """With what is committed, be it seen or not."""
        self.seen: Rows = {t: {} for t in TABLES}
        self.files: Counter[Table] = Counter()
        """A table gets new ones when it is emptied."""
        self.partitions = Partitions() if parted else None
        self.leaves: dict[LSN, int] = {}
        """The partition of each row in the log, by the row's position."""
        self.unseen: list[Unseen] = []
        self.log: list[Transaction] = []
        self.wal = LSN(1000)
        self.versions: list[Version] = []
        self._full = full
        self._unchanged = LEFT_OUT if leaves_out else UNCHANGED
        self._next_xid = 700
        self._last_ended = 699
        self._open: list[int] = []
        self._messages: list[tuple[LSN, Message]] = []
        self._versions: list[tuple[int, str, bool]] = []
        self._touched: set[tuple[Table, str]] = set()
        self._emptied: set[Table] = set()
        self._ordinal = 0

    # -- transactions ------------------------------------------------------------------------------

    def begin(self) -> None:
        """A transaction gets its id; what it changes comes with a later ``commit``."""
        self._open.append(self._new_xid())

    def commit(self, ops: Sequence[Op], *, seen: bool = True) -> None:
        first = LSN(max(1000, self.wal - 250))  # it may have begun before others committed
        self._messages, self._versions, self._ordinal = [], [], 0
        self._touched, self._emptied = set(), set()
        for op in ops:
            if not self._is_locked(op) and self._has_room(op):
                getattr(self, f"_{op.kind}")(TABLES[op.table], op)
        xid = self._open.pop(0) if self._open else self._new_xid()
        rows = {(t, key): self.rows[t].get(key) for t, key in self._touched}
        self.unseen.append(Unseen(xid, rows, self._emptied))
        if self._messages:
            self._log(first, xid)
        if seen or not self._messages:
            self.show(xid)

    def _log(self, first: LSN, xid: int) -> None:
        commit_lsn = self.wal
        end_lsn = self.wal = LSN(commit_lsn + 50)
        begin = Begin(final_lsn=commit_lsn, committed_at=NOW, xid=xid)
        end = Commit(flags=0, commit_lsn=commit_lsn, end_lsn=end_lsn, committed_at=NOW)
        messages = [(first, cast(Message, begin)), *self._messages, (end_lsn, cast(Message, end))]
        self.log.append(Transaction(messages, commit_lsn, end_lsn))
        self.versions += [
            Version(Position(commit_lsn, ordinal), text, new)
            for ordinal, text, new in self._versions
        ]

    def other_work(self, size: int) -> None:
        self.wal = LSN(self.wal + size)

    def anchor(self) -> None:
        """An empty logical message, outside of any transaction."""
        message = LogicalMessage(transactional=False, lsn=self.wal, prefix="anchor", content=b"")
        lsn, self.wal = self.wal, LSN(self.wal + 50)
        self.log.append(Transaction([(lsn, message)], lsn, self.wal))

    def other_transaction(self) -> int:
        """Somebody else's transaction begins and ends: its id."""
        self._last_ended = self._new_xid()
        return self._last_ended

    def show(self, *xids: int) -> None:
        """These commits have their standby, if they waited for one: everybody sees them."""
        for commit in [commit for commit in self.unseen if commit.xid in xids]:
            self.unseen.remove(commit)
            for emptied in commit.emptied:
                self.seen[emptied].clear()
                self.files[emptied] += 1
                if self.partitions is not None and emptied is PARTED:
                    self.partitions.empty((self.partitions.stays, self.partitions.leaf))
            for (source, key), row in commit.rows.items():
                self.seen[source].pop(key, None)
                if row is not None:
                    self.seen[source][key] = row
            self._last_ended = max(self._last_ended, commit.xid)

    def end_all(self) -> None:
        """Nobody waits for anything any more."""
        self.show(*(commit.xid for commit in self.unseen))
        if self._open:
            self._last_ended = max(self._last_ended, *self._open)
            self._open.clear()

    def _new_xid(self) -> int:
        self._next_xid += 1
        return self._next_xid - 1

    def _is_locked(self, op: Op) -> bool:
        source = TABLES[op.table]
        if op.kind == "truncate_both":
            return bool(self.unseen)
        keys = _keys(op)
        for commit in self.unseen:
            touched = {key for t, key in commit.rows if t is source}
            if source in commit.emptied or touched & keys:
                return True
            if op.kind == "truncate" and touched:
                return True
        return False

    # -- partitions --------------------------------------------------------------------------------

    def attach(self, rows: dict[str, Row], *, again: bool) -> None:
        """A table that has rows becomes a partition."""
        away = self.partitions is not None and self.partitions.leaf is None
        if self.partitions is not None and away and not self.is_closed(PARTED):
            leaf = self.partitions.attach(rows, again=again)
            self._partition_is(leaf.rows)

    def detach(self, *, dropped: bool) -> None:
        if self.partitions is not None and self.partitions.leaf is not None and self._is_free():
            rows = self.rows[PARTED]
            self.partitions.detach({k: rows[k] for k in rows.keys() & LEAVING}, dropped=dropped)
            self._partition_is({})

    def empty(self) -> None:
        """TRUNCATE of the partition alone."""
        if self.partitions is not None and self.partitions.leaf is not None and self._is_free():
            self.partitions.empty([self.partitions.leaf])
            self.partitions.moved = True
            self._partition_is({})

    def tokens(self, source: Table) -> dict[int, str]:
        """Return the shape of each partition of a table."""
        return self.partitions.tokens() if self.partitions is not None and source is PARTED else {}

    def is_in(self, key: str, leaf: int | None) -> bool:
        """Whether a partition has a key; with None, whether the table has it."""
        if leaf is None or self.partitions is None:
            return leaf is None
        found = self.partitions.of(key)
        return found is not None and found.oid == leaf

    def never_filled(self) -> bool:
        """Whether the partition that comes and goes looks as if it had never had a row."""
        leaf = self.partitions.leaf if self.partitions is not None else None
        filled = (self.rows[PARTED].keys() | self.seen[PARTED].keys()) & LEAVING
        return leaf is not None and not leaf.file and not filled

    def _partition_is(self, partition: dict[str, Row]) -> None:
        for rows in (self.rows[PARTED], self.seen[PARTED]):
            for key in rows.keys() & LEAVING:
                del rows[key]
            rows.update(partition)
        self.files[PARTED] += 1
        self.other_transaction()

    def _is_free(self) -> bool:
        """Whether no transaction that nobody sees yet holds locks on the partition."""
        held = {source for commit in self.unseen for source, _ in commit.rows}
        return PARTED not in held and not self.is_closed(PARTED)

    def _has_room(self, op: Op) -> bool:
        """Whether there is a partition for its rows; PostgreSQL refuses them if there is none."""
        away = self.partitions is not None and self.partitions.leaf is None
        return not (away and TABLES[op.table] is PARTED and _keys(op) & LEAVING)

    def _has_moved(self, source: Table, key: str, new_key: str) -> bool:
        parts = self.partitions if source is PARTED else None
        return parts is not None and parts.of(key) is not parts.of(new_key)

    # -- reads -------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """As PostgreSQL makes it: ``xmax`` follows the last transaction that ended, not the last
        that began."""
        xmax = self._last_ended + 1
        running = {*self._open, *(commit.xid for commit in self.unseen)}
        before = frozenset(xid for xid in running if xid < xmax)
        return Snapshot(xmin=min(before, default=xmax), xmax=xmax, running=before)

    def is_closed(self, source: Table) -> bool:
        """Whoever reads the table waits for a transaction that emptied it."""
        return any(source in commit.emptied for commit in self.unseen)

    def read(self, source: Table, wanted: Mapping[Key, int]) -> dict[Key, Row | None]:
        """Some rows by key, once the given transactions are seen."""
        closing = [commit.xid for commit in self.unseen if source in commit.emptied]
        self.show(*wanted.values(), *closing)
        return {key: self.seen[source].get(key[0]) for key in wanted}

    # -- what the application does -----------------------------------------------------------------

    def _emit(self, message: Message, source: Table | None = None, *keys: str) -> None:
        self.wal = LSN(self.wal + 50)
        self._ordinal += len(relations(message))
        self._messages.append((self.wal, message))
        if source is not None:
            self._touched |= {(source, key) for key in keys}
        if self.partitions is not None and source is PARTED:
            leaf = self.partitions.of(keys[-1])
            assert leaf is not None
            self.leaves[self.wal] = leaf.oid

    def _insert(self, source: Table, op: Op, *, filtered: bool = False) -> None:
        rows, key = self.rows[source], KEYS[op.key]
        if key in rows:
            self._update(source, key, key, (op.a, op.b, op.m))
            return
        self._add(source, key, (op.a, op.b, op.m), filtered=filtered)

    def _add(self, source: Table, key: str, row: Row, *, filtered: bool = False) -> None:
        self.rows[source][key] = row
        values = [UNCHANGED if filtered and v in LARGE else v for v in row]
        self._emit(Insert(relation_oid=source.oid, new=(key, *values)), source, key)
        self._count(source, row, new=True)

    def _appear(self, source: Table, op: Op) -> None:
        """A row filter turned an UPDATE into an INSERT."""
        self._insert(source, op, filtered=True)

    def _update(self, source: Table, key: str, new_key: str, new: Row) -> None:
        rows = self.rows[source]
        if self._has_moved(source, key, new_key):  # it is logged so, with all values
            self._remove(source, key)
            self._add(source, new_key, new)
            return
        before = rows.pop(key)
        rows[new_key] = new
        values = [
            self._unchanged if value == old and value in LARGE else value
            for value, old in zip(new, before, strict=True)
        ]
        old_kind, old = None, None
        if self._full:
            old_kind, old = OldTuple.FULL, (key, *before)
        elif key != new_key:
            old_kind, old = OldTuple.KEY, (key, None, None, None)
        update = Update(relation_oid=source.oid, old_kind=old_kind, old=old, new=(new_key, *values))
        self._emit(update, source, key, new_key)
        again = before[2] != new[2] and any(map(refused_by_database, before))
        self._count(source, new, new=key != new_key or before[:2] != new[:2] or again)

    def _write_a(self, source: Table, op: Op) -> None:
        if row := self.rows[source].get(KEYS[op.key]):
            self._update(source, KEYS[op.key], KEYS[op.key], (op.a, *row[1:]))

    def _write_b(self, source: Table, op: Op) -> None:
        if row := self.rows[source].get(KEYS[op.key]):
            self._update(source, KEYS[op.key], KEYS[op.key], (row[0], op.b, row[2]))

    def _write_m(self, source: Table, op: Op) -> None:
        if row := self.rows[source].get(KEYS[op.key]):
            self._update(source, KEYS[op.key], KEYS[op.key], (*row[:2], op.m))

    def _write_both(self, source: Table, op: Op) -> None:
        if row := self.rows[source].get(KEYS[op.key]):
            self._update(source, KEYS[op.key], KEYS[op.key], (op.a, op.b, row[2]))

    def _touch(self, source: Table, op: Op) -> None:
        if row := self.rows[source].get(KEYS[op.key]):
            self._update(source, KEYS[op.key], KEYS[op.key], row)

    def _move(self, source: Table, op: Op) -> None:
        self._change_key(source, KEYS[op.key], KEYS[op.other])

    def _move_and_write(self, source: Table, op: Op) -> None:
        rows, key, other = self.rows[source], KEYS[op.key], KEYS[op.other]
        if key in rows and other not in rows:
            self._update(source, key, other, (op.a, *rows[key][1:]))

    def _swap(self, source: Table, op: Op) -> None:
        key, other = KEYS[op.key], KEYS[op.other]
        if key != other and {key, other} <= self.rows[source].keys():
            self._change_key(source, key, SPARE)
            self._change_key(source, other, key)
            self._change_key(source, SPARE, other)

    def _change_key(self, source: Table, key: str, other: str) -> None:
        rows = self.rows[source]
        if key in rows and other not in rows:
            self._update(source, key, other, rows[key])

    def _delete(self, source: Table, op: Op) -> None:
        if KEYS[op.key] in self.rows[source]:
            self._remove(source, KEYS[op.key])

    def _remove(self, source: Table, key: str) -> None:
        before = self.rows[source].pop(key)
        kind = OldTuple.FULL if self._full else OldTuple.KEY
        old = (key, *before) if self._full else (key, None, None, None)
        self._emit(Delete(relation_oid=source.oid, old_kind=kind, old=old), source, key)

    def _truncate(self, source: Table, _op: Op) -> None:
        self._truncate_all([source])

    def _truncate_both(self, _source: Table, _op: Op) -> None:
        self._truncate_all(TABLES)

    def _truncate_all(self, sources: Sequence[Table]) -> None:
        for source in sources:
            self.rows[source].clear()
        self._emptied |= set(sources)
        oids = tuple(source.oid for source in sources)
        self._emit(Truncate(relation_oids=oids, cascade=False, restart_identity=False))

    def _count(self, source: Table, row: Row, *, new: bool) -> None:
        text = source.prepare(row[:2])
        if text is not None:
            self._versions.append((self._ordinal, text, new))

    def relation(self, oid: int) -> Relation:
        identity = ReplicaIdentity.FULL if self._full else ReplicaIdentity.DEFAULT
        columns = tuple(
            Column(name=name, type_oid=25, type_modifier=-1, part_of_key=name == "id")
            for name in ("id", "a", "b", "m")
        )
        name = TABLES[oid - 1].name if oid <= len(TABLES) else f"leaf_{oid}"
        return Relation(
            oid=oid, namespace="public", name=name, replica_identity=identity, columns=columns
        )


def _keys(op: Op) -> set[str]:
    """The keys that a step of the application is about."""
    keys = {KEYS[op.key]}
    if op.kind in {"move", "move_and_write", "swap"}:
        keys.add(KEYS[op.other])
    if op.kind == "swap":
        keys.add(SPARE)
    return keys


def as_found(source: Table, row: Row | None) -> Read | None:
    """A row with the columns that are read of this table."""
    return None if row is None else Read(row[:2], row[2:] if source.metadata else ())


KINDS: Final = {
    "insert": 1.0,
    "write_a": 1.0,
    "write_b": 1.0,
    "write_m": 0.7,
    "write_both": 1.0,
    "touch": 1.0,
    "move": 1.5,
    "move_and_write": 1.0,
    "swap": 1.0,
    "delete": 0.6,
    "appear": 0.2,
    "truncate": 0.2,
    "truncate_both": 0.1,
}
"""The steps of the application, and the weight of each."""


def relations(message: Message) -> Sequence[int]:
    if isinstance(message, Truncate):
        return message.relation_oids
    if isinstance(message, Insert | Update | Delete):
        return (message.relation_oid,)
    return ()
