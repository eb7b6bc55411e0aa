"""The proof that a comparison saw every row and every document of a table.

The comparison reads rows by their key, part by part, as the backfill does. A mistake about the key
or its order would hide the same rows from both. So the databases are asked what such a mistake
cannot change (their catalogues for the key, ``count(*)`` for the rows). Whatever differs is an
error that names the table, never a number of fresh rows.

A part is proven in its own snapshot (``source/rows.py``). At the end one snapshot tells the number
of all rows and of those in all parts, which must be the same, whoever writes meanwhile: a row that
no part has is lost. The number can differ from the rows that were read by the rows that came and
went meanwhile, and the log tells their number. On a table at rest both are equal.
"""

from typing import Final

from cdc_embed.change.compare import key_difference
from cdc_embed.change.document import Key, Table
from cdc_embed.errors import TargetRefusedError, UnprovenError
from cdc_embed.reconcile.slices import Work
from cdc_embed.source.rows import Scan

MOST_BOUNDS: Final = 10_000
"""The bounds of parts that are kept; of more every second one goes, and two parts become one."""


class Proof:
    """The proof of one table's comparison, from its beginning to its end."""

    def __init__(self, work: Work, table: Table) -> None:
        self._work = work
        self._table = table
        self._rows_read = 0
        self._bounds: list[Key] = []
        self._expect_key()

    def part_read(self, scan: Scan) -> None:
        """Note a part of the table, and its last key, if another part follows."""
        self._rows_read += len(scan.rows)
        if scan.more:
            self._bounds.append(next(reversed(scan.rows)))
        if len(self._bounds) > MOST_BOUNDS:
            del self._bounds[::2]

    def finish(self, orphans: int) -> None:
        """Raise ``UnprovenError`` if the comparison left a row out, or the search view a
        document."""
        self._expect_key()
        self._expect_rows()
        self._expect_documents(orphans)

    def _expect_key(self) -> None:
        real = self._work.slices.key_columns(self._table)
        difference = key_difference(real, self._work.stored.stored_key_columns(self._table))
        if difference:
            raise self._error(difference)
        if [column.name for column in real] != [column.name for column in self._table.key]:
            raise self._error("its key has changed since this service began")

    def _expect_rows(self) -> None:
        rows, in_parts = self._work.counts.rows(self._table, self._bounds)
        if in_parts != rows:
            raise self._error(f"{in_parts} rows are in the parts that were read, it has {rows}")
        # the log has told then of every row that came or went before
        self._work.slices.wait_until_durable()
        if abs(rows - self._rows_read) > self._work.term.lane.moves(self._table):
            raise self._error(f"{self._rows_read} rows were read, it has {rows}")

    def _expect_documents(self, orphans: int) -> None:
        """Raise if the view hides more documents than those without a row, which a join hides."""
        try:
            shown, stored = self._work.counts.documents(self._table)
        except TargetRefusedError as exc:  # it is gone, or may not be read
            raise self._error(f"{exc} ({exc.hint})") from exc
        if abs(stored - shown) > orphans + self._work.term.lane.moves(self._table):
            raise self._error(f"the search view shows {shown} documents, {stored} are stored")

    def _error(self, problem: str) -> UnprovenError:
        return UnprovenError(table=self._table.full_name, problem=problem)
