"""Messages to changes: each row change gets its transaction and the terms of its table.

This module resolves relations to configured tables, reads the key and the text from tuples, and
numbers each change inside its transaction. It leaves out the changes that the recorded position
covers. It neither folds nor decides. One row message gives at most one change, and a TRUNCATE one
for each of its tables.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cdc_embed.change.document import Key, Table
from cdc_embed.change.event import OVERHEAD, Change, Event, Op, TransactionEnd
from cdc_embed.change.snapshot import widen
from cdc_embed.errors import HistoryGapError, TableChangedError
from cdc_embed.lsn import LSN, Checkpoint, Position
from cdc_embed.wire.messages import (
    LEFT_OUT,
    UNCHANGED,
    WITHHELD,
    Begin,
    Commit,
    Delete,
    Insert,
    Message,
    OldTuple,
    Relation,
    ReplicaIdentity,
    Truncate,
    TupleData,
    Unwritten,
    Update,
    Value,
)


def _raise(_: Table, error: TableChangedError) -> None:
    raise error


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """Functions that are called for a change that becomes no event."""

    on_covered: Callable[[Table], None] = lambda _: None
    """A function that is called for each replayed change that the target has already."""
    is_paused: Callable[[Table], bool] = lambda _: False
    """A function that returns whether the table's changes are of no use now, whatever they say."""
    on_undelivered: Callable[[Table, TableChangedError], None] = _raise
    """A function that is called for a table whose changes are of no use from here on, before
    anything behind them is an event. The table must be paused, and all its rows compared."""
    on_leaf: Callable[[Table, int], None] = lambda _, __: None
    """A function that is called with the oid of a leaf partition before changes of it come under
    the name of its table. The leaf can be gone by now, and the log does not tell of that."""


NO_CALLBACKS: Final = Callbacks()


