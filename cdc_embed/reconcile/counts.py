"""The counts of whole tables, which a comparison must have seen.

A count can take long, so it has sessions of its own that are open only meanwhile, and it gives way.
A statement that waits for it cancels it (``postgres/giving_way.py``), and it is tried again later.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cdc_embed.change.document import Key, Table
from cdc_embed.errors import SourceUnavailableError, TargetUnavailableError, UnprovenError
from cdc_embed.postgres.side import CANCELLED, LOCKED
from cdc_embed.source.rows import RowReader
from cdc_embed.target.stored import StoredDocuments

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCounter:
    """Counts whole tables; nothing else waits for it."""

    source: RowReader
    target: StoredDocuments
    make_room: Callable[[], None]
    """A function that closes the session in which rows are read, so that one is open at a time."""
    pause: Callable[[float], None]
    """A function that waits, and raises when the term ends first."""
    pauses: Sequence[float]
    """The seconds between the tries of a count for which statements of others wait."""

    def rows(self, table: Table, bounds: Sequence[Key]) -> tuple[int, int]:
        """Return the number of rows in the source, whatever their key, and of those in the parts
        between these bounds, in one snapshot.

        Raises ``UnprovenError`` if statements of others waited for it each time.
        """

        def count(counted: Table) -> tuple[int, int]:
            return self.source.count(counted, bounds)

        return self._count(table, count, self.source.close)

    def documents(self, table: Table) -> tuple[int, int]:
        """Return (documents that the search view shows, documents that are stored); raises as
        ``rows``."""
        return self._count(table, self.target.count_shown, self.target.close)

    def _count(self, table: Table, count: Callable[[Table], T], close: Callable[[], None]) -> T:
        self.make_room()
        for pause in (*self.pauses, None):
            try:
                return count(table)
            except (SourceUnavailableError, TargetUnavailableError) as exc:
                state = exc.fields.get("state")
                if state not in {CANCELLED, LOCKED} or (state == LOCKED and pause is None):
                    raise
            finally:
                close()
            if pause is not None:
                self.pause(pause)
        raise UnprovenError(
            table=table.full_name,
            problem="it could not be counted, because each count was cancelled, so that no ALTER "
            "TABLE or other statement waits for it; verify again after your migration",
        )
