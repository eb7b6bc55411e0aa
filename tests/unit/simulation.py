"""A source, a target and a wire between them, for the real service in a world that can be steered.

The loop, the assembler, the preparer, the writer and what compares rows are the real ones.
Simulated are the two databases, the wire, the model and the clock. Nothing happens by itself: a
schedule says when the application commits, when a commit is seen, when frames arrive, when a worker
or the comparison gets on, when something crashes. What is promised stands in ``test_convergence``.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from threading import Event, Semaphore, Thread
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast
from unittest.mock import patch

import numpy as np

from cdc_embed.change.batch import RowId
from cdc_embed.change.compare import Stored as Found
from cdc_embed.change.document import Chunk, Document, Key, Table, TableColumn, fingerprint
from cdc_embed.change.knowledge import ABSENT, UNKNOWN, Known, Refused, Reread, State
from cdc_embed.change.plan import (
    Action,
    Annotate,
    Forget,
    Metadata,
    Move,
    Plan,
    Refuse,
    Write,
    one_chunk,
)
from cdc_embed.change.plan import Row as Read
from cdc_embed.change.snapshot import Snapshot
from cdc_embed.change.transaction import Assembler
from cdc_embed.errors import HistoryGapError, TargetUnavailableError
from cdc_embed.flow import batches, comparer, patience, pipeline, reconcile, retry, verify
from cdc_embed.flow.absence import Absence
from cdc_embed.flow.comparer import Comparer, Scope, StoppedError
from cdc_embed.flow.embedding import Embedded, EmbeddingRunner
from cdc_embed.flow.lane import Lane
from cdc_embed.flow.patience import Patience
from cdc_embed.flow.pipeline import Limits, Pipeline
from cdc_embed.flow.prepare import Preparer, Stock
from cdc_embed.flow.reconcile import Reconciler
from cdc_embed.flow.requests import Desk
from cdc_embed.flow.retry import Retrier
from cdc_embed.flow.telemetry import Telemetry
from cdc_embed.flow.verify import Verifier
from cdc_embed.flow.writing import Writer
from cdc_embed.lsn import LSN, START, ZERO, Checkpoint, Identity, Position, Progress, find_gap
from cdc_embed.metrics import Metrics
from cdc_embed.side import RowRefusedError
from cdc_embed.source.rows import RowReader, Scan
from cdc_embed.target.letters import Letter, Letters
from cdc_embed.target.reconcile import DONE, RUNNING, WAITING, Comparison, Ledger, Request
from cdc_embed.target.statements import Statements
from cdc_embed.target.write import Actions, MissingDonorError, Vectors, actions_by_table
from cdc_embed.wire.messages import (
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
    Value,
)

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
HERE: Final = Identity(system_identifier="1", database="app", timeline=1)
KEYS: Final = ("1", "2", "3")
SPARE: Final = "9"
SMALL: Final = (None, "", " ", "a", "b", "x", "z")
LARGE: Final = ("A", "B", "C", "X")
"""Values that lie out of line: an update that leaves them alone does not carry them."""


def table(name: str, oid: int, *metadata: TableColumn) -> Table:
    return Table(
        schema="public",
        name=name,
        oid=oid,
        key=(TableColumn("id", "bigint"),),
        text_columns=("a", "b"),
        template=None,
        embedding_table=f"{name}_embedding",
        metadata=metadata,
    )


FIRST: Final = table("first", 1)
SECOND: Final = table("second", 2, TableColumn("m", "text"))
TABLES: Final = (FIRST, SECOND)
METRICS: Final = Metrics(slot="s", tables=[t.full_name for t in TABLES], model="m")
TELEMETRY: Final = Telemetry(METRICS)


def refused_by_model(text: str) -> bool:
    return "x" in text.lower()


def refused_by_database(value: object) -> bool:
    """A text or a metadata value."""
    return isinstance(value, str) and "z" in value.lower()


def vector(digest: bytes) -> Any:
    return np.frombuffer(digest, dtype=np.uint8).astype(np.float32)


# -- the application and its log -------------------------------------------------------------------


class Op(NamedTuple):
    """What the application does to one table; what cannot be done to its rows is left undone."""

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
    """What one change says of a row's text; ``new``: under this key it was another before."""

    position: Position
    text: str
    new: bool