class Assembler:
    """Follows one replication connection, from START_REPLICATION on.

    ``tables`` are the configured ones; ``checkpoint`` is the target's position, ``replay_from`` the
    slot's when streaming began. A relation is found by its oid, because the log has the table names
    of its time. A relation that is not configured is ignored. A relation that cannot be used any
    more makes its table undelivered as soon as a change of it would count, until a change of it can
    be used again.
    """

    def __init__(
        self,
        tables: Iterable[Table],
        checkpoint: Checkpoint,
        replay_from: LSN,
        callbacks: Callbacks = NO_CALLBACKS,
        near_xid: int = 1 << 31,
    ) -> None:
        """``near_xid``: a transaction id of 64 bits near those of the log, which have 32."""
        self._near_xid = near_xid
        self._tables = {table.oid: table for table in tables}
        self._checkpoint = checkpoint
        self._layouts: dict[int, _Layout | TableChangedError | None] = {}
        self._begin: Begin | None = None
        self._ordinal = 0
        self._recorded_commit_seen = not checkpoint.replays(replay_from)
        self._callbacks = callbacks
        self._undelivered: set[Table] = set()
        self._partitioned: Table | None = None
        """The partitioned table that was announced last, if no row came since."""

    @property
    def open_transaction(self) -> Begin | None:
        """The Begin of the transaction that is being delivered; None between two transactions."""
        return self._begin

    @property
    def verified(self) -> bool:
        """Whether the stream continues the recorded position.

        If a replay is due, it has delivered the recorded commit. Until then nothing may be
        confirmed.
        """
        return self._recorded_commit_seen

    def feed(self, message: Message, size: int) -> list[Event]:
        """Return the events of one message whose frame had ``size`` bytes."""
        if isinstance(message, Begin):
            if not self.verified and self._checkpoint.is_before(message.final_lsn):
                raise self._rolled_back()
            self._near_xid = widen(message.xid, self._near_xid)
            self._begin = replace(message, xid=self._near_xid)
            self._ordinal = 0
        elif isinstance(message, Commit):
            self._begin = None
            self._check_replay(message)
            return [
                TransactionEnd(
                    end_lsn=message.end_lsn,
                    committed_at=message.committed_at,
                    size=size + OVERHEAD,
                )
            ]
        elif isinstance(message, Relation):
            self._announce(message)
        elif isinstance(message, Insert | Update | Delete | Truncate):
            self._partitioned = None
            return list(self._changes(message, size))
        return []

    def _check_replay(self, commit: Commit) -> None:
        if commit.end_lsn == self._checkpoint.end_lsn:
            self._recorded_commit_seen = True
        if self._checkpoint.missing_commit(commit.end_lsn, self._recorded_commit_seen):
            raise self._rolled_back()

    def _rolled_back(self) -> HistoryGapError:
        return HistoryGapError(
            slot=self._checkpoint.slot,
            problem=f"the log no longer holds the transaction that ended at "
            f"{self._checkpoint.end_lsn}, which the target has; "
            f"the source was rolled back to an older state",
        )

    def _announce(self, relation: Relation) -> None:
        """Take in a relation; that of a leaf comes behind that of its partitioned table."""
        self._layouts[relation.oid] = self._resolve(relation)
        table = self._tables.get(relation.oid)
        if table is not None:
            self._partitioned = table if table.partitioned else None
        elif self._partitioned is not None:
            self._callbacks.on_leaf(self._partitioned, relation.oid)

    def _resolve(self, relation: Relation) -> "_Layout | TableChangedError | None":
        table = self._tables.get(relation.oid)
        if table is None:
            return None
        problem = _problem(table, relation)
        if problem is not None:
            return TableChangedError(table=table.full_name, problem=problem)
        return _Layout.of(table, relation)

    def _changes(self, message: Insert | Update | Delete | Truncate, size: int) -> Iterator[Change]:
        begin = self._begin
        if begin is None:
            raise HistoryGapError(
                slot=self._checkpoint.slot, problem="a row change came outside a transaction"
            )
        if isinstance(message, Truncate):
            oids: Sequence[int] = message.relation_oids
        else:
            oids = (message.relation_oid,)
        for oid in oids:
            self._ordinal += 1
            position = Position(begin.final_lsn, self._ordinal)
            layout = self._layout(oid)
            if layout is None:
                continue
            if self._checkpoint.covers(position):
                self._callbacks.on_covered(self._tables[oid])
                continue
            change: Change | TableChangedError
            if not isinstance(layout, _Layout):
                change = layout
            elif self._callbacks.is_paused(layout.table):
                change = TableChangedError(table=layout.table.full_name, problem="is paused")
            else:
                change = layout.change(message, position, begin, size + OVERHEAD)
            if isinstance(change, Change):
                self._undelivered.discard(change.table)
                yield change
            else:
                self._miss(self._tables[oid], change)

    def _miss(self, table: Table, error: TableChangedError) -> None:
        if table not in self._undelivered:
            self._callbacks.on_undelivered(table, error)
            self._undelivered.add(table)

    def _layout(self, oid: int) -> "_Layout | TableChangedError | None":
        if oid not in self._layouts:
            raise HistoryGapError(
                slot=self._checkpoint.slot, problem=f"a row of unannounced relation {oid} came"
            )
        return self._layouts[oid]


