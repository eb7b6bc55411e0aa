"""Deferred rows: read by key, embedded beside the stream, and given their place in its order.

A thread of its own, because a text can take minutes and nothing waits for it. It reads the rows as
they are now and embeds them; the loop then places them between two ranges of the log and writes
those that are still deferred (``flow/examine.py``). A later change of a row, received meanwhile,
wins.

A row whose text is not taken is tried again after a while that doubles, each row for itself. In an
outage the first text waits for its end, and all others behind it.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cdc_embed.change.action import Row
from cdc_embed.change.batch import Batch, RowId
from cdc_embed.change.document import Key, Table
from cdc_embed.change.knowledge import UNKNOWN, Basis
from cdc_embed.change.plan import Cut, Plan, read_again
from cdc_embed.flow.facts import BatchFacts
from cdc_embed.flow.supply import VectorSupply, wanted_texts
from cdc_embed.reconcile.slices import Work
from cdc_embed.source.rows import Scan
from cdc_embed.target.deferred import DeferredRows

PAGE_ROWS: Final = 256
MOST: Final = 128
"""The rows that are embedded together. It is one at first, and after one that is not taken for the
first time, because another one is often not taken either, and costs least alone; then twice as
many. All go together while one server of several hangs."""
FIRST_DELAY: Final = 1.0
LONGEST_DELAY: Final = 30.0
"""The seconds before a row is tried again."""
MOST_DELAYED: Final = 10_000
"""The rows whose delays are remembered; beyond it some are tried sooner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """The way of deferred rows to vectors."""

    rows: DeferredRows
    supply: VectorSupply
    cut: Cut


class DeferredReader:
    """Embeds the deferred rows of one term, again and again, until the term ends."""

    def __init__(
        self,
        *,
        work: Work,
        embedding: Embedding,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``work`` has a slice reader that no other thread uses."""
        self._work = work
        self._embedding = embedding
        self._clock = clock
        self._lane = work.term.lane
        self._most = 1
        self._delayed: dict[RowId, tuple[int, float]] = {}
        """The rows whose texts were not taken, with how often, and when they are tried again."""
        self._due = float("inf")
        self._looked_at: list[Table] | None = None
        """The tables of the last look; None before the first."""
        self.problem = ""
        """The number of rows that wait, and the last failure; for ``status``."""

    @property
    def has_work(self) -> bool:
        """Whether a row is due, or a table is to be looked at; found without asking anybody."""
        if self._lane.deferred.is_set() or self._delivered() != self._looked_at:
            return True
        return self._clock() >= self._due

    def note(self, trouble: Exception | None) -> None:
        """Do nothing, because the rows wait, and the stream tells of a database that is away."""

    def turn(self) -> None:
        """Try every row that is due, in the order in which they were deferred."""
        self._lane.deferred.clear()
        self._looked_at = tables = self._delivered()
        waiting, last, problem = 0, 0, ""
        gone = set(self._delayed)  # by a later change, or because the row was deleted
        while page := self._embedding.rows.page(tables, last, PAGE_ROWS):
            last = page[-1].id
            gone.difference_update(note.row for note in page)
            due = [note.row for note in page if self._is_due(note.row)]
            waiting += len(page) - len(due)
            for table in dict.fromkeys(table for table, _ in due):
                left, why = self._try(table, [key for t, key in due if t is table])
                waiting, problem = waiting + left, why or problem
        self._forget(gone)
        why = problem or self.problem.partition(": ")[2]
        self.problem = f"{waiting} rows wait for the embedder: {why}" if waiting else ""
        self._due = min((due for _, due in self._delayed.values()), default=float("inf"))

    def _delivered(self) -> list[Table]:
        undelivered = self._work.undelivered.problems
        return [table for table in self._work.tables if table.full_name not in undelivered]

    def _is_due(self, row: RowId) -> bool:
        return row not in self._delayed or self._clock() >= self._delayed[row][1]

    def _try(self, table: Table, keys: Sequence[Key]) -> tuple[int, str]:
        """Embed rows, a few at a time; return the number of those left, and the last failure."""
        left, problem = 0, ""
        while keys:
            count = MOST if self._embedding.supply.runner.hangs else self._most
            part, keys = keys[:count], keys[count:]
            for scan in self._work.slices.read_deferred(table, part):
                untaken, why = self._settle(table, scan)
                first = any((table, key) not in self._delayed for key in untaken)
                self._delay(table, untaken)
                left, problem = left + len(untaken), why or problem
                self._most = 1 if first else min(MOST, 2 * self._most)
        return left, problem

    def _settle(self, table: Table, scan: Scan) -> tuple[set[Key], str]:
        """Embed rows and have them written; return those that are not, and the failure."""
        facts = BatchFacts()
        untaken, problem = self._embed(table, scan, facts)
        rows = {key: row for key, row in scan.rows.items() if key not in untaken}
        if rows:
            settled = replace(scan, rows=rows)
            hidden = self._work.slices.hand_over_deferred(table, settled, facts)
            if hidden:
                self._embedding.supply.runner.kept.keep(facts.vectors)
            self._forget((table, key) for key in rows.keys() - hidden)
            untaken |= hidden
        return untaken, problem

    def _embed(self, table: Table, scan: Scan, facts: BatchFacts) -> tuple[set[Key], str]:
        """Embed the texts of rows; return the rows whose texts are not taken, and why."""
        supply, cut = self._embedding.supply, facts.cutting(self._embedding.cut)
        rows: dict[Key, Row] = {key: row for key, row in scan.rows.items() if row is not None}
        planned = Plan(Batch())
        for key, row in rows.items():
            planned.actions[table, key] = read_again(table, row, UNKNOWN, cut)
        wanted = supply.wanted(planned, Basis(states={}), facts, {})
        embedded = supply.embed(wanted_texts(planned, wanted), facts, None)
        untaken = {key for _, key in planned.drop_texts(facts.untaken)}
        facts.untaken.clear()
        return untaken, next(iter(embedded.untaken.values()), "")

    def _delay(self, table: Table, keys: Collection[Key]) -> None:
        for key in keys:
            times, _ = self._delayed.pop((table, key), (0, 0.0))
            seconds = min(LONGEST_DELAY, FIRST_DELAY * 2.0**times)
            self._delayed[table, key] = times + 1, self._clock() + seconds
        while len(self._delayed) > MOST_DELAYED:
            del self._delayed[next(iter(self._delayed))]

    def _forget(self, rows: Iterable[RowId]) -> None:
        for row in rows:
            self._delayed.pop(row, None)
