"""The wal2json plugin's lines of JSON, format-version 2: one for each row, BEGIN and COMMIT.

The same message types come out as of pgoutput. What that says in a message of its own is gathered
here from the rows: a Relation is announced before the first row that does not fit the last one.
And what the plugin does not say is not made up: an unchanged TOAST value is a column that is
missing, and a null of a floating type, which may have been NaN, is ``WITHHELD``.

Format: https://github.com/eulerto/wal2json
"""

import codecs
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

import orjson

from cdc_embed.errors import DecodeError
from cdc_embed.lsn import LSN
from cdc_embed.wire.messages import (
    UNCHANGED,
    WITHHELD,
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
    # messages of applications may be of any bytes, which is no JSON either
    "add-msg-prefixes": "cdc_embed",
}

UTF8: Final = codecs.lookup("utf-8").name

BYTEA: Final = 17
INTEGERS: Final = frozenset({20, 21, 23, 26})
FLOATING: Final = frozenset({700, 701, 1700})

_ESCAPED: Final = str.maketrans({c: f"\\{c}" for c in " \t\n\r\v\f',.*\\"})

TableName = tuple[str, str]
"""Schema and table."""
_Row = dict[str, Any]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A table that is asked for: the plugin names tables, it knows no oids."""

    oid: int
    columns: frozenset[str]
    """The columns whose values count; the rest is left out as a column list would."""


def options(tables: Iterable[TableName]) -> dict[str, str]:
    """How START_REPLICATION asks for these tables."""
    names = (f"{schema.translate(_ESCAPED)}.{name.translate(_ESCAPED)}" for schema, name in tables)
    return {**OPTIONS, "add-tables": ",".join(names)}


class Wal2json:
    """Decodes the frames of one connection, in order.

    The plugin writes in the database's encoding, whatever the client's is: ``codec`` is Python's
    name of it.
    """

    def __init__(self, tables: Mapping[TableName, Followed], codec: str = UTF8) -> None:
        self._tables = tables
        self._codec = codecs.lookup(codec).name
        self._layouts: dict[int, _Layout] = {}
        self._actions: Final[dict[str, Callable[[_Line], tuple[Message, ...]]]] = {
            "B": self._begin,
            "C": self._commit,
            "I": self._insert,
            "U": self._update,
            "D": self._delete,
            "T": self._truncate,
            "M": lambda _: (),
        }

    def decode(self, frame: bytes) -> tuple[Message, ...]:
        """The messages of one frame; ``DecodeError`` if it is none of this plugin."""
        line = _Line.parse(frame, self._codec)
        return self._actions[line.action](line)

    def _begin(self, line: "_Line") -> tuple[Message]:
        begin = Begin(
            final_lsn=line.lsn("lsn"), committed_at=line.time("timestamp"), xid=line.xid()
        )
        return (begin,)

    def _commit(self, line: "_Line") -> tuple[Message]:
        commit = Commit(
            flags=0,
            commit_lsn=line.lsn("lsn"),
            end_lsn=line.lsn("nextlsn"),
            committed_at=line.time("timestamp"),
        )
        return (commit,)

    def _truncate(self, line: "_Line") -> tuple[Message]:
        oid = self._followed(line).oid
        return (Truncate(relation_oids=(oid,), cascade=False, restart_identity=False),)

    def _insert(self, line: "_Line") -> tuple[Message, ...]:
        followed = self._followed(line)
        key = line.names("pk")
        layout = self._layouts.get(followed.oid)
        if layout is None or layout.primary_key != key:
            layout = _Layout(key, key, full=False)
        new = line.values("columns", followed.columns | layout.identity)
        announced, layout = self._announce(line, layout.with_names(new))
        return (*announced, Insert(relation_oid=followed.oid, new=layout.tuple_of(new)))

    def _update(self, line: "_Line") -> tuple[Message, ...]:
        followed = self._followed(line)
        identity, key = line.names("identity"), line.names("pk")
        full = identity > key and identity >= line.names("columns")
        wanted = followed.columns | (key if full else identity)
        new, old = line.values("columns", wanted), line.values("identity", wanted)
        layout = self._layout(followed, _Layout(key, key if full else identity, full=full))
        announced, layout = self._announce(line, layout.with_names((*new, *old)))
        kind: OldTuple | None = None
        if full:
            kind = OldTuple.FULL
        elif any(new.get(name) != value for name, value in old.items()):
            kind = OldTuple.KEY
        update = Update(
            relation_oid=followed.oid,
            old_kind=kind,
            old=layout.old_tuple_of(old) if kind is not None else None,
            new=layout.tuple_of(new),
        )
        return (*announced, update)

    def _delete(self, line: "_Line") -> tuple[Message, ...]:
        followed = self._followed(line)
        identity, key = line.names("identity"), line.names("pk")
        full = identity > key
        old = line.values("identity", followed.columns | (key if full else identity))
        layout = self._layout(followed, _Layout(key, key if full else identity, full=full))
        announced, layout = self._announce(line, layout.with_names(old))
        delete = Delete(
            relation_oid=followed.oid,
            old_kind=OldTuple.FULL if full else OldTuple.KEY,
            old=layout.old_tuple_of(old),
        )
        return (*announced, delete)

    def _followed(self, line: "_Line") -> Followed:
        name = line.table()
        followed = self._tables.get(name)
        if followed is None:
            raise line.fail("table", f"{'.'.join(name)} was not asked for")
        return followed

    def _layout(self, followed: Followed, seen: "_Layout") -> "_Layout":
        """The table's last layout, if a row says the same of the table's identity."""
        last = self._layouts.get(followed.oid)
        return last if last is not None and last.is_identified_as(seen) else seen

    def _announce(self, line: "_Line", layout: "_Layout") -> "tuple[tuple[Relation, ...], _Layout]":
        followed = self._followed(line)
        if self._layouts.get(followed.oid) is layout:
            return (), layout
        self._layouts[followed.oid] = layout
        schema, name = line.table()
        return (layout.relation(followed.oid, schema, name),), layout


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns that a table's rows were seen to have; what a Relation says of them."""

    primary_key: frozenset[str]
    identity: frozenset[str]
    full: bool
    columns: tuple[str, ...] = ()

    def is_identified_as(self, other: "_Layout") -> bool:
        return (self.primary_key, self.identity, self.full) == (
            other.primary_key,
            other.identity,
            other.full,
        )

    def with_names(self, names: Collection[str]) -> "_Layout":
        """This layout, if it has these columns already; else one that has."""
        new = [name for name in dict.fromkeys(names) if name not in self.columns]
        if not new:
            return self
        columns = (*self.columns, *new)
        return _Layout(self.primary_key, self.identity, self.full, columns)

    def relation(self, oid: int, schema: str, name: str) -> Relation:
        return Relation(
            oid=oid,
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

    def tuple_of(self, row: _Row) -> TupleData:
        """What is missing is an unchanged TOAST value, or a column that is gone."""
        return tuple([row.get(name, UNCHANGED) for name in self.columns])

    def old_tuple_of(self, row: _Row) -> TupleData:
        """An old tuple: of its replica identity, or of everything."""
        missing = UNCHANGED if self.full else None
        return tuple([row.get(name, missing) for name in self.columns])


class _Line:
    """One frame's JSON, read field by field."""

    __slots__ = ("_fields", "_text", "action", "message")

    def __init__(self, text: bytes, fields: _Row, action: str) -> None:
        self._text = text
        self._fields = fields
        self.action = action
        self.message = _NAMES[action]

    @classmethod
    def parse(cls, frame: bytes, codec: str) -> "_Line":
        try:
            text = frame if codec == UTF8 else frame.decode(codec).encode()
            fields = orjson.loads(text)
        except UnicodeDecodeError as exc:
            raise _unknown(f"not in the encoding {codec}", exc.start) from exc
        except orjson.JSONDecodeError as exc:
            raise _unknown("not JSON", exc.pos) from exc
        action = fields.get("action") if isinstance(fields, dict) else None
        if not isinstance(action, str) or action not in _NAMES:
            raise _unknown(f"action {action!r} is not of format-version 2")
        return cls(text, fields, action)

    def fail(self, field: str, problem: str) -> DecodeError:
        return DecodeError(message=self.message, problem=problem, field=field, offset=0)

    def table(self) -> TableName:
        return self._need("schema", str), self._need("table", str)

    def xid(self) -> int:
        return self._need("xid", int)

    def lsn(self, field: str) -> LSN:
        text = self._need(field, str)
        try:
            return LSN.parse(text)
        except ValueError:
            raise self.fail(field, f"{text!r} is no LSN") from None

    def time(self, field: str) -> datetime:
        text = self._need(field, str)
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            raise self.fail(field, f"{text!r} is no time") from None

    def names(self, field: str) -> frozenset[str]:
        """The column names of a list; a row without identity has none."""
        return frozenset(name for name, _, _ in self._columns(field))

    def values(self, field: str, wanted: frozenset[str]) -> _Row:
        """The text forms of some columns, as PostgreSQL writes them."""
        exact: list[_Row] | None = None
        row: _Row = {}
        for place, (name, kind, value) in enumerate(self._columns(field)):
            if name not in wanted:
                continue
            if isinstance(value, str):
                row[name] = "\\x" + value if kind == BYTEA else value
            elif value is None:
                row[name] = WITHHELD if kind in FLOATING else None
            elif isinstance(value, bool):
                row[name] = "t" if value else "f"
            elif isinstance(value, int) and kind in INTEGERS:
                row[name] = str(value)
            else:  # the digits count, and a float would round them
                if exact is None:
                    exact = json.loads(self._text, parse_int=str, parse_float=str)[field]
                row[name] = str(exact[place]["value"])
        return row

    def _columns(self, field: str) -> Iterable[tuple[str, int, Any]]:
        columns = self._fields.get(field, [])
        if not isinstance(columns, list):
            raise self.fail(field, "a list expected")
        for column in columns:
            name = column.get("name") if isinstance(column, dict) else None
            if not isinstance(name, str):
                raise self.fail(field, "a column without a name")
            yield name, column.get("typeoid", 0), column.get("value")

    def _need(self, field: str, kind: type[_T]) -> _T:
        value = self._fields.get(field)
        if not isinstance(value, kind):
            raise self.fail(field, f"{kind.__name__} expected, not {value!r}")
        return value


def _unknown(problem: str, byte: int = 0) -> DecodeError:
    return DecodeError(message="unknown", problem=problem, field="line", offset=byte)


_NAMES: Final = {
    "B": "Begin",
    "C": "Commit",
    "I": "Insert",
    "U": "Update",
    "D": "Delete",
    "T": "Truncate",
    "M": "Message",
}
