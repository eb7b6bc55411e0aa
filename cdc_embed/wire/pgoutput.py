"""The pgoutput plugin's binary messages, proto_version 1 (not streamed, not two-phase).

``decode`` is total. Any bytes give a message or a ``DecodeError`` that names the message, the field
and the byte. It keeps no state between frames and resolves no relation. A tuple has the order of
the columns in the Relation that came before it.

Format: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from cdc_embed.errors import DecodeError
from cdc_embed.lsn import LSN
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
    Origin,
    Relation,
    ReplicaIdentity,
    Truncate,
    TupleData,
    Type,
    Update,
    Value,
)

BEGIN: Final = b"B"
COMMIT: Final = b"C"
ORIGIN: Final = b"O"
RELATION: Final = b"R"
TYPE: Final = b"Y"
INSERT: Final = b"I"
UPDATE: Final = b"U"
DELETE: Final = b"D"
TRUNCATE: Final = b"T"
LOGICAL_MESSAGE: Final = b"M"

NEW_TUPLE: Final = b"N"
VALUE_NULL: Final = b"n"
VALUE_UNCHANGED: Final = b"u"
VALUE_TEXT: Final = b"t"
VALUE_BINARY: Final = b"b"

PART_OF_KEY: Final = 0x01
TRUNCATE_CASCADE: Final = 0x01
TRUNCATE_RESTART_IDENTITY: Final = 0x02
TRANSACTIONAL: Final = 0x01

POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)

_INT8 = struct.Struct(">B")
_INT16 = struct.Struct(">H")
_INT32 = struct.Struct(">I")
_SIGNED32 = struct.Struct(">i")
_INT64 = struct.Struct(">Q")
_SIGNED64 = struct.Struct(">q")


def decode(frame: bytes) -> Message:
    """Return the message of one frame (a CopyData payload); raise ``DecodeError`` if it holds
    none."""
    tag = frame[:1]
    reader = _DECODERS.get(tag)
    if reader is None:
        raise DecodeError(
            message="unknown",
            problem=f"tag {tag!r} is not of proto_version 1",
            field="tag",
            offset=0,
        )
    name, read = reader
    cursor = _Cursor(frame, name)
    message = read(cursor)
    cursor.finish()
    return message


def messages(frame: bytes) -> tuple[Message]:
    """Decode a frame as a ``Decoder`` does; in pgoutput a frame is one message."""
    return (decode(frame),)


class _Cursor:
    """A bounds-checked position in one frame."""

    __slots__ = ("at", "data", "message")

    def __init__(self, data: bytes, message: str) -> None:
        self.data = data
        self.message = message
        self.at = 1

    def fail(self, field: str, problem: str, *, back: int = 0) -> DecodeError:
        """Return the error for the bytes that begin ``back`` bytes before the cursor."""
        return DecodeError(
            message=self.message, problem=problem, field=field, offset=self.at - back
        )

    def _number(self, layout: struct.Struct, field: str) -> int:
        end = self.at + layout.size
        if end > len(self.data):
            raise self.fail(field, f"{layout.size} bytes expected, {len(self.data) - self.at} left")
        number: int = layout.unpack_from(self.data, self.at)[0]
        self.at = end
        return number

    def int8(self, field: str) -> int:
        return self._number(_INT8, field)

    def int16(self, field: str) -> int:
        return self._number(_INT16, field)

    def int32(self, field: str) -> int:
        return self._number(_INT32, field)

    def signed32(self, field: str) -> int:
        return self._number(_SIGNED32, field)

    def lsn(self, field: str) -> LSN:
        return LSN(self._number(_INT64, field))

    def timestamp(self, field: str) -> datetime:
        microseconds = self._number(_SIGNED64, field)
        try:
            return POSTGRES_EPOCH + timedelta(microseconds=microseconds)
        except OverflowError:
            problem = f"{microseconds} µs is out of range"
            raise self.fail(field, problem, back=_SIGNED64.size) from None

    def take(self, size: int, field: str) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise self.fail(field, f"{size} bytes expected, {len(self.data) - self.at} left")
        chunk = self.data[self.at : end]
        self.at = end
        return chunk

    def text(self, size: int, field: str) -> str:
        try:
            return self.take(size, field).decode()
        except UnicodeDecodeError as exc:
            self.at += exc.start - size
            raise self.fail(field, "not UTF-8") from None

    def string(self, field: str) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise self.fail(field, "no terminating zero byte")
        text = self.text(end - self.at, field)
        self.at = end + 1
        return text

    def finish(self) -> None:
        if self.at != len(self.data):
            raise self.fail("end", f"{len(self.data) - self.at} bytes too many")


def _begin(frame: _Cursor) -> Begin:
    return Begin(
        final_lsn=frame.lsn("final_lsn"),
        committed_at=frame.timestamp("commit_timestamp"),
        xid=frame.int32("xid"),
    )


def _commit(frame: _Cursor) -> Commit:
    return Commit(
        flags=frame.int8("flags"),
        commit_lsn=frame.lsn("commit_lsn"),
        end_lsn=frame.lsn("end_lsn"),
        committed_at=frame.timestamp("commit_timestamp"),
    )


def _origin(frame: _Cursor) -> Origin:
    return Origin(commit_lsn=frame.lsn("commit_lsn"), name=frame.string("name"))


def _relation(frame: _Cursor) -> Relation:
    oid = frame.int32("oid")
    namespace = frame.string("namespace") or "pg_catalog"
    name = frame.string("name")
    identity = frame.take(1, "replica_identity")
    try:
        replica_identity = ReplicaIdentity(identity.decode("latin-1"))
    except ValueError:
        raise frame.fail("replica_identity", f"{identity!r} is unknown", back=1) from None
    columns = tuple(_column(frame) for _ in range(frame.int16("column_count")))
    return Relation(
        oid=oid,
        namespace=namespace,
        name=name,
        replica_identity=replica_identity,
        columns=columns,
    )


def _column(frame: _Cursor) -> Column:
    return Column(
        part_of_key=bool(frame.int8("column flags") & PART_OF_KEY),
        name=frame.string("column name"),
        type_oid=frame.int32("column type"),
        type_modifier=frame.signed32("column type modifier"),
    )


def _type(frame: _Cursor) -> Type:
    return Type(
        oid=frame.int32("oid"),
        namespace=frame.string("namespace") or "pg_catalog",
        name=frame.string("name"),
    )


def _insert(frame: _Cursor) -> Insert:
    oid = frame.int32("relation_oid")
    _expect_new_tuple(frame, frame.take(1, "tuple kind"))
    return Insert(relation_oid=oid, new=_tuple(frame, "new tuple"))


def _update(frame: _Cursor) -> Update:
    oid = frame.int32("relation_oid")
    kind = frame.take(1, "tuple kind")
    old_kind = _OLD_KINDS.get(kind)
    old = None
    if old_kind is not None:
        old = _tuple(frame, "old tuple")
        kind = frame.take(1, "tuple kind")
    _expect_new_tuple(frame, kind)
    return Update(relation_oid=oid, old_kind=old_kind, old=old, new=_tuple(frame, "new tuple"))


def _delete(frame: _Cursor) -> Delete:
    oid = frame.int32("relation_oid")
    kind = frame.take(1, "tuple kind")
    old_kind = _OLD_KINDS.get(kind)
    if old_kind is None:
        raise frame.fail("tuple kind", f"b'K' or b'O' expected, not {kind!r}", back=1)
    return Delete(relation_oid=oid, old_kind=old_kind, old=_tuple(frame, "old tuple"))


def _truncate(frame: _Cursor) -> Truncate:
    count = frame.int32("relation_count")
    options = frame.int8("options")
    if count * 4 > len(frame.data) - frame.at:
        raise frame.fail("relation_oids", f"{count} relations do not fit in the frame")
    return Truncate(
        relation_oids=tuple(frame.int32("relation_oids") for _ in range(count)),
        cascade=bool(options & TRUNCATE_CASCADE),
        restart_identity=bool(options & TRUNCATE_RESTART_IDENTITY),
    )


def _logical_message(frame: _Cursor) -> LogicalMessage:
    flags = frame.int8("flags")
    lsn = frame.lsn("lsn")
    prefix = frame.string("prefix")
    return LogicalMessage(
        transactional=bool(flags & TRANSACTIONAL),
        lsn=lsn,
        prefix=prefix,
        content=frame.take(frame.int32("content length"), "content"),
    )


def _tuple(frame: _Cursor, field: str) -> TupleData:
    return tuple([_value(frame, field) for _ in range(frame.int16(field))])


def _value(frame: _Cursor, field: str) -> Value:
    kind = frame.take(1, field)
    if kind == VALUE_TEXT:
        return frame.text(frame.int32(field), field)
    if kind == VALUE_NULL:
        return None
    if kind == VALUE_UNCHANGED:
        return UNCHANGED
    if kind == VALUE_BINARY:
        raise frame.fail(field, "a binary value, but START_REPLICATION requested text", back=1)
    raise frame.fail(field, f"value kind {kind!r} is unknown", back=1)


def _expect_new_tuple(frame: _Cursor, kind: bytes) -> None:
    if kind != NEW_TUPLE:
        raise frame.fail("tuple kind", f"{NEW_TUPLE!r} expected, not {kind!r}", back=1)


_OLD_KINDS: Final = {b"K": OldTuple.KEY, b"O": OldTuple.FULL}

_DECODERS: Final[dict[bytes, tuple[str, Callable[[_Cursor], Message]]]] = {
    BEGIN: ("Begin", _begin),
    COMMIT: ("Commit", _commit),
    ORIGIN: ("Origin", _origin),
    RELATION: ("Relation", _relation),
    TYPE: ("Type", _type),
    INSERT: ("Insert", _insert),
    UPDATE: ("Update", _update),
    DELETE: ("Delete", _delete),
    TRUNCATE: ("Truncate", _truncate),
    LOGICAL_MESSAGE: ("Message", _logical_message),
}
