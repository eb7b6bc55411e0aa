"""What the change log says, whichever output plugin said it.

The names are those of the logical replication message formats in PostgreSQL's documentation
(https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html). Every decoder
of this room yields these types, so nothing behind it knows which plugin the slot uses.
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
"""An out-of-line value that this change did not touch: the log does not carry it."""

Unchanged = Literal[_Unchanged.UNCHANGED]
Value = str | None | Unchanged
"""A column value: its text form, NULL, or unchanged."""


class _Withheld(Enum):
    WITHHELD = "value that the plugin does not write"

    def __repr__(self) -> str:
        return self.name


WITHHELD: Final = _Withheld.WITHHELD
"""wal2json writes NaN and the infinities as null: a null of such a type may be any of them."""

TupleData = tuple[Value | Literal[_Withheld.WITHHELD], ...]
"""The values of one row version, in the order of its Relation's columns."""


class ReplicaIdentity(Enum):
    """What an old tuple holds; the letters of ``pg_class.relreplident``."""

    DEFAULT = "d"
    NOTHING = "n"
    FULL = "f"
    INDEX = "i"


class OldTuple(Enum):
    """Which columns of an old tuple are filled in."""

    KEY = "K"
    FULL = "O"


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    final_lsn: LSN
    """Where the transaction's commit record starts: its Commit's ``commit_lsn``."""
    committed_at: datetime
    xid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    flags: int
    commit_lsn: LSN
    end_lsn: LSN
    """One past the commit record: the position to confirm."""
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
    """None when neither the replica identity changed nor is it FULL: no old tuple then."""
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
    """What ``pg_logical_emit_message`` wrote."""

    transactional: bool
    lsn: LSN
    prefix: str
    content: bytes


Message = (
    Begin | Commit | Origin | Relation | Type | Insert | Update | Delete | Truncate | LogicalMessage
)

Decoder = Callable[[bytes], Iterable[Message]]
"""One frame's messages, in order; raises ``DecodeError``. Made anew for each connection."""
