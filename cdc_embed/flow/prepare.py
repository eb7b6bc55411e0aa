"""From a range of changes to a plan with its vectors in hand: look up, decide, read again, embed.

Runs in the worker thread, one batch at a time, on facts that the loop hands over. It changes
nothing in the target; all it may do to a range is cut it shorter, so that embedding it takes
about as long as a batch should.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cdc_embed.change.batch import Batch, RowId
from cdc_embed.change.document import Key, Table
from cdc_embed.change.knowledge import ABSENT, State
from cdc_embed.change.pending import Later
from cdc_embed.change.plan import Plan, Texts, Write, plan, rows_to_look_up
from cdc_embed.change.transaction import Change, Event
from cdc_embed.flow.embedding import EmbeddingRunner
from cdc_embed.flow.patience import Patience

RowReader = Callable[[Table, Mapping[Key, int]], dict[Key, Texts | None]]
LookUp = Callable[[Sequence[RowId]], dict[RowId, State]]
FindDonors = Callable[[Sequence[tuple[Table, bytes]]], set[tuple[Table, bytes]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """What the loop hands over: changes, and the facts about them that only it has."""

    events: Sequence[Event]
    known: dict[RowId, State]
    """Stored states of rows that need no look-up."""
    arriving: frozenset[tuple[Table, bytes]]
    """Chunks that batches in flight will have stored."""
    replaced: frozenset[RowId]
    """Rows that a pending change replaces."""
    needed: frozenset[RowId]
    """Rows that must not be left out: a pending change carries their text on, or they have been
    left out for long enough."""


@dataclass(slots=True, kw_only=True)
class Ready:
    """A batch that can be written: every action decided, every vector in hand or in the target."""

    plan: Plan
    vectors: dict[bytes, NDArray[np.float32]]
    rest: Sequence[Event]
    """The events of the range that did not fit."""
    reused: int
    """Chunks whose vector comes from a stored one."""


@dataclass(slots=True)
class _Facts:
    """What was found out about a range; kept when it is cut and planned again."""

    states: dict[RowId, State]
    refetched: dict[RowId, Texts | None] = field(default_factory=dict)
    donors: dict[tuple[Table, bytes], bool] = field(default_factory=dict)


class Preparer:
    """Prepares batches with one embedder, one target and one source."""

    def __init__(
        self,
        *,
        look_up: LookUp,
        find_donors: FindDonors,
        read_rows: RowReader,
        runner: EmbeddingRunner,
        patience: Patience,
    ) -> None:
        self._look_up = look_up
        self._find_donors = find_donors
        self._read_rows = read_rows
        self._runner = runner
        self._patience = patience

    def prepare(self, work: Range) -> Ready:
        """The plan of a range, or of as much of it as should be embedded at once."""
        facts = _Facts(dict(work.known))
        events: Sequence[Event] = work.events
        rest: Sequence[Event] = ()
        planned, wanted = self._plan(work, events, rest, facts)
        cut = self._cut(events, planned, wanted)
        if cut < len(events):
            events, rest = events[:cut], events[cut:]
            planned, wanted = self._plan(work, events, rest, facts)
        texts = planned.texts()
        embedded = self._runner.embed(
            {digest: texts[table, digest] for table, digest in wanted},
            {digest: table.max_tokens for table, digest in wanted if table.max_tokens},
        )
        planned.refuse(embedded.refused)
        return Ready(
            plan=planned,
            vectors=embedded.vectors,
            rest=rest,
            reused=len(texts) - len(wanted),
        )

    def _plan(
        self, work: Range, events: Sequence[Event], rest: Sequence[Event], facts: _Facts
    ) -> tuple[Plan, list[tuple[Table, bytes]]]:
        """A plan without open questions, and the chunks that must be embedded for it."""
        batch = Batch.of(events)
        left_out = _left_out(batch, work, Later(rest))
        unknown = [row for row in rows_to_look_up(batch, left_out) if row not in facts.states]
        if unknown:
            found = self._patience.keep_trying("target", lambda: self._look_up(unknown))
            facts.states |= {row: found.get(row, ABSENT) for row in unknown}
        planned = plan(batch, facts.states, left_out=left_out, refetched=facts.refetched)
        if planned.refetch:
            self._refetch(planned, facts)
            planned = plan(batch, facts.states, left_out=left_out, refetched=facts.refetched)
        return planned, self._to_embed(planned, work, facts)

    def _refetch(self, planned: Plan, facts: _Facts) -> None:
        wanted: dict[Table, dict[Key, int]] = {}
        for row in planned.refetch:
            xid = planned.batch.images[row].change.xid
            wanted.setdefault(row[0], {})[row[1]] = xid
        for table, keys in wanted.items():
            found = self._patience.keep_trying("source", partial(self._read_rows, table, keys))
            facts.refetched |= {(table, key): texts for key, texts in found.items()}

    def _to_embed(self, planned: Plan, work: Range, facts: _Facts) -> list[tuple[Table, bytes]]:
        """Chunks with no stored vector; each text once, whichever tables want it."""
        chunks = planned.texts()
        unknown = [c for c in chunks if c not in work.arriving and c not in facts.donors]
        if unknown:
            found = self._patience.keep_trying("target", lambda: self._find_donors(unknown))
            facts.donors |= {chunk: chunk in found for chunk in unknown}
        missing = [c for c in chunks if c not in work.arriving and not facts.donors[c]]
        return list({digest: (table, digest) for table, digest in missing}.values())

    def _cut(
        self, events: Sequence[Event], planned: Plan, wanted: Sequence[tuple[Table, bytes]]
    ) -> int:
        """How many of the events to take, so that embedding takes as long as a batch should."""
        characters = self._runner.rate.characters_per_batch
        if len(wanted) <= self._runner.least_texts:
            return len(events)
        costs = _costs(planned, wanted)
        texts, spent = 0, 0
        for place, event in enumerate(events):
            if not isinstance(event, Change):
                continue
            cost = costs.pop((event.table, event.key), 0)
            texts += cost > 0
            spent += cost
            if texts > self._runner.least_texts and spent > characters:
                return place
        return len(events)


def _left_out(batch: Batch, work: Range, later: Later) -> frozenset[RowId]:
    """Rows that a later change replaces, with nothing that needs what this batch says of them."""
    return frozenset(
        row
        for row in batch.images
        if (row in work.replaced or later.replaces(row))
        and not (row in work.needed or later.needs(row))
    )


def _costs(planned: Plan, wanted: Sequence[tuple[Table, bytes]]) -> dict[RowId, int]:
    """Characters to embed for each row; a text that several want counts for the first."""
    open_chunks = dict.fromkeys(wanted)
    costs: dict[RowId, int] = {}
    for row, action in planned.actions.items():
        if isinstance(action, Write):
            for chunk in action.document.chunks:
                if (row[0], chunk.hash) in open_chunks:
                    del open_chunks[row[0], chunk.hash]
                    costs[row] = costs.get(row, 0) + len(chunk.text)
    return costs


def rows_of(events: Sequence[Event]) -> set[RowId]:
    """The rows that some changes touch."""
    changes = (event for event in events if isinstance(event, Change))
    return {
        (change.table, key) for change in changes for key in (change.key, change.old_key) if key
    }