Row = tuple[str | None, str | None, str | None]
"""Two columns of text and one beside it."""

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

    def __init__(self, *, full: bool) -> None:
        self.rows: Rows = {t: {} for t in TABLES}
        """With what is committed, be it seen or not."""
        self.seen: Rows = {t: {} for t in TABLES}
        self.files: Counter[Table] = Counter()
        """A table gets new ones when it is emptied."""
        self.unseen: list[Unseen] = []
        self.log: list[Transaction] = []
        self.wal = LSN(1000)
        self.versions: list[Version] = []
        self._full = full
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
            if not self._is_locked(op):
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
        keys = {KEYS[op.key]}
        if op.kind in {"move", "move_and_write", "swap"}:
            keys.add(KEYS[op.other])
        if op.kind == "swap":
            keys.add(SPARE)
        for commit in self.unseen:
            touched = {key for t, key in commit.rows if t is source}
            if source in commit.emptied or touched & keys:
                return True
            if op.kind == "truncate" and touched:
                return True
        return False

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
        self._ordinal += len(_relations(message))
        self._messages.append((self.wal, message))
        if source is not None:
            self._touched |= {(source, key) for key in keys}

    def _insert(self, source: Table, op: Op, *, filtered: bool = False) -> None:
        rows, key = self.rows[source], KEYS[op.key]
        if key in rows:
            self._update(source, key, key, (op.a, op.b, op.m))
            return
        rows[key] = (op.a, op.b, op.m)
        values = [UNCHANGED if filtered and v in LARGE else v for v in rows[key]]
        self._emit(Insert(relation_oid=source.oid, new=(key, *values)), source, key)
        self._count(source, rows[key], new=True)

    def _appear(self, source: Table, op: Op) -> None:
        """A row filter turned an UPDATE into an INSERT."""
        self._insert(source, op, filtered=True)

    def _update(self, source: Table, key: str, new_key: str, new: Row) -> None:
        rows = self.rows[source]
        before = rows.pop(key)
        rows[new_key] = new
        values: list[Value] = [
            UNCHANGED if value == old and value in LARGE else value
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
        key = KEYS[op.key]
        before = self.rows[source].pop(key, None)
        if before is not None:
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
        name = TABLES[oid - 1].name
        return Relation(
            oid=oid, namespace="public", name=name, replica_identity=identity, columns=columns
        )


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
"""What the application does, and how often."""


class Slot:
    """Where the server would begin to stream, and where it would after a crash of its own."""

    def __init__(self, confirmed: LSN) -> None:
        self.confirmed = confirmed
        self.persisted = confirmed

    def confirm(self, lsn: LSN) -> None:
        self.confirmed = max(self.confirmed, lsn)


class Frame(NamedTuple):
    payload: bytes


class Wire:
    """One connection's frames, with what psycopg2 does behind one's back (pitfalls T1)."""

    def __init__(self, source: Source, slot: Slot, recorded: Callable[[], LSN]) -> None:
        self.exposed = ZERO
        self.silence = 0.0
        self.sentinel: Any = None
        self.heard = ZERO
        self.unguarded = True
        self.credit = 0
        """Frames that have arrived and may be read."""
        self.pinged = False
        """A keepalive comes before the next frame, be it inside a transaction."""
        self._source = source
        self._slot = slot
        self._recorded = recorded
        self._messages: list[Message] = []
        self._frames = self._deliver(slot.confirmed)
        self._announced: set[int] = set()
        self._sent = slot.confirmed
        self._began = False

    def read(self) -> Frame | None:
        if self.credit == 0:
            return None
        self.credit -= 1
        unguarded = self.unguarded
        arrived = None if self.pinged else next(self._frames)
        self.pinged = False
        if arrived is None:
            self._keepalive(unguarded)
            return None
        self._began = True
        data_start, message = arrived
        self.heard = data_start or self.heard
        self.unguarded = data_start == ZERO
        if unguarded:
            self.exposed = max(self.exposed, self.heard)
        self._messages.append(message)
        return Frame(len(self._messages).to_bytes(4))

    def decode(self, payload: bytes) -> tuple[Message]:
        return (self._messages[int.from_bytes(payload) - 1],)

    def report(self, received: LSN, confirmed: LSN) -> None:
        assert confirmed <= self._recorded(), "nothing is confirmed that is not recorded"
        assert confirmed <= received
        self._slot.confirm(confirmed)

    def check_sentinel(self) -> None:
        raise AssertionError("the simulation never waits")

    def _keepalive(self, unguarded: bool) -> None:
        self.heard = self._sent
        if unguarded:
            self.exposed = max(self.exposed, self.heard)
            if self._began:
                self._slot.confirm(self.heard)

    def _deliver(self, start: LSN) -> Iterator[tuple[LSN, Message] | None]:
        place = 0
        while True:
            if place == len(self._source.log):
                self._sent = max(self._sent, self._source.wal)
                yield None
                continue
            transaction = self._source.log[place]
            place += 1
            if transaction.commit_lsn < start:
                continue
            self._sent = transaction.commit_lsn
            for data_start, message in transaction.messages:
                for oid in _relations(message):
                    if oid not in self._announced:
                        self._announced.add(oid)
                        yield ZERO, self._source.relation(oid)
                if isinstance(message, Commit):
                    self._sent = transaction.end_lsn
                yield data_start, message


def _relations(message: Message) -> Sequence[int]:
    if isinstance(message, Truncate):
        return message.relation_oids
    if isinstance(message, Insert | Update | Delete):
        return (message.relation_oid,)
    return ()


# -- the target ------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """One stored chunk."""

    place: int
    hash: bytes
    end: int
    vector: Any


class Stored(NamedTuple):
    """One stored document; with an empty hash it proves nothing any more."""

    document_hash: bytes
    pieces: tuple[Piece, ...]
    metadata: tuple[str | None, ...] = ()
    metadata_hash: bytes = b""
    reread: bool = False

    @property
    def has_first(self) -> bool:
        return self.pieces[0].place == 0


@dataclass
class Tables:
    """What a target transaction changes: all of it or nothing."""

    chunks: dict[RowId, Stored] = field(default_factory=dict)
    letters: dict[RowId, bytes] = field(default_factory=dict)


class Target:
    """The target's rows and position; the order of a batch's steps is ``target/write.py``'s."""

    def __init__(self, confirmed: LSN) -> None:
        self.now = Tables()
        self.comparisons: dict[Table, Comparison] = {
            t: Comparison(source_table=t.full_name, state=DONE) for t in TABLES
        }
        self.trusted: dict[Table, bool] = {}
        self.answers_lost = 0
        self.interrupt: Callable[[], None] = lambda: None
        self.checkpoint = Checkpoint(
            slot="s",
            source=HERE,
            target=HERE,
            position=START,
            end_lsn=ZERO,
            confirmed_lsn=confirmed,
            batch_seq=0,
            epoch=1,
        )
        self.restart()

    def restart(self) -> None:
        """What another process believes before it is told anything."""
        for source in TABLES:
            statements = Statements("cdc_embed", source, space=1, vector_type="vector")
            self.trusted[source] = statements.trusted

    # -- look-ups ----------------------------------------------------------------------------------

    def look_up(self, rows: Sequence[RowId]) -> dict[RowId, State]:
        found = {row: self._state(row) for row in rows}
        self.interrupt()
        return found

    def look_up_whole(self, rows: Sequence[RowId]) -> dict[RowId, Found]:
        found = {row: self._whole(row) for row in rows}
        self.interrupt()
        return found

    def find_donors(self, chunks: Sequence[tuple[Table, bytes]]) -> set[tuple[Table, bytes]]:
        stored = {
            (row[0], piece.hash)
            for row, stored in self.now.chunks.items()
            for piece in stored.pieces
        }
        self.interrupt()
        return stored & set(chunks)

    def keys(self, source: Table) -> list[Key]:
        """In an order that is not the source's."""
        return sorted((key for t, key in self.now.chunks if t is source), reverse=True)

    def _state(self, row: RowId, *, whole: bool = False) -> State:
        if row in self.now.letters:
            return Refused(self.now.letters[row])
        stored = self.now.chunks.get(row)
        if stored is None or not (whole or stored.has_first):
            return ABSENT
        if not stored.document_hash:
            return UNKNOWN
        proves = not stored.reread and self.trusted[row[0]]
        return (Known if proves else Reread)(stored.document_hash, stored.metadata_hash)

    def _whole(self, row: RowId) -> Found:
        state, stored = self._state(row, whole=True), self.now.chunks.get(row)
        if stored is None:
            return Found(state, whole=False, end=0)
        places = [piece.place for piece in stored.pieces]
        return Found(
            state, len(places) == max(places) + 1, max(piece.end for piece in stored.pieces)
        )

    # -- writes ------------------------------------------------------------------------------------

    def write(self, plan: Plan, vectors: Vectors, batch_seq: int) -> None:
        if batch_seq == self.checkpoint.batch_seq:
            return
        if batch_seq != self.checkpoint.batch_seq + 1:
            raise HistoryGapError(slot="s", problem="the batch before this one was not written")
        after = Tables(dict(self.now.chunks), dict(self.now.letters))
        for source, actions in actions_by_table(plan).items():
            self._write(after, plan, source, actions, vectors)
        self.now = after
        position, end_lsn = self.checkpoint.position, self.checkpoint.end_lsn
        if plan.batch.last is not None:
            assert plan.batch.last > position, "no change is written twice"
            position, end_lsn = plan.batch.last, max(end_lsn, plan.batch.end_lsn)
        self.checkpoint = replace(
            self.checkpoint, position=position, end_lsn=end_lsn, batch_seq=batch_seq
        )
        self._lose_answer()

    def refused_rows(self, plan: Plan, _vectors: Vectors) -> dict[RowId, str]:
        return {row: "refused" for row, action in plan.actions.items() if self._refuses(action)}

    def _refuses(self, action: Action) -> bool:
        """A value that an action brings; one that it keeps is stored already."""
        values: list[object] = []
        if isinstance(action, Write):
            values += [chunk.text for chunk in action.document.chunks]
        if isinstance(action, Write | Move | Annotate):
            values += action.metadata.values
        return any(map(refused_by_database, values))

    def record(self, lsn: LSN, _batch_seq: int) -> None:
        confirmed = max(self.checkpoint.confirmed_lsn, lsn)
        self.checkpoint = replace(self.checkpoint, confirmed_lsn=confirmed)
        self._lose_answer()

    def _write(
        self, after: Tables, plan: Plan, source: Table, actions: Actions, vectors: Vectors
    ) -> None:
        rows = {(source, key): action for key, action in actions.items()}
        if any(self._refuses(action) for action in actions.values()):
            raise RowRefusedError
        donors = {
            piece.hash: piece.vector
            for row, stored in self.now.chunks.items()
            if row[0] is source
            for piece in stored.pieces
        }
        staged: dict[RowId, Stored] = {}
        for row, action in rows.items():
            logged = row in plan.batch.images
            if isinstance(action, Write):
                staged[row] = self._stage(source, action, {**donors, **vectors}, logged=logged)
            elif isinstance(action, Move):
                staged[row] = self._move(source, action)
        gone = {row for row, action in rows.items() if not isinstance(action, Forget | Annotate)}
        if source in plan.batch.truncated:
            gone |= {row for row in (*after.chunks, *after.letters) if row[0] is source}
        for row in gone:
            after.chunks.pop(row, None)
            after.letters.pop(row, None)
        after.chunks |= staged
        for row, action in rows.items():
            stored = after.chunks.get(row)
            if isinstance(action, Annotate):
                if stored is None or not stored.has_first:
                    raise MissingDonorError
                after.chunks[row] = stored._replace(
                    metadata=_kept(action.metadata, stored),
                    metadata_hash=action.metadata.hash,
                    reread=isinstance(action.state, Reread) or row not in plan.batch.images,
                )
            elif isinstance(action, Forget) and stored is not None:
                after.chunks[row] = stored._replace(document_hash=b"")
            elif isinstance(action, Refuse):
                after.letters[row] = action.fingerprint

    def _stage(self, source: Table, write: Write, vectors: Vectors, *, logged: bool) -> Stored:
        chunks, metadata = write.document.chunks, write.metadata
        if any(chunk.hash not in vectors for chunk in chunks):
            raise MissingDonorError
        pieces = tuple(
            Piece(place, chunk.hash, chunk.end, vectors[chunk.hash])
            for place, chunk in enumerate(chunks)
        )
        before = self._origin(source, metadata.origin) if metadata.origin is not None else None
        return Stored(
            write.document.fingerprint,
            pieces,
            _kept(metadata, before),
            metadata.hash,
            write.reread or not logged,
        )

    def _move(self, source: Table, move: Move) -> Stored:
        before = self._origin(source, move.origin)
        if before.document_hash != move.fingerprint:
            raise MissingDonorError
        metadata = move.metadata
        return before._replace(
            metadata=_kept(metadata, before), metadata_hash=metadata.hash, reread=False
        )

    def _origin(self, source: Table, key: Key) -> Stored:
        stored = self.now.chunks.get((source, key))
        if stored is None or not stored.has_first:
            raise MissingDonorError
        return stored

    def _lose_answer(self) -> None:
        if self.answers_lost:
            self.answers_lost -= 1
            raise TargetUnavailableError(problem="the answer to a commit was lost")

    # -- damage ------------------------------------------------------------------------------------

    def lose(self, row: RowId) -> None:
        """Somebody deleted a document, or its dead letter."""
        self.now.chunks.pop(row, None)
        self.now.letters.pop(row, None)

    def age(self, row: RowId, document: Document) -> None:
        """A document is that of another text, as when changes were missed; or of no row."""
        metadata = ("old",) if row[0].metadata else ()
        self.now.letters.pop(row, None)
        self.now.chunks[row] = Stored(
            document.fingerprint,
            tuple(Piece(n, c.hash, c.end, vector(c.hash)) for n, c in enumerate(document.chunks)),
            metadata,
            row[0].hash_metadata(metadata) or b"",
        )

    def break_off(self, row: RowId, *, first: bool) -> None:
        """One chunk of several is missing."""
        stored = self.now.chunks.get(row)
        if stored is not None and len(stored.pieces) > 1:
            left = stored.pieces[1:] if first else stored.pieces[:-1]
            self.now.chunks[row] = stored._replace(pieces=left)


def _kept(metadata: Metadata, before: Stored | None) -> tuple[str | None, ...]:
    """Metadata values, unchanged ones as they are stored."""
    return tuple(
        (before.metadata[place] if before is not None else None) if value is UNCHANGED else value
        for place, value in enumerate(metadata.values)
    )


def pieces(_: Table, text: str) -> Document:
    """A document with a chunk for each column."""
    chunks, start = [], 0
    for part in text.split("\n\n"):
        chunks.append(Chunk(part, start, start + len(part), fingerprint(part)))
        start += len(part) + 2
    return Document(fingerprint(text), tuple(chunks))


# -- what compares rows ----------------------------------------------------------------------------


class Actor:
    """A thread that gets on only when the schedule says so, from one rest to the next."""

    def __init__(self) -> None:
        self.ended = False
        """Its connection is over."""
        self.idle = False
        """It found nothing to do."""
        self._go, self._back = Semaphore(0), Semaphore(0)
        self._finished = False
        self._problem: BaseException | None = None
        self._thread: Thread | None = None

    def start(self, work: Callable[[], None]) -> None:
        def body() -> None:
            self._go.acquire()
            try:
                work()
            except BaseException as exc:  # noqa: BLE001  it is raised where the actor is steered
                self._problem = exc
            self._finished = True
            self._back.release()

        self._thread = Thread(target=body, daemon=True)
        self._thread.start()

    def step(self) -> None:
        if not self._finished:
            self._go.release()
            self._back.acquire()
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def end(self) -> None:
        self.ended = True
        while not self._finished:
            self.step()
        if self._thread is not None:
            self._thread.join()

    def rest(self) -> None:
        """For the thread itself: let others get on."""
        self._back.release()
        self._go.acquire()
        if self.ended:
            raise StoppedError

    # -- as the event of the connection's end ------------------------------------------------------

    def is_set(self) -> bool:
        return self.ended

    def wait(self, seconds: float) -> bool:
        self.idle = self.idle or seconds >= reconcile.POLL_SECONDS
        try:
            self.rest()
        except StoppedError:
            return True
        return False


class Reader:
    """Rows of one snapshot, as ``source/rows.py`` reads them; anything may happen meanwhile."""

    def __init__(self, source: Source, actor: Actor) -> None:
        self.rows_read = 0
        self._source = source
        self._actor = actor

    def snapshot(self) -> Snapshot:
        self._actor.idle = False
        self._actor.rest()
        return self._source.snapshot()

    def next_xid(self) -> int:
        """An id that no transaction had yet, as ``pg_current_xact_id`` gives it."""
        self._actor.idle = False
        self._actor.rest()
        return self._source.other_transaction()

    def running_before(self, _xid: int) -> list[str]:
        return ["somebody"]

    def scan(self, source: Table, after: Key | None, most: int, _characters: int) -> Scan | None:
        def fetch(rows: Mapping[str, Row]) -> tuple[dict[Key, Read | None], bool]:
            keys = [key for key in sorted(rows) if after is None or (key,) > after][:most]
            return {(key,): as_found(source, rows[key]) for key in keys}, len(keys) == most

        return self._read(source, fetch)

    def look(self, source: Table, keys: Collection[Key]) -> Scan | None:
        def fetch(rows: Mapping[str, Row]) -> tuple[dict[Key, Read | None], bool]:
            return {key: as_found(source, rows.get(key[0])) for key in keys}, False

        return self._read(source, fetch)

    def gone(self, source: Table, keys: Collection[Key]) -> Scan | None:
        found = self.look(source, keys)
        if found is None:
            return None
        gone: dict[Key, Read | None] = {k: None for k, row in found.rows.items() if row is None}
        return replace(found, rows=gone)

    def _read(
        self,
        source: Table,
        fetch: Callable[[Mapping[str, Row]], tuple[dict[Key, Read | None], bool]],
    ) -> Scan | None:
        world = self._source
        files = world.files[source]
        self._actor.rest()
        snapshot, rows, then = world.snapshot(), dict(world.seen[source]), world.files[source]
        self._actor.rest()
        while world.is_closed(source):
            self._actor.rest()
        found, more = fetch(rows if world.files[source] == then else {})
        if world.files[source] != files:
            return None
        self.rows_read += len(found)
        return Scan(rows=found, snapshot=snapshot, more=more)


class Notes:
    """The ledger and the desk: how far each comparison is, and what is asked for."""

    def __init__(self, world: "World", actor: Actor) -> None:
        self._world = world
        self._target = world.target
        self._actor = actor

    # -- the ledger --------------------------------------------------------------------------------

    def comparisons(self) -> dict[str, Comparison]:
        self._actor.rest()
        return {t.full_name: replace(c) for t, c in self._target.comparisons.items()}

    def save(self, comparison: Comparison, _epoch: int) -> bool:
        self._actor.rest()
        (source,) = (t for t in TABLES if t.full_name == comparison.source_table)
        self._target.comparisons[source] = replace(comparison)
        if comparison.state == DONE:
            self._world.compared(source)
        return True

    def stored_keys(self, source: Table, after: Key | None, limit: int) -> list[Key]:
        self._actor.rest()
        keys = self._target.keys(source)
        return [key for key in keys if after is None or key < after][:limit]

    def letter_keys(self, source: Table) -> list[Key]:
        self._actor.rest()
        return [key for t, key in self._target.now.letters if t is source]

    def delete_other_spaces(self, _source: Table, _space: int, _epoch: int) -> None: ...

    def reply(
        self,
        number: int,
        state: str,
        *,
        progress: dict[str, Any],
        result: dict[str, Any] | None = None,
    ) -> bool:
        assert progress
        self._actor.rest()
        if state == DONE:
            (request,) = (r for r in self._world.requests if r.id == number)
            self._world.requests.remove(request)
            self._world.answered(request, result or {})
        return True

    # -- the desk ----------------------------------------------------------------------------------

    def open(self) -> None:
        self._actor.rest()

    def take_in(self) -> None:
        self._actor.rest()
        for request in [r for r in self._world.requests if r.kind == "backfill"]:
            self._world.requests.remove(request)
            source = TABLES[request.arguments["table"]]
            if self._target.comparisons[source].state != RUNNING:
                fresh = Comparison(source_table=source.full_name, state=RUNNING)
                self._target.comparisons[source] = fresh
                self._world.comparing(source)

    def close_backfills(self) -> None: ...

    def say_waiting(self, _holders: str) -> None: ...

    def asked(self, *kinds: str) -> list[Request]:
        return [request for request in self._world.requests if request.kind in kinds]


class DeadLetters:
    """``target/letters.py``'s: what a retry is about."""

    def __init__(self, target: Target, actor: Actor) -> None:
        self._target = target
        self._actor = actor

    def find(self, tables: Collection[str], ids: Collection[int] | None = None) -> list[Letter]:
        self._actor.rest()
        found = [
            Letter(
                id=t.oid * 10 + int(key[0]),
                table=t.full_name,
                key={"id": key[0]},
                fingerprint=digest,
                model="m",
                reason="refused",
                error="why",
                attempts=1,
                first_at=NOW,
                last_at=NOW,
            )
            for (t, key), digest in self._target.now.letters.items()
            if t.full_name in tables
        ]
        return [letter for letter in found if ids is None or letter.id in ids]


# -- the service -----------------------------------------------------------------------------------


class Steered:
    """An executor whose calls run when the schedule says so."""

    def __init__(self, _workers: int, thread_name_prefix: str) -> None:
        self.name = thread_name_prefix
        self.waiting: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, call, args))
        return future

    def step(self) -> None:
        if self.waiting:
            future, call, args = self.waiting.popleft()
            try:
                result = call(*args)
            except (MissingDonorError, HistoryGapError) as exc:
                future.set_exception(exc)
            else:
                future.set_result(result)

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        assert wait == cancel_futures


