"""PostgreSQL's snapshots: the transactions that a transaction sees.

Format: https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT
"""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """``xmin:xmax:xip``; ids have 64 bits."""

    xmin: int
    """The first transaction that can still run. Every one before it has ended."""
    xmax: int
    """The transaction from which on none has ended."""
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Self:
        xmin, xmax, running = text.split(":")
        ids = frozenset(int(xid) for xid in running.split(",") if xid)
        return cls(xmin=int(xmin), xmax=int(xmax), running=ids)

    def sees(self, xid: int) -> bool:
        """Return whether the effects of a committed transaction, by its 64-bit id, are seen.

        Every later snapshot sees them too.
        """
        return xid < self.xmax and xid not in self.running


def widen(xid: int, xmax: int) -> int:
    """Return the 64-bit form of a 32-bit transaction id near ``xmax``, a 64-bit one.

    Ids in use lie within 2^31 of each other, so the signed distance decides the epoch.
    """
    distance = (xid - xmax) & 0xFFFFFFFF
    return xmax + (distance - 0x1_0000_0000 if distance >= 0x8000_0000 else distance)
