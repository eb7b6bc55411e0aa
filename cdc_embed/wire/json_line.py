"""One line of wal2json: its JSON, read field by field, and the text forms of its values.

Each field is checked when it is read, because a line can be damaged anywhere. No value is invented.
A null of a floating type is ``WITHHELD``, because it can stand for NaN. Each line is read alone.
``wal2json`` makes messages of lines, and remembers the columns of a table.

Format: https://github.com/eulerto/wal2json
"""

import codecs
import re
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, TypeVar

import orjson

from cdc_embed.errors import DecodeError
from cdc_embed.lsn import LSN
from cdc_embed.wire.messages import WITHHELD

Names = frozenset[str]
"""The names of some columns."""
Row = dict[str, Any]
"""The values of some columns as text forms, by name."""
_T = TypeVar("_T")

UTF8: Final = codecs.lookup("utf-8").name

BYTEA: Final = 17
INTEGERS: Final = frozenset({20, 21, 23, 26})
FLOATING: Final = frozenset({700, 701, 1700})

_NUMBER: Final = re.compile(rb'"value":\s*(-?[0-9][0-9.eE+-]*)')
"""A column's number. No text can match, because a quotation mark in a string is escaped."""


class Line:
    """One frame's JSON, read field by field."""

    __slots__ = ("_exact", "_fields", "_text", "action", "message")

    def __init__(self, text: bytes, fields: dict[str, Any], action: str) -> None:
        self._text = text
        self._fields = fields
        self._exact: dict[str, Any] | None = None
        self.action = action
        self.message = _NAMES[action]

    @classmethod
    def parse(cls, frame: bytes, codec: str) -> "Line":
        """Read a frame that is written in this encoding; raise ``DecodeError`` if it cannot be."""
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
        """Make the error of a field, to be raised."""
        return DecodeError(message=self.message, problem=problem, field=field, offset=0)

    def table(self) -> tuple[str, str]:
        """Return the schema and the name of the row's table."""
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

    def names(self, field: str) -> Names:
        """Return the column names of a list; a row without a replica identity has none."""
        try:
            names = frozenset([column["name"] for column in self._columns(field)])
        except (KeyError, TypeError) as exc:
            raise self.fail(field, "a column without a name") from exc
        if not all(isinstance(name, str) for name in names):
            raise self.fail(field, "a column name that is not a text")
        return names

    def values(self, field: str, wanted: Names) -> Row:
        """Return the text forms of some columns, as PostgreSQL writes them."""
        row: Row = {}
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
