"""The wal2json plugin's lines of JSON, format-version 2: one for each row, BEGIN and COMMIT.

The messages have the same types as pgoutput's. wal2json sends no Relation, so this decoder derives
it from the rows. It announces a Relation before the first row that does not fit the last one. A
missing column is ``LEFT_OUT``: an unchanged TOAST value, or a dropped column. ``json_line`` reads
the fields and values of a line.

Format: https://github.com/eulerto/wal2json
"""

import codecs
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from cdc_embed.wire.json_line import UTF8, Line, Names, Row
from cdc_embed.wire.messages import (
    LEFT_OUT,
    Begin,
    Column,
    Commit,
    Delete,
    Insert,
    Message,
    OldTuple,
    Relation,
    ReplicaIdentity,
    Truncate,
    TupleData,
    Update,
)

OPTIONS: Final = {
    "format-version": "2",
    "include-lsn": "true",
    "include-xids": "true",
    "include-timestamp": "true",
    "include-pk": "true",
    # a type's name is not always valid JSON there, its oid is
    "include-types": "false",
    "include-type-oids": "true",
    # the content of an application's message can be any bytes, which are not always valid JSON
    "add-msg-prefixes": "cdc_embed",
}

_ESCAPED: Final = str.maketrans({c: f"\\{c}" for c in " \t\n\r\v\f',.*\\"})

QualifiedName = tuple[str, str]
"""The schema and table."""
_NOTHING: Final[Names] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A table to be followed, under its oid; the plugin sends only its name."""

    oid: int
    columns: frozenset[str]
    """The columns that are decoded; the others are left out, as pgoutput's column list does."""


def options(tables: Iterable[QualifiedName]) -> dict[str, str]:
    """Return the options of START_REPLICATION for these tables."""
    names = (f"{schema.translate(_ESCAPED)}.{name.translate(_ESCAPED)}" for schema, name in tables)
    return {**OPTIONS, "add-tables": ",".join(names)}


