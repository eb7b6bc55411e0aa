"""The wal2json plugin's lines of JSON, format-version 2: one for each row, BEGIN and COMMIT.

The messages have the same types as pgoutput's. wal2json sends no Relation, so this decoder derives
it from the rows: it announces a Relation before the first row that does not fit the last one. It
invents no values: a missing column is an unchanged TOAST value, and a null of a floating type is
``WITHHELD``, because it can stand for NaN.

Format: https://github.com/eulerto/wal2json
"""

import codecs
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
    # the content of an application's message can be any bytes, which are not always valid JSON
    "add-msg-prefixes": "cdc_embed",
}

UTF8: Final = codecs.lookup("utf-8").name

BYTEA: Final = 17
INTEGERS: Final = frozenset({20, 21, 23, 26})
FLOATING: Final = frozenset({700, 701, 1700})

_NUMBER: Final = re.compile(rb'"value":\s*(-?[0-9][0-9.eE+-]*)')
"""A column's number. No text can match, because a quotation mark in a string is escaped."""

_ESCAPED: Final = str.maketrans({c: f"\\{c}" for c in " \t\n\r\v\f',.*\\"})

QualifiedName = tuple[str, str]
"""Schema and table."""
_Names = frozenset[str]
_NOTHING: Final[_Names] = frozenset()
_Row = dict[str, Any]
_T = TypeVar("_T")


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
        """Return the messages of one frame; raise ``DecodeError`` if it is not this plugin's."""
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

    def _truncate(self, line: "_Line") -> tuple[Message, ...]:
        table = self._followed(line)
        announced: tuple[Relation, ...] = ()
        if table.oid not in self._layouts:  # a TRUNCATE has no columns
            layout = _Layout.of(table, _NOTHING, _NOTHING, full=True)
            announced = self._announce(line, layout.with_names(sorted(table.columns)))
        truncate = Truncate(relation_oids=(table.oid,), cascade=False, restart_identity=False)
        return (*announced, truncate)

    def _insert(self, line: "_Line") -> tuple[Message, ...]:
        table, key = self._followed(line), line.names("pk")
        layout = self._layouts.get(table.oid)
        if layout is None or layout.primary_key != key:
            layout = _Layout.of(table, key, key, full=False)
        new = line.values("columns", layout.wanted)
        layout = layout.with_names(new)
        insert = Insert(relation_oid=table.oid, new=layout.tuple_of(new))
        return (*self._announce(line, layout), insert)

    def _update(self, line: "_Line") -> tuple[Message, ...]:
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

    def _delete(self, line: "_Line") -> tuple[Message, ...]:
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

    def _followed(self, line: "_Line") -> Followed:
        name = line.table()
        followed = self._tables.get(name)
        if followed is None:
            raise line.fail("table", f"{'.'.join(name)} is not in add-tables")
        return followed

    def _layout(self, table: Followed, key: _Names, identity: _Names, *, full: bool) -> "_Layout":
        """Return the table's last layout if the row has the same identity, else a new one."""
        layout = self._layouts.get(table.oid)
        if layout is None or not layout.is_identified_by(key, identity, full=full):
            layout = _Layout.of(table, key, identity, full=full)
        return layout

    def _announce(self, line: "_Line", layout: "_Layout") -> tuple[Relation, ...]:
        """Return a Relation if the table's last one does not match this layout."""
        if self._layouts.get(layout.oid) is layout:
            return ()
        self._layouts[layout.oid] = layout
        return (layout.relation(*line.table()),)


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns seen in a table's rows, for its Relation."""

    oid: int
    primary_key: _Names
    identity: _Names
    full: bool
    wanted: _Names
    """The columns that are decoded."""
    columns: dict[str, None] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Followed, key: _Names, identity: _Names, *, full: bool) -> "_Layout":
        identity = key if full else identity
        return cls(table.oid, key, identity, full, table.columns | identity)

    def is_identified_by(self, key: _Names, identity: _Names, *, full: bool) -> bool:
        return full is self.full and key == self.primary_key and (full or identity == self.identity)

    def with_names(self, names: Iterable[str]) -> "_Layout":
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

    def tuple_of(self, row: _Row) -> TupleData:
        """Return the values of the columns; a missing one is an unchanged TOAST value or a dropped
        column."""
        return tuple([row.get(name, UNCHANGED) for name in self.columns])

    def old_tuple_of(self, row: _Row) -> TupleData:
        """Return an old tuple: of the replica identity's columns, or of all of them."""
        missing = UNCHANGED if self.full else None
        return tuple([row.get(name, missing) for name in self.columns])


