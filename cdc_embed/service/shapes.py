"""The comparison of each table's shape with the one that its comparison of rows knows.

A table of another shape is compared from its beginning. A partitioned table of which only leaves
came, went or were changed goes on. What follows of these leaves alone is noted.
"""

from collections.abc import Collection, Mapping, Sequence
from threading import Lock

import structlog

from cdc_embed.change.document import Table
from cdc_embed.change.shape import Shape, leaf_changes
from cdc_embed.setup.connections import Connections
from cdc_embed.source.found import never_filled
from cdc_embed.source.observed import Observed
from cdc_embed.source.tables import SourceTable
from cdc_embed.target.leaves import Leaves
from cdc_embed.target.ledger import Ledger
from cdc_embed.target.overview import StoredTable

log = structlog.get_logger()


class MetLeaves:
    """The leaf partitions whose changes the log brought since the last look, by table.

    One that is gone at the next look can have left keys without rows. Safe from any thread.
    """

    def __init__(self) -> None:
        self._met: dict[str, set[int]] = {}
        self._lock = Lock()

    def meet(self, table: Table, leaf: int) -> None:
        """Note a leaf of a table."""
        with self._lock:
            self._met.setdefault(table.full_name, set()).add(leaf)

    def now(self) -> dict[str, frozenset[int]]:
        """Return the leaves that were met and are not forgotten."""
        with self._lock:
            return {name: frozenset(leaves) for name, leaves in self._met.items()}

    def forget(self, met: Mapping[str, Collection[int]]) -> None:
        """Forget leaves that were looked for."""
        with self._lock:
            for name, leaves in met.items():
                self._met[name].difference_update(leaves)


class LeafNews:
    """Finds out whether partitions came, went or were changed, and what follows is not done yet."""

    def __init__(
        self, databases: Connections, tables: Sequence[SourceTable], met: MetLeaves
    ) -> None:
        self._databases = databases
        self._tables = [source for source in tables if source.table.partitioned]
        self._met = met
        self._leaves = Leaves(databases.target, databases.config.target.schema)

    def has_news(self, table: Table) -> bool:
        """Return whether the leaves of a table are others than its comparison knows."""
        if not table.partitioned:
            return False
        name, met = table.full_name, self._met.now()  # before the look, as above
        observed = self._databases.coverage.observe(self._tables, [table.oid])
        shape = observed.shapes.get(name)
        if shape is None:
            return False
        known, pending = self._leaves.known(name), self._leaves.pending(name)
        passed = met.get(name, frozenset()) - shape.leaves.keys()
        return bool(passed or known != shape.leaves or pending.leaves or pending.orphans)


class Shapes:
    """Notes what events mean for comparisons that the log need not contain."""

    def __init__(
        self, databases: Connections, tables: Sequence[SourceTable], met: MetLeaves
    ) -> None:
        schema = databases.config.target.schema
        self._databases = databases
        self._tables = tables
        self._met = met
        self._ledger = Ledger(databases.target, schema, databases.config.source.slot)
        self._leaves = Leaves(databases.target, schema)

    def check(self, observed: Observed, stored: Mapping[str, StoredTable]) -> None:
        """Have tables compared that were rewritten, altered, or not delivered for a while."""
        met = self._met.now()  # before the look, so that one which is not found has gone
        others = {
            name: known
            for name, known in stored.items()
            if known.state is not None and (met.get(name) or _differs(name, observed, known))
        }
        if not others:
            return
        listed = [s.table.oid for s in self._tables if s.table.partitioned]
        now = self._databases.coverage.observe(self._tables, listed) if listed else observed
        for name, known in others.items():
            shape = now.shapes.get(name)
            if shape is None:  # it is not delivered any more, and the next look says so
                continue
            if shape.own != known.shape or known.leaf_digest is None:
                self._ledger.compare_again([name], shape)
                log.info("table or its publication was altered, every row is compared", table=name)
                continue
            passed = met.get(name, frozenset()) - shape.leaves.keys()
            if passed or shape.digest != known.leaf_digest:
                self._note_leaves(name, shape, known.leaf_digest, passed)
        self._met.forget(met)

    def _note_leaves(self, name: str, shape: Shape, before: str, passed: Collection[int]) -> None:
        """Note what follows from other leaves than before, and from those that came and went."""
        known = {**self._leaves.known(name), **dict.fromkeys(passed, "")}
        new = list(shape.leaves.keys() - known.keys())
        empty = never_filled(self._databases.source, new) if new else ()
        changes = leaf_changes(known, shape.leaves, empty)
        noted = self._leaves.note(name, shape, before, changes)
        if noted and (changes.compared or changes.orphans):
            compared = sorted(changes.compared)
            log.info("partitions were changed", table=name, compared=compared)


def _differs(name: str, observed: Observed, known: StoredTable) -> bool:
    shape = observed.shapes.get(name)
    if shape is None:
        return False
    return (shape.own, observed.digests[name]) != (known.shape, known.leaf_digest)
