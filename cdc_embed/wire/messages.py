"""The messages of the change log, the same for every output plugin.

The names are those of the logical replication message formats in PostgreSQL's documentation
(https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html). Every decoder of
this room returns these types, so no other room depends on the slot's plugin.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final, Literal

from cdc_embed.lsn import LSN


class _Unchanged(Enum):
    UNCHANGED = "unchanged TOAST value"

    def __repr__(self) -> str:
        return self.name


UNCHANGED: Final = _Unchanged.UNCHANGED
"""An out-of-line value that this change did not touch, so that the log does not carry it."""

Unchanged = Literal[_Unchanged.UNCHANGED]
Value = str | None | Unchanged
"""A column value: its text form, NULL, or unchanged."""


class Unwritten(Enum):
    WITHHELD = "value that the plugin does not write"
    LEFT_OUT = "column that the message does not have"

    def __repr__(self) -> str:
        return self.name


WITHHELD: Final = Unwritten.WITHHELD
"""A value that wal2json wrote as null. It writes NaN and the infinities so. The value can be any of
them, or null."""

LEFT_OUT: Final = Unwritten.LEFT_OUT
"""A column that a row does not have. wal2json leaves out unchanged TOAST values so. The column has
the value that it had, or it was dropped."""

TupleData = tuple[Value | Unwritten, ...]
"""The values of one row version, in the order of its Relation's columns."""


class ReplicaIdentity(Enum):
    """The kind of a table's old tuples, by the letters of ``pg_class.relreplident``."""

    DEFAULT = "d"
    NOTHING = "n"
    FULL = "f"
    INDEX = "i"


class OldTuple(Enum):
    """The columns of an old tuple that have values."""

    KEY = "K"
    FULL = "O"


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    final_lsn: LSN
    """The start of the transaction's commit record, its Commit's ``commit_lsn``."""
    committed_at: datetime
    xid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    flags: int
    commit_lsn: LSN
    end_lsn: LSN
    """The position to confirm, one past the commit record."""
    committed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    commit_lsn: LSN
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    name: str
    type_oid: int
    type_modifier: int
    part_of_key: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table as it was when the changes that follow were made."""

    oid: int
    namespace: str
    name: str
    replica_identity: ReplicaIdentity
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Type:
    oid: int
    namespace: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Insert:
    relation_oid: int
    new: TupleData


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    relation_oid: int
    old_kind: OldTuple | None
    """The old tuple; None when there is none, because the replica identity did not change and is
    not FULL."""
    old: TupleData | None
    new: TupleData


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    relation_oid: int
    old_kind: OldTuple
    old: TupleData


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate:
    relation_oids: tuple[int, ...]
    cascade: bool
    restart_identity: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalMessage:
    """A message that ``pg_logical_emit_message`` wrote."""

    transactional: bool
    lsn: LSN
    prefix: str
    content: bytes


Message = (
    Begin | Commit | Origin | Relation | Type | Insert | Update | Delete | Truncate | LogicalMessage
)

Decoder = Callable[[bytes], Iterable[Message]]
"""A function from one frame to its messages, in order; raises ``DecodeError``. Each connection
needs its own."""