@dataclass(frozen=True, slots=True)
class _Layout:
    """The places of a table's columns in its tuples, by the latest Relation."""

    table: Table
    width: int
    key: tuple[int, ...]
    text: tuple[int | None, ...]
    metadata: tuple[int | None, ...]
    """The places of the metadata columns; None for one that the log did not carry at that time.
    That is not NULL. If the value counts, the row is read from the source, because the column can
    be gone there by now."""

    @classmethod
    def of(cls, table: Table, relation: Relation) -> "_Layout":
        places = {column.name: place for place, column in enumerate(relation.columns)}
        return cls(
            table,
            len(relation.columns),
            tuple(places[column.name] for column in table.key),
            tuple(places.get(name) for name in table.text_columns),
            tuple(places.get(column.name) for column in table.metadata),
        )

    def change(
        self,
        message: Insert | Update | Delete | Truncate,
        position: Position,
        begin: Begin,
        size: int,
    ) -> Change | TableChangedError:
        """Return the change of a message, or the error that makes it unusable."""
        op, row, old = _parts(message)
        key = () if op is Op.TRUNCATE else self._key(row if row is not None else old, old)
        old_key = self._key(old) if op is Op.UPDATE and old is not None else None
        if isinstance(key, TableChangedError):
            return key
        if isinstance(old_key, TableChangedError):
            return old_key
        full = old if isinstance(message, Update) and message.old_kind is OldTuple.FULL else None
        if self.table.partitioned:
            # the identity of the table is FULL, but a partition's can be its key
            full = None
        texts = _pick(self.text, row, full) if row is not None else ()
        metadata = _pick(self.metadata, row, full) if row is not None else ()
        if WITHHELD in texts or WITHHELD in metadata:
            # no earlier version has such a value, so the row is read, as for an insert
            op = Op.INSERT
        return Change(
            position=position,
            xid=begin.xid,
            committed_at=begin.committed_at,
            table=self.table,
            op=op,
            key=key,
            old_key=old_key if old_key != key else None,
            texts=_values(texts),
            metadata=_values(metadata),
            leaves_out=LEFT_OUT in texts or LEFT_OUT in metadata,
            size=size,
        )

    def _key(self, row: TupleData | None, old: TupleData | None = None) -> Key | TableChangedError:
        if row is None or len(row) != self.width:
            return TableChangedError(
                table=self.table.full_name,
                problem=f"a row of {len(row or ())} columns came, {self.width} were announced",
            )
        values = []
        for place in self.key:
            value = row[place]
            if _is_unchanged(value) and old is not None:
                value = old[place]
            if not isinstance(value, str):
                return TableChangedError(
                    table=self.table.full_name, problem="a row came without its primary key"
                )
            values.append(value)
        return tuple(values)


def _problem(table: Table, relation: Relation) -> str | None:
    """Return why the rows of a relation cannot be used any more; None when they can."""
    names = {column.name for column in relation.columns}
    types = {column.name: column.type_oid for column in relation.columns}
    key = tuple(column.name for column in table.key)
    for name in key:
        if name not in names:
            return f"key column {name} is not in the change log any more"
    identity = {column.name for column in relation.columns if column.part_of_key}
    if relation.replica_identity is not ReplicaIdentity.FULL and identity != set(key):
        return (
            f"its replica identity ({', '.join(sorted(identity)) or 'nothing'}) "
            f"is not its primary key ({', '.join(key)}) any more"
        )
    for column in (*table.key, *table.metadata):
        if types.get(column.name) not in {None, 0, column.type_oid} and column.type_oid:
            return f"column {column.name} is not of the type {column.type} any more"
    return None


def _parts(
    message: Insert | Update | Delete | Truncate,
) -> tuple[Op, TupleData | None, TupleData | None]:
    """Return (operation, new row, old row or key)."""
    if isinstance(message, Insert):
        return Op.INSERT, message.new, None
    if isinstance(message, Update):
        return Op.UPDATE, message.new, message.old
    if isinstance(message, Delete):
        return Op.DELETE, None, message.old
    return Op.TRUNCATE, None, None


def _values(picked: TupleData) -> tuple[Value, ...]:
    return tuple([UNCHANGED if isinstance(value, Unwritten) else value for value in picked])


def _is_unchanged(value: Value | Unwritten) -> bool:
    return value is UNCHANGED or value is LEFT_OUT


def _pick(places: Sequence[int | None], row: TupleData, old: TupleData | None) -> TupleData:
    """Return the values at some places; an unchanged one is taken from a complete old tuple."""
    return tuple(
        [
            LEFT_OUT
            if place is None
            else old[place]
            if old is not None and _is_unchanged(row[place])
            else row[place]
            for place in places
        ]
    )
