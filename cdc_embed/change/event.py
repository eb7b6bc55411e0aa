"""The events of the log: a change of a configured table, and the end of a transaction.

The rooms below use these types, and no plugin's messages. The module holds values only.
``transaction`` makes them from messages, ``batch`` and ``plan`` decide what follows.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from cdc_embed.change.document import Key, Table
from cdc_embed.lsn import LSN, Position
from cdc_embed.wire.messages import UNCHANGED, Value

OVERHEAD = 1024
"""The bytes that a pending change takes beside its text, because many small rows also fill the
memory."""


class Op(Enum):
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    TRUNCATE = "truncate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One row's insert, update or delete, or a table's truncate, with its place in the order."""

    position: Position
    xid: int
    """The transaction's id in 64 bits."""
    committed_at: datetime
    table: Table
    op: Op
    key: Key = ()
    old_key: Key | None = None
    """The key before this update, when the update changed it."""
    texts: tuple[Value, ...] = ()
    """The text columns' values after this change; empty for a delete or truncate."""
    metadata: tuple[Value, ...] = ()
    """The metadata columns' values after this change."""
    leaves_out: bool = False
    """Whether a column is missing, because it is unchanged or was dropped before this change. So
    the version before it in the batch does not say its value."""
    size: int = 0
    """The bytes of the frame that carried it, for backpressure."""

    @property
    def complete(self) -> bool:
        """Whether the change has every value of its row, so that nothing must be looked up."""
        return UNCHANGED not in self.texts and UNCHANGED not in self.metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionEnd:
    """A transaction's Commit, after everything of it has been delivered."""

    end_lsn: LSN
    committed_at: datetime
    size: int = 0


Event = Change | TransactionEnd