class Model:
    """A runner that counts; a batch may always hold ``least_texts``, and little more."""

    def __init__(self, least_texts: int) -> None:
        self.least_texts = least_texts
        self.rate = SimpleNamespace(characters_per_batch=1)
        self.embedded: Counter[str] = Counter()
        """Texts that it was given on this connection."""

    def embed(self, texts: Mapping[bytes, str], *, again: bool = False) -> Embedded:
        result = Embedded()
        for digest, text in texts.items():
            assert digest == fingerprint(text)
            self.embedded[text] += not again
            if refused_by_model(text):
                result.refused[digest] = ("refused", "it does not like it")
            else:
                result.vectors[digest] = vector(digest)
        return result


@dataclass(frozen=True, kw_only=True)
class Setting:
    full: bool = False
    least_texts: int = 16
    take: int = 64
    memory: int = 1 << 20
    interruptions: tuple[bool, ...] = ()
    in_pieces: bool = False
    """Each column of text is a chunk."""
    slice_rows: int = 1000
    """Rows that are read at once to be compared."""


class World:
    """Source, target and the service between them."""

    def __init__(self, setting: Setting) -> None:
        self.source = Source(full=setting.full)
        self.slot = Slot(self.source.wal)
        self.target = Target(self.source.wal)
        self.model = Model(setting.least_texts)
        self.cut = pieces if setting.in_pieces else one_chunk
        self.clock = 0.0
        self.restarted = False
        self.reread = 0
        """Rows read again on this connection."""
        self.requests: list[Request] = []
        self._asked = 0
        self.answers: list[dict[str, Any]] = []
        """What verifying found."""
        self.damaged = False
        self.wrong: set[Table] = set()
        """Tables that were damaged and not compared since."""
        self._damaged_since: set[Table] = set()
        self._setting = setting
        self._interruptions = iter(setting.interruptions)
        self.target.interrupt = self._interrupt
        self._connect()

    def play(self, steps: Iterable[tuple[str, Any]]) -> None:
        for name, argument in steps:
            getattr(self, name)(argument)

    # -- what can happen ---------------------------------------------------------------------------

    def commit(self, ops: Sequence[Op]) -> None:
        self.source.commit(ops)

    def commit_unseen(self, ops: Sequence[Op]) -> None:
        """In the log at once, in snapshots only after ``show``."""
        self.source.commit(ops, seen=False)

    def show(self, place: int) -> None:
        if self.source.unseen:
            self.source.show(self.source.unseen[place % len(self.source.unseen)].xid)

    def begin(self, _: Any = None) -> None:
        self.source.begin()

    def other_transaction(self, _: Any = None) -> None:
        self.source.other_transaction()

    def turn(self, frames: int) -> None:
        self.clock += 0.3
        self.wire.credit = frames
        try:
            self.pipeline._turn()
        except MissingDonorError:
            self.reconnect()

    def prepare(self, _: Any = None) -> None:
        cast(Steered, self.pipeline._batches._embed).step()

    def write(self, _: Any = None) -> None:
        cast(Steered, self.pipeline._batches._write).step()

    def compare(self, steps: int) -> None:
        """What compares rows gets on."""
        for _ in range(steps):
            self.actor.step()

    def work(self, rounds: int) -> None:
        """Everything gets on for a while."""
        for _ in range(rounds):
            self.turn(1000)
            self.prepare()
            self.write()
            self.compare(3)

    def work_on_log(self, frames: int) -> None:
        """The loop and its workers get on, what compares rows does not."""
        self.turn(frames)
        self.prepare()
        self.turn(0)
        self.write()

    def ask(self, request: tuple[str, int]) -> None:
        """Somebody asks for a backfill of a table, or to have everything verified or retried."""
        kind, place = request
        self._asked += 1
        number = self._asked
        arguments: dict[str, Any] = {}
        if kind == "backfill":
            arguments["table"] = place
        if kind == "retry":
            arguments["ids"] = None
        self.requests.append(Request(id=number, kind=kind, arguments=arguments, state=WAITING))

    def damage(self, what: tuple[str, int, int, str]) -> None:
        """Something that is stored is made wrong behind the service's back."""
        kind, place, key, text = what
        row = (TABLES[place], (KEYS[key],))
        if kind == "lose":
            self.target.lose(row)
        elif kind == "age":  # as when changes were missed: not while somebody remembers better
            self.target.age(row, self.cut(row[0], text))
            self.crash(False)
        else:
            self.target.break_off(row, first=text in SMALL)
        self.damaged = True
        self.wrong.add(row[0])
        self._damaged_since.add(row[0])

    def crash(self, server_too: bool) -> None:
        """Everything but the two databases is lost; with the server, its slot's last steps too."""
        if server_too:
            self.slot.confirmed = self.slot.persisted
        self.target.restart()
        self.reconnect()

    def reconnect(self, _: Any = None) -> None:
        """The connection is lost, the process stays."""
        self._check_embeddings()
        self.restarted = True
        self.close()
        self._connect()

    def persist(self, _: Any = None) -> None:
        self.slot.persisted = self.slot.confirmed

    def ping(self, _: Any = None) -> None:
        self.wire.pinged = True

    def pass_time(self, seconds: float) -> None:
        self.clock += seconds

    def other_work(self, size: int) -> None:
        self.source.other_work(size)

    def lose_answer(self, _: Any = None) -> None:
        self.target.answers_lost = 1

    # -- what the comparison says ------------------------------------------------------------------

    def comparing(self, source: Table) -> None:
        """A comparison of the table begins."""
        self._damaged_since.discard(source)

    def compared(self, source: Table) -> None:
        """It is complete: whatever was wrong when it began is mended."""
        if source not in self._damaged_since:
            self.wrong.discard(source)

    def answered(self, request: Request, result: dict[str, Any]) -> None:
        if request.kind == "retry":
            return
        self.answers.append(result)
        if not self.damaged:
            assert result["drift"] == 0, f"nothing is wrong, but verify says {result}"

    # -- until nothing is left to do ---------------------------------------------------------------

    def settle(self) -> None:
        self.source.end_all()
        for _ in range(2000):
            self.work(1)
            flow, batches = self.pipeline, self.pipeline._batches
            busy = batches.pending or batches.in_flight or flow._reporter.recording
            if not busy and self._all_read() and self._all_compared():
                return
        raise AssertionError("it does not come to rest")

    def _all_read(self) -> bool:
        last = self.source.log[-1].end_lsn if self.source.log else ZERO
        return self.pipeline._progress.durable >= last

    def _all_compared(self) -> bool:
        states = {comparison.state for comparison in self.target.comparisons.values()}
        return self.actor.idle and not self.requests and states == {DONE}

    # -- the service as flow/service.py builds it --------------------------------------------------

    def _connect(self) -> None:
        checkpoint = self.target.checkpoint
        gap = find_gap(
            checkpoint,
            source=HERE,
            slot_confirmed=self.slot.confirmed,
            wal_end=self.source.wal,
            history=[],
        )
        assert gap is None
        self.source.anchor()
        self._checkpoint = checkpoint
        self.reread = 0
        self.model.embedded.clear()
        wire = Wire(self.source, self.slot, lambda: self.target.checkpoint.recorded)
        patient = Patience(Event(), lambda *_: None)
        self.wire = wire
        self._lane = Lane()
        self.pipeline = Pipeline(
            stream=wire,
            decode=wire.decode,
            assembler=Assembler(TABLES, checkpoint, self.slot.confirmed),
            preparer=Preparer(
                stock=cast(Stock, self.target),
                read_rows=self._read_rows,
                cut=self.cut,
                runner=cast(EmbeddingRunner, self.model),
                patience=patient,
            ),
            writer=Writer(self.target, patient, checkpoint.batch_seq),
            progress=Progress(checkpoint.recorded),
            telemetry=TELEMETRY,
            limits=Limits(memory=self._setting.memory, report_interval=10.0),
            lane=self._lane,
        )
        self._start_comparing(checkpoint.epoch)

    def _start_comparing(self, epoch: int) -> None:
        self.actor = Actor()
        self.reader = Reader(self.source, self.actor)
        notes, stop = Notes(self, self.actor), cast(Event, self.actor)
        scopes = [Scope(table=t, space=1) for t in TABLES]
        comparing = Comparer(
            lane=self._lane,
            rows=cast(RowReader, self.reader),
            ledger=cast(Ledger, notes),
            wal_end=lambda: self.source.wal,
            stop=stop,
            rows_per_second=0,
        )
        absence, letters = Absence(), cast(Letters, DeadLetters(self.target, self.actor))
        verifier = Verifier(comparer=comparing, scopes=scopes, metrics=METRICS, absence=absence)
        retrier = Retrier(comparer=comparing, scopes=scopes, letters=letters, absence=absence)
        reconciler = Reconciler(
            comparer=comparing,
            scopes=scopes,
            desk=cast(Desk, notes),
            answers={"verify": verifier.answer, "retry": retrier.answer},
            on_compared=self.target.trusted.__setitem__,
            absence=absence,
            reading=nullcontext,
            on_failure=_fail,
            epoch=epoch,
            metrics=METRICS,
            stop=stop,
            cancel=lambda: None,
        )
        steered = SimpleNamespace(start=lambda: self.actor.start(reconciler._run))
        reconciler._thread = cast(Thread, steered)
        reconciler.start()

    def close(self) -> None:
        self._lane.close()
        self.pipeline.close()
        self.actor.end()

    def _read_rows(self, source: Table, wanted: Mapping[Key, int]) -> dict[Key, Read | None]:
        found = self.source.read(source, wanted)
        self.reread += len(found)
        self._interrupt()
        return {key: as_found(source, row) for key, row in found.items()}

    def _interrupt(self) -> None:
        """The writer may finish something while the other worker prepares."""
        if next(self._interruptions, False):
            self.write()

    # -- what must be true -------------------------------------------------------------------------

    def check(self) -> None:
        """Tables that are not wrong are as the source is, and so are all once compared again."""
        self._check_embeddings()
        for source in TABLES:
            if source not in self.wrong:
                assert self.differences(source) == [], f"{source.name} must be as the source is"
        if not self.wrong:
            return
        wrong = any(self.differences(source) for source in TABLES)
        self.ask(("verify", 0))
        self.settle()
        assert bool(self.answers[-1]["drift"]) == wrong, f"{wrong}, {self.answers[-1]}"
        for place in range(len(TABLES)):
            self.ask(("backfill", place))
        self.settle()
        for source in TABLES:
            assert self.differences(source) == [], f"{source.name} must be mended"

    def differences(self, source: Table) -> list[tuple[RowId, Any, Any]]:
        """Rows of which something else is stored than what should be."""
        wanted: dict[RowId, Any] = {}
        for key, row in self.source.rows[source].items():
            text = source.prepare(row[:2])
            if text is None:
                continue
            chunks = self.cut(source, text).chunks
            metadata = row[2:] if source.metadata else ()
            hashed = source.hash_metadata(metadata) or b""
            if any(refused_by_model(chunk.text) for chunk in chunks):
                wanted[source, (key,)] = fingerprint(text)
                continue
            if any(map(refused_by_database, (*(chunk.text for chunk in chunks), *metadata))):
                wanted[source, (key,)] = fingerprint(text) + hashed
                continue
            parts = [(n, chunk.hash, chunk.end) for n, chunk in enumerate(chunks)]
            wanted[source, (key,)] = (fingerprint(text), parts, metadata, hashed)
        stored: dict[RowId, Any] = {
            r: f for r, f in self.target.now.letters.items() if r[0] is source
        }
        for row_id, found in self.target.now.chunks.items():
            if row_id[0] is source:
                parts = [piece[:3] for piece in found.pieces]
                stored[row_id] = (found.document_hash, parts, found.metadata, found.metadata_hash)
                assert all((p.vector == vector(p.hash)).all() for p in found.pieces)
        return [
            (row_id, stored.get(row_id), wanted.get(row_id))
            for row_id in wanted.keys() | stored.keys()
            if stored.get(row_id) != wanted.get(row_id)
        ]

    def _check_embeddings(self) -> None:
        """Each version that the target does not have costs one embedding at most.

        After a restart a change that says nothing new may have to stand for one that was left
        out. A row that is read again may be ahead of the log, and be written to and fro once.
        """
        if self.damaged:
            return
        versions = Counter(
            chunk.text
            for version in self.source.versions
            if (version.new or self.restarted) and not self._checkpoint.covers(version.position)
            for chunk in self.cut(FIRST, version.text).chunks
        )
        again = self.reread + self.reader.rows_read
        if not again:
            assert self.model.embedded <= versions
        assert self.model.embedded.total() <= versions.total() + 4 * again


