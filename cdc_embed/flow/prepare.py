"""The way from a range of changes to a plan with vectors: look up, decide, read again, embed.

Runs in the worker thread, one batch at a time, on facts that the loop hands over. It changes
nothing in the target. It can use fewer events than it was given, so that embedding them takes
about as long as a batch should. A batch can be prepared again: what was found out at a cost stays
in its ``BatchFacts``, and is not paid for twice.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from cdc_embed.change.action import Row, Write
from cdc_embed.change.batch import Batch, RowId
from cdc_embed.change.document import Key, Table
from cdc_embed.change.event import Change, Event
from cdc_embed.change.knowledge import ABSENT, Basis
from cdc_embed.change.pending import LaterChanges
from cdc_embed.change.plan import Cut, Plan, plan, rows_to_look_up
from cdc_embed.flow.embedding import EmbeddingRunner
from cdc_embed.flow.facts import BatchFacts
from cdc_embed.flow.going_on import OthersBehind, nothing_behind
from cdc_embed.flow.supply import ChunkId, Prepared, StoreReader, VectorSupply, wanted_texts

ReadRows = Callable[[Table, Mapping[Key, int]], dict[Key, Row | None]]
"""A function that reads the first of some rows, one at least: as many as should be in memory
together."""
MOST_CHARACTERS: Final = 4 << 20
"""Characters that are read again together, of all tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Changes that the loop hands over, with the facts about them that only it has."""

    events: Sequence[Event]
    replaced: frozenset[RowId]
    """Rows that a pending change replaces."""
    needed: frozenset[RowId]
    """Rows that must not be left out: a pending change carries their text on, or they have been
    left out for long enough."""
    whole: bool = False
    """Whether all of its events are used, because what comes after them is on its way already."""
    others_wait: OthersBehind = nothing_behind
    """Whether something else than new rows waits behind it."""


class Preparer:
    """Prepares batches of changes with one embedder, one target and one source."""

    def __init__(
        self, *, store: StoreReader, read_rows: ReadRows, cut: Cut, supply: VectorSupply
    ) -> None:
        self.store = store
        self.read_rows = read_rows
        self.cut = cut
        self.supply = supply

    def prepare(self, work: Range, basis: Basis, facts: BatchFacts) -> Prepared:
        """Return the plan of a range, or of as much of it as should be embedded at once."""
        runner = self.supply.runner
        attempt = _Attempt(self, work, basis, facts)
        used, planned, wanted = attempt.plan(len(work.events))
        # in an outage embedding takes no time: texts are left if the log is to be read on
        if not (work.whole or runner.outage) and len(wanted) > runner.least_texts:
            fitting = _fitting(work.events[:used], _costs(planned, wanted), runner)
            if fitting < used:
                used, planned, wanted = attempt.plan(fitting)
        texts = wanted_texts(planned, wanted)
        self.supply.embed(
            texts, facts, lambda: not planned.only_texts or work.others_wait(outage=runner.outage)
        )
        return replace(self.supply.finish(planned, facts), used=used)


class _Attempt:
    """One preparation of a range, with what was looked up for it alone."""

    def __init__(self, tools: Preparer, work: Range, basis: Basis, facts: BatchFacts) -> None:
        self._tools = tools
        self._work = work
        self._basis = basis
        self._facts = facts
        self._states = dict(basis.states)
        self._donors: dict[ChunkId, bool] = {}

    def plan(self, used: int) -> tuple[int, Plan, dict[bytes, ChunkId]]:
        """Return a plan of the first ``used`` events, and the chunks to be embedded for it.

        It is a plan of fewer events if all rows that must be read again would take too much memory.
        """
        planned = self._plan(used)
        while planned.refetch:
            unread = self._read_again(planned, self._work.events[:used])
            if unread and not self._work.whole:
                used = next(
                    place
                    for place, event in enumerate(self._work.events)
                    if isinstance(event, Change) and (event.table, event.key) in unread
                )
            planned = self._plan(used)
        planned.refuse_rows(self._facts.refused_rows)
        supply = self._tools.supply
        return used, planned, supply.wanted(planned, self._basis, self._facts, self._donors)

    def _plan(self, used: int) -> Plan:
        work, facts = self._work, self._facts
        batch = Batch.of(work.events[:used])
        left_out = _left_out(batch, work, LaterChanges(work.events[used:]))
        self._look_up(rows_to_look_up(batch, left_out))
        return plan(
            batch,
            self._states,
            cut=facts.cutting(self._tools.cut),
            left_out=left_out,
            refetched=self._reads(batch),
        )

    def _look_up(self, rows: Iterable[RowId]) -> None:
        unknown = [row for row in rows if row not in self._states]
        if unknown:
            look_up = partial(self._tools.store.look_up, unknown)
            found = self._tools.supply.patience.keep_trying("target", look_up)
            for row in unknown:
                self._states[row] = self._basis.stored(row, found.get(row, ABSENT))

    def _reads(self, batch: Batch) -> dict[RowId, Row | None]:
        """Return the rows that were read for this very change: for a later one they can be old."""
        images = batch.images
        return {
            row: read
            for row, (change, read) in self._facts.reads.items()
            if row in images and images[row].change is change
        }

    def _read_again(self, planned: Plan, events: Sequence[Event]) -> set[RowId]:
        """Read rows in the order of their first change, the first one at least; return those that
        are unread."""
        unread = set(planned.refetch)
        images = planned.batch.images
        wanted: dict[Table, dict[Key, int]] = {}
        for table, key in _rows_in_order(events):
            if (table, key) in unread:
                wanted.setdefault(table, {})[key] = images[table, key].change.xid
        characters = 0
        for table, keys in wanted.items():
            if characters > MOST_CHARACTERS:
                break
            read = partial(self._tools.read_rows, table, keys)
            found = self._tools.supply.patience.keep_trying("source", read)
            for key, row in found.items():
                self._facts.reads[table, key] = images[table, key].change, row
                characters += sum(len(text or "") for text in row.texts) if row else 0
            unread -= {(table, key) for key in found}
        return unread


def _rows_in_order(events: Sequence[Event]) -> Iterable[RowId]:
    """Return the rows of some changes, in the order of their first change under this key."""
    changes = (event for event in events if isinstance(event, Change))
    return dict.fromkeys((change.table, change.key) for change in changes)


def _fitting(events: Sequence[Event], costs: dict[RowId, int], runner: EmbeddingRunner) -> int:
    """Return how many events to use, so that embedding takes as long as a batch should."""
    characters = runner.rate.characters_per_batch
    texts, spent = 0, 0
    for place, event in enumerate(events):
        if not isinstance(event, Change):
            continue
        cost = costs.pop((event.table, event.key), 0)
        texts += cost > 0
        spent += cost
        if texts > runner.least_texts and spent > characters:
            return place
    return len(events)


def _left_out(batch: Batch, work: Range, later: LaterChanges) -> frozenset[RowId]:
    """Return rows that a later change replaces, if nothing needs this batch's version of them."""
    return frozenset(
        row
        for row in batch.images
        if (row in work.replaced or later.replaces(row))
        and not (row in work.needed or later.needs(row))
    )


def _costs(planned: Plan, wanted: Mapping[bytes, ChunkId]) -> dict[RowId, int]:
    """Return the characters to embed for each row; a shared text counts for the first."""
    open_chunks = set(wanted.values())
    costs: dict[RowId, int] = {}
    for row, action in planned.actions.items():
        if isinstance(action, Write):
            for chunk in action.document.chunks:
                if (row[0], chunk.hash) in open_chunks:
                    open_chunks.discard((row[0], chunk.hash))
                    costs[row] = costs.get(row, 0) + len(chunk.text)
    return costs


def rows_of(events: Sequence[Event]) -> set[RowId]:
    """Return the rows that some changes touch."""
    changes = (event for event in events if isinstance(event, Change))
    return {
        (change.table, key) for change in changes for key in (change.key, change.old_key) if key
    }
