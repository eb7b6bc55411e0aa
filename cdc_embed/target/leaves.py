"""The leaf partitions that a comparison takes into account, in the table ``reconcile``.

The watch notes which leaves are there and which of them must be compared alone; the reconciler
takes off the list what it has compared. A leaf that was changed meanwhile stays on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from psycopg2 import sql

from cdc_embed.change.shape import LeafChanges, Shape
from cdc_embed.postgres.ddl import compose
from cdc_embed.postgres.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingWork:
    """The rest of a comparison beside the pass over all rows."""

    leaves: Mapping[int, str]
    """The leaves whose rows are to be compared, with the shape of each."""
    orphans: bool
    """Whether stored keys without a row are to be looked for."""


class Leaves:
    """Reads and writes the leaves of comparisons."""

    def __init__(self, session: Session, schema: str) -> None:
        self._session = session
        self._schema = schema

    def known(self, table_name: str) -> dict[int, str]:
        """Return the shape of each leaf that is taken into account, by its oid."""
        rows = self._session.fetch(
            "reconcile", self._sql("read_leaves"), {"table_name": table_name}
        )
        return {int(oid): token for oid, token in (rows[0][0] if rows else {}).items()}

    def note(self, table_name: str, shape: Shape, before: str, changes: LeafChanges) -> bool:
        """Take the present leaves into account, and what follows from their changes.

        ``before`` is the digest of the leaves that the changes are from. Returns false, and does
        nothing, if the comparison began anew meanwhile.
        """
        values = {
            **leaf_values(shape),
            "table_name": table_name,
            "shape": shape.own,
            "before": before,
            "found": list(shape.leaves),
            "changed": sorted(changes.compared),
            "orphans": changes.orphans,
        }
        with self._session.transaction("reconcile") as cursor:
            cursor.execute(self._sql("note_leaves"), values)
            noted: bool = cursor.rowcount == 1
        return noted

    def pending(self, table_name: str) -> PendingWork:
        """Return the rest of a comparison."""
        values = {"table_name": table_name}
        rows = self._session.fetch("reconcile", self._sql("pending_leaves"), values)
        leaves = {row[0]: row[1] for row in rows if row[0] is not None}
        return PendingWork(leaves=leaves, orphans=any(row[2] for row in rows))

    def compared(self, table_name: str, run: int, leaf: int, token: str) -> None:
        """Note that a leaf of this shape is compared; nothing if it was changed meanwhile."""
        values = {"table_name": table_name, "run": run, "leaf": leaf, "token": token}
        with self._session.transaction("reconcile") as cursor:
            cursor.execute(self._sql("leaf_compared"), values)

    def _sql(self, name: str) -> sql.Composed:
        return compose("target/reconcile", name, schema=sql.Identifier(self._schema))


def leaf_values(shape: Shape | None) -> dict[str, str | None]:
    """Return the values of the columns that say which leaves are taken into account."""
    if shape is None:
        return {"leaves": "{}", "leaf_digest": None}
    leaves = {str(oid): token for oid, token in shape.leaves.items()}
    return {"leaves": orjson.dumps(leaves).decode(), "leaf_digest": shape.digest}