def _fail(error: Exception) -> None:
    raise AssertionError(f"what compares rows failed: {error}")


@contextmanager
def simulated(setting: Setting) -> Iterator[SimpleNamespace]:
    """A clock that only the schedule moves, workers that only the schedule runs, no waiting."""
    clock = SimpleNamespace(monotonic=lambda: 0.0, time=lambda: 0.0)
    silent = SimpleNamespace(info=lambda *_, **__: None, exception=lambda *_, **__: None)
    with (
        patch.object(batches, "ThreadPoolExecutor", Steered),
        patch.object(batches, "time", clock),
        patch.object(batches, "FIRST_TAKE", setting.take),
        patch.object(batches, "LARGEST_TAKE", setting.take),
        patch.object(pipeline, "time", clock),
        patch.object(patience, "delay", lambda *_: 0.0),
        patch.object(comparer, "POLL_SECONDS", 0.0),
        patch.object(comparer, "SLICE_ROWS", setting.slice_rows),
        patch.object(reconcile, "SAVE_SECONDS", -1.0),
        patch.object(reconcile, "log", silent),
        patch.object(verify, "MOST_SUSPECTS", setting.slice_rows),
        patch.object(retry, "log", silent),
        patch.object(verify, "log", silent),
    ):
        yield clock


def run(setting: Setting, steps: Iterable[tuple[str, Any]]) -> World:
    """The world after ``steps``, at rest and checked."""
    with simulated(setting) as clock:
        world = World(setting)
        clock.monotonic = lambda: world.clock
        try:
            world.play(steps)
            world.settle()
            world.check()
        finally:
            world.close()
    return world