class _Line:
    """One frame's JSON, read field by field."""

    __slots__ = ("_exact", "_fields", "_text", "action", "message")

    def __init__(self, text: bytes, fields: _Row, action: str) -> None:
        self._text = text
        self._fields = fields
        self._exact: _Row | None = None
        self.action = action
        self.message = _NAMES[action]

    @classmethod
    def parse(cls, frame: bytes, codec: str) -> "_Line":
        try:
            text = frame if codec == UTF8 else frame.decode(codec).encode()
        except UnicodeDecodeError as exc:
            raise _unknown(f"not in the encoding {codec}", exc.start) from exc
        fields = _parse(text)
        action = fields.get("action") if isinstance(fields, dict) else None
        if not isinstance(action, str) or action not in _NAMES:
            raise _unknown(f"action {action!r} is not of format-version 2")
        return cls(text, fields, action)

    def fail(self, field: str, problem: str) -> DecodeError:
        return DecodeError(message=self.message, problem=problem, field=field, offset=0)

    def table(self) -> QualifiedName:
        return self._need("schema", str), self._need("table", str)

    def xid(self) -> int:
        return self._need("xid", int)

    def lsn(self, field: str) -> LSN:
        text = self._need(field, str)
        try:
            return LSN.parse(text)
        except ValueError:
            raise self.fail(field, f"{text!r} is not an LSN") from None

    def time(self, field: str) -> datetime:
        text = self._need(field, str)
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            raise self.fail(field, f"{text!r} is not a timestamp") from None
        if time.tzinfo is None:
            raise self.fail(field, f"{text!r} has no time zone")
        return time

    def names(self, field: str) -> _Names:
        """Return the column names of a list; a row without a replica identity has none."""
        try:
            names = frozenset([column["name"] for column in self._columns(field)])
        except (KeyError, TypeError) as exc:
            raise self.fail(field, "a column without a name") from exc
        if not all(isinstance(name, str) for name in names):
            raise self.fail(field, "a column name that is not a text")
        return names

    def values(self, field: str, wanted: _Names) -> _Row:
        """Return the text forms of some columns, as PostgreSQL writes them."""
        row: _Row = {}
        try:
            for column in self._columns(field):
                name = column["name"]
                if name in wanted:
                    row[name] = self._value(field, name, column["typeoid"], column["value"])
        except (KeyError, TypeError) as exc:
            raise self.fail(field, "a column without name, typeoid or value") from exc
        return row

    def _value(self, field: str, name: str, kind: int, value: object) -> Any:
        if isinstance(value, str):
            return "\\x" + value if kind == BYTEA else value
        if value is None:
            return WITHHELD if kind in FLOATING else None
        if isinstance(value, bool):
            return "t" if value else "f"
        if isinstance(value, int) and kind in INTEGERS:
            return str(value)
        return self._digits(field, name)

    def _digits(self, field: str, name: str) -> str:
        """Return the digits of a number as written, because an integer can be long and a float
        would round it."""
        if self._exact is None:
            self._exact = _parse_exactly(self._text)
        for column in self._exact[field]:
            if column["name"] == name and isinstance(column["value"], str):
                return str(column["value"])
        raise self.fail(field, f"the value of {name} is neither text nor a number")

    def _columns(self, field: str) -> list[Any]:
        columns = self._fields.get(field, [])
        if not isinstance(columns, list):
            raise self.fail(field, "a list expected")
        return columns

    def _need(self, field: str, kind: type[_T]) -> _T:
        value = self._fields.get(field)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.fail(field, f"{kind.__name__} expected, not {value!r}")
        return value


def _parse(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        with suppress(orjson.JSONDecodeError):  # a number can be beyond every float
            return _parse_exactly(text)
        raise _unknown("not JSON", len(exc.doc[: exc.pos].encode())) from exc


def _parse_exactly(text: bytes) -> Any:
    """Parse the line with the values' numbers as strings of their digits."""
    return orjson.loads(_NUMBER.sub(lambda number: b'"value":"%b"' % number[1], text))


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