class Wal2json:
    """Decodes the frames of one connection, in order.

    The plugin writes in the database's encoding, whatever the client's is; ``codec`` is the name
    that Python has for it.
    """

    def __init__(self, tables: Mapping[QualifiedName, Followed], codec: str = UTF8) -> None:
        self._tables = tables
        self._codec = codecs.lookup(codec).name
        self._layouts: dict[int, _RowLayout] = {}
        self._actions: Final[dict[str, Callable[[Line], tuple[Message, ...]]]] = {
            "B": self._begin,
            "C": self._commit,
            "I": self._insert,
            "U": self._update,
            "D": self._delete,
            "T": self._truncate,
            "M": lambda _: (),
        }

    def decode(self, frame: bytes) -> tuple[Message, ...]:
        """Return the messages of one frame; raise ``DecodeError`` if it is not this plugin's."""
        line = Line.parse(frame, self._codec)
        return self._actions[line.action](line)

    def _begin(self, line: Line) -> tuple[Message]:
        begin = Begin(
            final_lsn=line.lsn("lsn"), committed_at=line.time("timestamp"), xid=line.xid()
        )
        return (begin,)

    def _commit(self, line: Line) -> tuple[Message]:
        commit = Commit(
            flags=0,
            commit_lsn=line.lsn("lsn"),
            end_lsn=line.lsn("nextlsn"),
            committed_at=line.time("timestamp"),
        )
        return (commit,)

    def _truncate(self, line: Line) -> tuple[Message, ...]:
        table = self._followed(line)
        announced: tuple[Relation, ...] = ()
        if table.oid not in self._layouts:  # a TRUNCATE has no columns
            layout = _RowLayout.of(table, _NOTHING, _NOTHING, full=True)
            announced = self._announce(line, layout.with_names(sorted(table.columns)))
        truncate = Truncate(relation_oids=(table.oid,), cascade=False, restart_identity=False)
        return (*announced, truncate)

    def _insert(self, line: Line) -> tuple[Message, ...]:
        table, key = self._followed(line), line.names("pk")
        layout = self._layouts.get(table.oid)
        if layout is None or layout.primary_key != key:
            layout = _RowLayout.of(table, key, key, full=False)
        new = line.values("columns", layout.wanted)
        layout = layout.with_names(new)
        insert = Insert(relation_oid=table.oid, new=layout.tuple_of(new))
        return (*self._announce(line, layout), insert)

    def _update(self, line: Line) -> tuple[Message, ...]:
        table, key, identity = self._followed(line), line.names("pk"), line.names("identity")
        full = identity > key and identity >= line.names("columns")
        layout = self._layout(table, key, identity, full=full)
        new, old = line.values("columns", layout.wanted), line.values("identity", layout.wanted)
        layout = layout.with_names(new).with_names(old)
        kind: OldTuple | None = None
        if full:
            kind = OldTuple.FULL
        elif any(new.get(name) != value for name, value in old.items()):
            kind = OldTuple.KEY
        update = Update(
            relation_oid=table.oid,
            old_kind=kind,
            old=layout.old_tuple_of(old) if kind is not None else None,
            new=layout.tuple_of(new),
        )
        return (*self._announce(line, layout), update)

    def _delete(self, line: Line) -> tuple[Message, ...]:
        table, key, identity = self._followed(line), line.names("pk"), line.names("identity")
        layout = self._layout(table, key, identity, full=identity > key)
        old = line.values("identity", layout.wanted)
        layout = layout.with_names(old)
        delete = Delete(
            relation_oid=table.oid,
            old_kind=OldTuple.FULL if layout.full else OldTuple.KEY,
            old=layout.old_tuple_of(old),
        )
        return (*self._announce(line, layout), delete)

    def _followed(self, line: Line) -> Followed:
        name = line.table()
        followed = self._tables.get(name)
        if followed is None:
            raise line.fail("table", f"{'.'.join(name)} is not in add-tables")
        return followed

    def _layout(self, table: Followed, key: Names, identity: Names, *, full: bool) -> "_RowLayout":
        """Return the table's last layout if the row has the same identity, else a new one."""
        layout = self._layouts.get(table.oid)
        if layout is None or not layout.is_identified_by(key, identity, full=full):
            layout = _RowLayout.of(table, key, identity, full=full)
        return layout

    def _announce(self, line: Line, layout: "_RowLayout") -> tuple[Relation, ...]:
        """Return a Relation if the table's last one does not match this layout."""
        if self._layouts.get(layout.oid) is layout:
            return ()
        self._layouts[layout.oid] = layout
        return (layout.relation(*line.table()),)


@dataclass(frozen=True, slots=True)
class _RowLayout:
    """The columns seen in a table's rows, for its Relation."""

    oid: int
    primary_key: Names
    identity: Names
    full: bool
    wanted: Names
    """The columns that are decoded."""
    columns: dict[str, None] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Followed, key: Names, identity: Names, *, full: bool) -> "_RowLayout":
        identity = key if full else identity
        return cls(table.oid, key, identity, full, table.columns | identity)

    def is_identified_by(self, key: Names, identity: Names, *, full: bool) -> bool:
        return full is self.full and key == self.primary_key and (full or identity == self.identity)

    def with_names(self, names: Iterable[str]) -> "_RowLayout":
        """Return this layout if it has these columns already, else one that has."""
        if all(name in self.columns for name in names):
            return self
        return replace(self, columns=self.columns | dict.fromkeys(names))

    def relation(self, schema: str, name: str) -> Relation:
        return Relation(
            oid=self.oid,
            namespace=schema,
            name=name,
            replica_identity=ReplicaIdentity.FULL if self.full else ReplicaIdentity.DEFAULT,
            columns=tuple(
                Column(
                    name=column, type_oid=0, type_modifier=-1, part_of_key=column in self.identity
                )
                for column in self.columns
            ),
        )

    def tuple_of(self, row: Row) -> TupleData:
        """Return the values of the columns."""
        return tuple([row.get(name, LEFT_OUT) for name in self.columns])

    def old_tuple_of(self, row: Row) -> TupleData:
        """Return an old tuple: of the replica identity's columns, or of all of them."""
        missing = LEFT_OUT if self.full else None
        return tuple([row.get(name, missing) for name in self.columns])
