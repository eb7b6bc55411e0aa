"""Rows for which a snapshot can be older than changes already received.

The log can deliver a transaction before a read sees it, because its commit waits for a standby. A
slice read in such a snapshot would replace the newer row with the older one. So while rows are
being read, the keys of every received transaction are remembered until all snapshots see it.
Reconcile skips these rows, because the log brings them.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from cdc_embed.change.document import Key, Table
from cdc_embed.change.event import Change, Op
from cdc_embed.change.snapshot import Snapshot

MOST_KEYS: Final = 100_000
"""The number of keys kept for one transaction; of a larger one only the tables are kept."""
MOST_KEYS_OF_ALL: Final = 1_000_000


@dataclass(slots=True)
class _Touched:
    keys: set[tuple[Table, Key]] = field(default_factory=set)
    tables: set[Table] = field(default_factory=set)
    """The tables of which every row is touched."""


class Unseen:
    """The keys that recently received transactions touched."""

    def __init__(self, most: int = MOST_KEYS, most_of_all: int = MOST_KEYS_OF_ALL) -> None:
        """Keep ``most`` keys of one transaction, ``most_of_all`` of all together."""
        self._most = most
        self._most_of_all = most_of_all
        self._transactions: dict[int, _Touched] = {}
        self._keys = 0

    def mark_touched(self, change: Change) -> None:
        """Remember the keys of a received change."""
        touched = self._transactions.setdefault(change.xid, _Touched())
        if change.op is Op.TRUNCATE or change.table in touched.tables:
            touched.tables.add(change.table)
            return
        before = len(touched.keys)
        touched.keys.add((change.table, change.key))
        if change.old_key is not None:
            touched.keys.add((change.table, change.old_key))
        self._keys += len(touched.keys) - before
        if len(touched.keys) > self._most:
            self._forget_keys(touched)
        while self._keys > self._most_of_all:
            self._forget_keys(max(self._transactions.values(), key=lambda t: len(t.keys)))

    def drop_seen(self, snapshot: Snapshot) -> None:
        """Forget the transactions that ``snapshot`` sees, because every later snapshot sees them
        too."""
        for xid in [xid for xid in self._transactions if snapshot.sees(xid)]:
            self._keys -= len(self._transactions.pop(xid).keys)

    def hidden(
        self, snapshot: Snapshot, table: Table, keys: Collection[Key]
    ) -> frozenset[Key] | None:
        """Return those of ``keys`` for which a read in ``snapshot`` can be too old; None if all can
        be."""
        wanted = {(table, key) for key in keys}
        found: set[tuple[Table, Key]] = set()
        for xid, touched in self._transactions.items():
            if snapshot.sees(xid):
                continue
            if table in touched.tables:
                return None
            found |= touched.keys & wanted
        return frozenset(key for _, key in found)

    def _forget_keys(self, touched: _Touched) -> None:
        touched.tables |= {table for table, _ in touched.keys}
        self._keys -= len(touched.keys)
        touched.keys.clear()
